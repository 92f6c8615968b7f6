package glance

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// The statuses of an image that this service uses.
const (
	queued      = "queued"
	saving      = "saving"
	uploading   = "uploading"
	importing   = "importing"
	active      = "active"
	deactivated = "deactivated"
	deleted     = "deleted"
)

// image is one image's metadata.
type image struct {
	id, status, owner, visibility string
	name                          *string
	diskFormat, containerFormat   *string
	size, virtualSize             *int64
	checksum, hash                *string // MD5 and SHA-512, hex
	minDisk, minRAM               int64
	protected, hidden             bool
	tags                          []string
	properties                    map[string]string
	stores                        []string // which hold the bytes, in the order in which they came
	members                       []*member
	created, updated              time.Time
	urlOf                         func(store string) string
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// MarshalJSON is the image as the API shows it
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/images.py, _format_image).
func (i *image) MarshalJSON() ([]byte, error) {
	var algo *string
	if i.hash != nil {
		name := "sha512"
		algo = &name
	}
	self := "/v2/images/" + i.id
	locations := []any{}
	for _, store := range i.stores {
		locations = append(locations, map[string]any{"url": i.urlOf(store), "metadata": map[string]string{"store": store}})
	}
	d := map[string]any{}
	for key, value := range i.properties {
		d[key] = value
	}
	maps.Copy(d, map[string]any{
		"id": i.id, "name": i.name, "status": i.status, "owner": i.owner, "visibility": i.visibility,
		"disk_format": i.diskFormat, "container_format": i.containerFormat, "size": i.size, "virtual_size": i.virtualSize,
		"checksum": i.checksum, "os_hash_algo": algo, "os_hash_value": i.hash, "min_disk": i.minDisk, "min_ram": i.minRAM,
		"protected": i.protected, "os_hidden": i.hidden, "tags": append([]string{}, i.tags...),
		"created_at": wire.Stamp(i.created), "updated_at": wire.Stamp(i.updated), "locations": locations,
		"self": self, "file": self + "/file", "schema": "/v2/schemas/image",
	})
	if len(i.stores) > 0 {
		d["stores"] = strings.Join(i.stores, ",")
		d["direct_url"] = i.urlOf(i.stores[0])
	}
	return json.Marshal(d)
}

// seenBy reports whether the API shows the image to the caller at all
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/db/sqlalchemy/api.py, is_image_visible).
func (i *image) seenBy(c wire.Caller) bool {
	if c.Admin() || i.owner == c.ProjectID || i.visibility == "public" || i.visibility == "community" {
		return true
	}
	return i.visibility == "shared" && slices.ContainsFunc(i.members, func(m *member) bool { return m.id == c.ProjectID })
}

// mine reports whether the caller may change the image; readers may not.
func (i *image) mine(c wire.Caller) bool {
	return c.Admin() || i.owner == c.ProjectID && c.Is("member")
}

// readableBy reports whether the caller may download an image that it sees: a mere reader may not.
func readableBy(c wire.Caller) bool { return c.Admin() || c.Is("member") }

// find answers the image of the path where the caller sees it.
func (s *Service) find(c call) (*image, error) {
	i := s.images[c.id()]
	if i == nil || !i.seenBy(c.caller) {
		return nil, noImage(c.id())
	}
	return i, nil
}

// own answers the image of the path where the caller may do with it what the policy rule says.
func (s *Service) own(c call, rule string) (*image, error) {
	i, err := s.find(c)
	if err == nil && !i.mine(c.caller) {
		return nil, forbidden(rule)
	}
	return i, err
}

func (s *Service) touch(i *image) { i.updated = s.kit.Clock() }

// shared is the image for the other services of the process.
func (i *image) shared() wire.Image {
	out := wire.Image{
		ID: i.id, Name: text(i.name), Status: i.status, Owner: i.owner, Visibility: i.visibility,
		DiskFormat: text(i.diskFormat), ContainerFormat: text(i.containerFormat), Checksum: text(i.checksum),
		MinDisk: i.minDisk, MinRAM: i.minRAM, Properties: maps.Clone(i.properties), Tags: slices.Clone(i.tags),
		CreatedAt: i.created, UpdatedAt: i.updated,
	}
	if i.size != nil {
		out.Size = *i.size
	}
	if i.virtualSize != nil {
		out.VirtualSize = *i.virtualSize
	}
	return out
}
