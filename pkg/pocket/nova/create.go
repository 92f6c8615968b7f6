package nova

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// createRequest is the server of POST /servers. Fields that it does not name are refused, as Nova's schema does.
type createRequest struct {
	Name             *string         `json:"name"`
	ImageRef         string          `json:"imageRef"`
	FlavorRef        any             `json:"flavorRef"`
	Networks         json.RawMessage `json:"networks"`
	Metadata         metadata        `json:"metadata"`
	Host             *string         `json:"host"`
	Hypervisor       *string         `json:"hypervisor_hostname"`
	KeyName          *string         `json:"key_name"`
	UserData         *string         `json:"user_data"`
	AvailabilityZone string          `json:"availability_zone"`
	ConfigDrive      any             `json:"config_drive"`
	AdminPass        string          `json:"adminPass"`
	Description      *string         `json:"description"`
	SecurityGroups   json.RawMessage `json:"security_groups"`
	Tags             json.RawMessage `json:"tags"`
	DiskConfig       string          `json:"OS-DCF:diskConfig"`
	MinCount         any             `json:"min_count"`
	MaxCount         any             `json:"max_count"`
	Hostname         string          `json:"hostname"`
	BlockDevices     json.RawMessage `json:"block_device_mapping_v2"`
	ReturnID         any             `json:"return_reservation_id"`
}

// createFields maps each field to the microversion (2.N) that brought it.
var createFields = map[string]int{
	"name": 1, "imageRef": 1, "flavorRef": 1, "networks": 1, "metadata": 1, "host": 74, "hypervisor_hostname": 74,
	"key_name": 1, "user_data": 1, "availability_zone": 1, "config_drive": 1, "adminPass": 1, "description": 19,
	"security_groups": 1, "tags": 52, "OS-DCF:diskConfig": 1, "min_count": 1, "max_count": 1, "hostname": 90,
	"block_device_mapping_v2": 1, "return_reservation_id": 1,
}

func readCreate(c *call) (*createRequest, error) {
	var body struct {
		Server json.RawMessage `json:"server"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return nil, malformed()
	}
	if body.Server == nil {
		return nil, badRequest("'server' is a required property")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body.Server, &fields); err != nil {
		return nil, badRequest("Invalid input for field/attribute server. Value: %s. is not of type 'object'", body.Server)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if since, known := createFields[name]; !known || !c.at(since) {
			return nil, badRequest("Invalid input for field/attribute server. Value: %s. Additional properties are not allowed ('%s' was unexpected)", body.Server, name)
		}
	}
	in := &createRequest{}
	if err := json.Unmarshal(body.Server, in); err != nil {
		return nil, asBadRequest(err, "server")
	}
	if in.ConfigDrive != nil && !slices.Contains(booleans, in.ConfigDrive) {
		return nil, badRequest("Invalid input for field/attribute config_drive. Value: %v. '%v' is not one of [True, 'True', 'TRUE', 'true', "+
			"'1', 'ON', 'On', 'on', 'YES', 'Yes', 'yes', False, 'False', 'FALSE', 'false', '0', 'OFF', 'Off', 'off', 'NO', 'No', 'no']", in.ConfigDrive, in.ConfigDrive)
	}
	switch {
	case in.Name == nil:
		return nil, badRequest("Invalid input for field/attribute server. Value: %s. 'name' is a required property", body.Server)
	case in.FlavorRef == nil:
		return nil, badRequest("Invalid input for field/attribute server. Value: %s. 'flavorRef' is a required property", body.Server)
	case in.Networks == nil && c.at(37):
		return nil, badRequest("Invalid input for field/attribute server. Value: %s. 'networks' is a required property", body.Server)
	case strings.TrimSpace(*in.Name) == "":
		return nil, badRequest("Invalid input for field/attribute name. Value: %s. '%s' is too short", *in.Name, *in.Name)
	}
	return in, nil
}

func (s *Server) createServer(c *call) (answer, error) {
	in, err := readCreate(c)
	if err != nil {
		return answer{}, err
	}
	if err := c.may("member", "servers:create"); err != nil {
		return answer{}, err
	}
	want, err := s.destination(c, in)
	if err != nil {
		return answer{}, err
	}
	image, err := s.imageFor(c, in)
	if err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	f := s.flavor(fmt.Sprint(in.FlavorRef))
	s.mu.Unlock()
	if f == nil {
		return answer{}, badRequest("Flavor %v could not be found.", in.FlavorRef)
	}
	if err := fits(image, f); err != nil {
		return answer{}, err
	}
	if in.KeyName != nil {
		return answer{}, badRequest("Invalid key_name provided.") // the pocket cloud keeps no key pairs
	}

	i := s.newInstance(c, in, image, *f)
	s.background(func(ctx context.Context) { s.build(ctx, i, want) })
	view := map[string]any{
		"id": i.ID, "links": s.links("servers", i.ID), "OS-DCF:diskConfig": "MANUAL", "adminPass": i.AdminPass,
		"security_groups": []any{map[string]any{"name": "default"}},
	}
	return answer{
		status: http.StatusAccepted, body: map[string]any{"server": view},
		header: http.Header{"Location": {s.deps.URL + "/v2.1/servers/" + i.ID}},
	}, nil
}

// destination is where the caller wants the guest.
type destination struct {
	host string
	zone string
	// forced skips the filters (availability zone "az:host"), but not the claim.
	forced bool
}

func (s *Server) destination(c *call, in *createRequest) (destination, error) {
	var want destination
	if in.Host != nil || in.Hypervisor != nil {
		if err := c.may("admin", "compute:servers:create:requested_destination"); err != nil {
			return want, err
		}
		for _, name := range []*string{in.Host, in.Hypervisor} {
			if name == nil {
				continue
			}
			if want.host != "" && want.host != *name { // no node has both names
				return want, badRequest("Compute host %s could not be found.", want.host)
			}
			if s.host(*name) == nil {
				return want, badRequest("Compute host %s could not be found.", *name)
			}
			want.host = *name
		}
	}
	zone, pinned, found := strings.Cut(in.AvailabilityZone, ":")
	want.zone = zone
	if found && pinned != "" { // an unknown host is found out by the scheduler only
		if err := c.may("admin", "servers:create:forced_host"); err != nil {
			return want, err
		}
		want.host, want.forced = pinned, true
	}
	if zone != "" && !slices.Contains(s.zones(), zone) {
		return want, badRequest("The requested availability zone is not available")
	}
	return want, nil
}

func (s *Server) imageFor(c *call, in *createRequest) (wire.Image, error) {
	if in.ImageRef == "" {
		return wire.Image{}, badRequest("Missing imageRef attribute")
	}
	if !uuidLike.MatchString(in.ImageRef) {
		return wire.Image{}, badRequest("Invalid input for field/attribute imageRef. Value: %s. '%s' is not valid under any of the given schemas", in.ImageRef, in.ImageRef)
	}
	image, err := s.deps.Images.Get(c.caller, in.ImageRef)
	if errors.Is(err, wire.ErrImageNotFound) {
		return image, badRequest("Can not find requested image")
	}
	if err != nil {
		return image, err
	}
	if image.Status != "active" {
		return image, badRequest("Image %s is not active.", in.ImageRef)
	}
	return image, nil
}

var uuidLike = regexp.MustCompile(`^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$`)

// booleans are what Nova's schema takes for one: the true ones first.
var booleans = []any{
	true, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes",
	false, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no",
}

const gib = 1 << 30

// fits is nova.compute.api._validate_flavor_image_nostatus.
func fits(image wire.Image, f *flavor) error {
	if image.MinRAM > f.RAM {
		return badRequest("Flavor's memory is too small for requested image.")
	}
	if f.Disk == 0 {
		return nil
	}
	if image.Size > f.Disk*gib {
		return badRequest("Flavor's disk is too small for requested image. Flavor disk is %d bytes, image is %d bytes.", f.Disk*gib, image.Size)
	}
	if image.MinDisk > f.Disk {
		return badRequest("Flavor's disk is smaller than the minimum size specified in image metadata. "+
			"Flavor disk is %d bytes, minimum size is %d bytes.", f.Disk*gib, image.MinDisk*gib)
	}
	return nil
}

func (s *Server) newInstance(c *call, in *createRequest, image wire.Image, f flavor) *instance {
	id := s.deps.NewID()
	i := &instance{
		ID: id, Name: *in.Name, Hostname: hostnameOf(*in.Name, id), Description: in.Description,
		ProjectID: c.caller.ProjectID, Project: c.caller.ProjectName, UserID: c.caller.UserID, User: c.caller.UserName,
		Image: image, Flavor: f, Metadata: maps.Clone(in.Metadata), UserData: in.UserData,
		ConfigDrive: slices.Contains(booleans[:len(booleans)/2], in.ConfigDrive),
		Zone:        strings.SplitN(in.AvailabilityZone, ":", 2)[0],
		Reservation: "r-" + wire.Hex(s.deps.NewID())[:8], AdminPass: in.AdminPass,
		VMState: "building", TaskState: "scheduling", Created: s.deps.Clock(),
		ask: askOf(c), built: make(chan struct{}), cancel: func() {},
	}
	if in.Hostname != "" {
		i.Hostname = in.Hostname
	}
	if i.Metadata == nil {
		i.Metadata = map[string]string{}
	}
	if i.AdminPass == "" {
		i.AdminPass = wire.Hex(s.deps.NewID())[:12]
	}
	i.Updated = i.Created
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	i.Label = fmt.Sprintf("instance-%08x", s.serial)
	s.instances[id] = i
	s.order = append(s.order, id)
	return i
}
