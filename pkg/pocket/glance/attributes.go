package glance

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

var (
	diskFormats      = strings.Fields("ami ari aki vhd vhdx vmdk raw qcow2 vdi iso ploop")
	containerFormats = strings.Fields("ami ari aki bare ovf ova docker compressed")
	visibilities     = strings.Fields("community public private shared")
	readOnly         = strings.Fields("created_at updated_at status checksum size virtual_size direct_url self file schema id os_hash_algo os_hash_value")
	disallowed       = strings.Fields("direct_url self file schema stores")
	reserved         = strings.Fields("location deleted deleted_at")
	base             = strings.Fields("name visibility protected os_hidden owner container_format disk_format tags min_ram min_disk")
)

func mismatch(format string, args ...any) error {
	return fail(http.StatusBadRequest, "Provided object does not match schema 'image': "+format, args...)
}

// checkKey refuses attributes that the service keeps for itself.
func checkKey(key string) error {
	if slices.Contains(reserved, key) || strings.HasPrefix(key, "os_glance") {
		return failDetail(http.StatusForbidden, "Attribute '%s' is reserved.", key)
	}
	if len(key) > 255 {
		return fail(http.StatusBadRequest, "Custom property should not be greater than 255 characters.")
	}
	return nil
}

// set gives one attribute a value from a request; unknown keys become properties, whose values must be strings.
func (i *image) set(key string, raw json.RawMessage, c wire.Caller) error {
	switch key {
	case "name":
		return decodeText(raw, &i.name, key, nil)
	case "disk_format":
		return decodeText(raw, &i.diskFormat, key, diskFormats)
	case "container_format":
		return decodeText(raw, &i.containerFormat, key, containerFormats)
	case "min_disk":
		return decodeCount(raw, &i.minDisk, key)
	case "min_ram":
		return decodeCount(raw, &i.minRAM, key)
	case "protected":
		return decodeInto(raw, &i.protected, key, "boolean")
	case "os_hidden":
		return decodeInto(raw, &i.hidden, key, "boolean")
	case "tags":
		if err := decodeInto(raw, &i.tags, key, "array"); err != nil {
			return err
		}
		slices.Sort(i.tags)
		i.tags = slices.Compact(i.tags)
		return nil
	case "visibility":
		return i.setVisibility(raw, c)
	case "owner":
		return i.setOwner(raw, c)
	case "locations":
		return forbidden("set_image_location")
	}
	var value string
	if json.Unmarshal(raw, &value) != nil || string(raw) == "null" {
		return mismatch("%s is not of type 'string'", raw)
	}
	i.properties[key] = value
	return nil
}

func (i *image) setVisibility(raw json.RawMessage, c wire.Caller) error {
	var value *string
	if err := decodeText(raw, &value, "visibility", visibilities); err != nil || value == nil {
		return mismatch("%s is not one of ['community', 'public', 'private', 'shared']", raw)
	}
	if *value == "public" && !c.Admin() {
		return forbidden("publicize_image")
	}
	i.visibility = *value
	return nil
}

func (i *image) setOwner(raw json.RawMessage, c wire.Caller) error {
	var value *string
	if err := decodeText(raw, &value, "owner", nil); err != nil {
		return err
	}
	if !c.Admin() && text(value) != i.owner {
		return failDetail(http.StatusForbidden, "You are not permitted to create images owned by '%s'", text(value))
	}
	i.owner = text(value)
	return nil
}

func decodeText(raw json.RawMessage, to **string, key string, allowed []string) error {
	var value *string
	if json.Unmarshal(raw, &value) != nil {
		return mismatch("%s is not of type 'null', 'string' Failed validating '%s'", raw, key)
	}
	if value != nil && allowed != nil && !slices.Contains(allowed, *value) {
		return mismatch("'%s' is not one of [None, '%s']", *value, strings.Join(allowed, "', '"))
	}
	if value != nil && len(*value) > 255 {
		return mismatch("'%s' is too long", *value)
	}
	*to = value
	return nil
}

func decodeCount(raw json.RawMessage, to *int64, key string) error {
	if err := decodeInto(raw, to, key, "integer"); err != nil {
		return err
	}
	if *to < 0 {
		return fail(http.StatusBadRequest, "Invalid value for option %s: must be >= 0", key)
	}
	return nil
}

func decodeInto(raw json.RawMessage, to any, key, kind string) error {
	if string(raw) == "null" || json.Unmarshal(raw, to) != nil {
		return mismatch("%s is not of type '%s' Failed validating '%s'", raw, kind, key)
	}
	return nil
}

// create is POST /v2/images.
func (s *Service) create(c call) (answer, error) {
	var body map[string]json.RawMessage
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	for _, key := range disallowed {
		if _, has := body[key]; has {
			return answer{}, fail(http.StatusForbidden, "Attribute '%s' is read-only.", key)
		}
	}
	if !c.caller.Admin() && !c.caller.Is("member") {
		return answer{}, forbidden("add_image")
	}
	now := s.kit.Clock()
	i := &image{id: s.kit.NewID(), status: queued, owner: c.caller.ProjectID, visibility: "shared",
		properties: map[string]string{}, created: now, updated: now}
	i.urlOf = s.locationOf(i.id)
	for key, raw := range body {
		if err := s.setNew(i, key, raw, c.caller); err != nil {
			return answer{}, err
		}
	}
	if s.images[i.id] != nil || s.gone[i.id] {
		return answer{}, fail(http.StatusConflict, "Image ID %s already exists!", i.id)
	}
	s.images[i.id] = i
	s.order = append(s.order, i.id)
	s.notify("create", i, nil)
	return answer{http.StatusCreated, i, map[string]string{
		"Location":                       s.kit.URL + "/v2/images/" + i.id,
		"OpenStack-image-import-methods": strings.Join(importMethods, ","),
		"OpenStack-image-store-ids":      strings.Join(s.opts.Stores, ","),
	}}, nil
}

func (s *Service) setNew(i *image, key string, raw json.RawMessage, caller wire.Caller) error {
	if key == "id" {
		var id string
		if json.Unmarshal(raw, &id) != nil || uuid.Validate(id) != nil {
			return mismatch("%s does not match '^([0-9a-fA-F]){8}-…'", raw)
		}
		i.id = id
		return nil
	}
	if slices.Contains(readOnly, key) {
		return fail(http.StatusForbidden, "Attribute '%s' is read-only.", key)
	}
	if err := checkKey(key); err != nil {
		return err
	}
	return i.set(key, raw, caller)
}

func (s *Service) show(c call) (answer, error) {
	i, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: i}, nil
}

// change is one operation of a JSON patch.
type change struct {
	Op    *string         `json:"op"`
	Path  *string         `json:"path"`
	Value json.RawMessage `json:"value"`
}

// patch is PATCH /v2/images/{id}: all changes or none.
func (s *Service) patch(c call) (answer, error) {
	if c.Header.Get("Content-Type") != "application/openstack-images-v2.1-json-patch" {
		return answer{}, fail(http.StatusUnsupportedMediaType, "")
	}
	var changes []change
	if err := c.decode(&changes); err != nil {
		return answer{}, fail(http.StatusBadRequest, "Request body must be a JSON array of operation objects.")
	}
	i, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	next := *i
	next.properties = map[string]string{}
	maps.Copy(next.properties, i.properties)
	for _, ch := range changes {
		if err := next.apply(ch, c.caller); err != nil {
			return answer{}, err
		}
	}
	if len(changes) > 0 {
		*i = next
		s.touch(i)
		s.notify("update", i, nil)
	}
	return answer{status: http.StatusOK, body: i}, nil
}

func (i *image) apply(ch change, caller wire.Caller) error {
	switch {
	case ch.Op == nil:
		return fail(http.StatusBadRequest, "Unable to find `op` in JSON Schema change. It must be one of the following: add, remove, replace.")
	case !slices.Contains([]string{"add", "remove", "replace"}, *ch.Op):
		return fail(http.StatusBadRequest, "Invalid operation: `%s`. It must be one of the following: add, remove, replace.", *ch.Op)
	case ch.Path == nil:
		return fail(http.StatusBadRequest, "Unable to find 'path' in JSON Schema change")
	case !strings.HasPrefix(*ch.Path, "/"):
		return fail(http.StatusBadRequest, "Pointer `%s` does not start with \"/\".", *ch.Path)
	case *ch.Op != "remove" && ch.Value == nil:
		return fail(http.StatusBadRequest, "Operation \"%s\" requires a member named \"value\".", *ch.Op)
	}
	key := (*ch.Path)[1:]
	if strings.Contains(key, "/") {
		return fail(http.StatusBadRequest, "Invalid JSON pointer for this resource: '%s'", *ch.Path)
	}
	key = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
	if slices.Contains(readOnly, key) {
		return fail(http.StatusForbidden, "Attribute '%s' is read-only.", key)
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if !i.mine(caller) {
		return forbidden("modify_image")
	}
	if key == "owner" && !caller.Admin() {
		return failDetail(http.StatusForbidden, "Owner can't be updated by non admin.")
	}
	_, has := i.properties[key]
	isBase := slices.Contains(base, key)
	switch {
	case *ch.Op == "remove" && isBase:
		return failDetail(http.StatusForbidden, "Property %s may not be removed.", key)
	case *ch.Op != "add" && !isBase && !has:
		return failDetail(http.StatusConflict, "Property %s does not exist.", key)
	case *ch.Op == "remove":
		delete(i.properties, key)
		return nil
	}
	return i.set(key, ch.Value, caller)
}
