package nova

import (
	"cmp"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func (s *Server) serverSummary(_ *call, i *instance) map[string]any {
	return map[string]any{"id": i.ID, "name": i.Name, "links": s.links("servers", i.ID)}
}

// serverView is GET /servers/{id} and each entry of /servers/detail; a list leaves nothing out
// (https://docs.openstack.org/api-ref/compute/#show-server-details).
func (s *Server) serverView(c *call, i *instance) map[string]any {
	view := s.serverSummary(c, i)
	view["status"] = i.status()
	view["tenant_id"], view["user_id"] = i.ProjectID, i.UserID
	view["metadata"] = i.Metadata
	view["hostId"] = hostID(i.ProjectID, i.Host)
	view["image"] = any("")
	if i.Image.ID != "" {
		view["image"] = map[string]any{"id": i.Image.ID, "links": []any{s.link("bookmark", "images", i.Image.ID)}}
	}
	view["flavor"] = s.embeddedFlavor(c, i)
	view["created"], view["updated"] = wire.Stamp(i.Created), wire.Stamp(i.Updated)
	view["addresses"], view["accessIPv4"], view["accessIPv6"] = map[string]any{}, "", ""
	view["OS-DCF:diskConfig"] = "MANUAL"
	if i.showsProgress() {
		view["progress"] = 0
	}
	view["OS-EXT-AZ:availability_zone"] = cmp.Or(i.Zone, defaultZone)
	view["config_drive"] = ""
	if i.ConfigDrive {
		view["config_drive"] = "True"
	}
	view["key_name"] = i.Key
	view["OS-SRV-USG:launched_at"] = stampOrNull(i.Launched, wire.MicroStamp)
	view["OS-SRV-USG:terminated_at"] = stampOrNull(i.Terminated, wire.MicroStamp)
	view["OS-EXT-STS:task_state"], view["OS-EXT-STS:vm_state"] = orNull(i.TaskState), i.VMState
	view["OS-EXT-STS:power_state"] = i.PowerState
	view["os-extended-volumes:volumes_attached"] = []any{}
	if i.Fault != nil && (i.VMState == "error" || i.VMState == "deleted") {
		view["fault"] = faultView(c, i.Fault)
	}
	s.adminView(c, i, view)
	newerView(c, i, view)
	return view
}

// adminView adds what only an admin sees.
func (s *Server) adminView(c *call, i *instance, view map[string]any) {
	if !c.caller.Admin() {
		return
	}
	view["OS-EXT-SRV-ATTR:host"] = orNull(i.Host)
	view["OS-EXT-SRV-ATTR:hypervisor_hostname"] = orNull(i.Host)
	view["OS-EXT-SRV-ATTR:instance_name"] = ""
	if i.Host != "" || i.VMState == "error" { // the name comes with the row, which comes with the host
		view["OS-EXT-SRV-ATTR:instance_name"] = i.Label
	}
	if c.at(3) {
		view["OS-EXT-SRV-ATTR:hostname"] = i.Hostname
		view["OS-EXT-SRV-ATTR:reservation_id"] = i.Reservation
		view["OS-EXT-SRV-ATTR:launch_index"] = 0
		view["OS-EXT-SRV-ATTR:kernel_id"] = i.Image.Properties["kernel_id"]
		view["OS-EXT-SRV-ATTR:ramdisk_id"] = i.Image.Properties["ramdisk_id"]
		view["OS-EXT-SRV-ATTR:root_device_name"] = orNull(s.rootDevice(i.Host))
		view["OS-EXT-SRV-ATTR:user_data"] = i.UserData
	}
	if c.at(16) {
		view["host_status"] = s.hostStatus(i.Host)
	}
}

// rootDevice is the name that the driver gives to the first disk; none before there is a host.
func (s *Server) rootDevice(name string) string {
	h := s.host(name)
	switch {
	case h == nil:
		return ""
	case h.Driver == "qemu":
		return "/dev/vda"
	}
	return "/dev/sda"
}

func (s *Server) hostStatus(name string) string {
	h := s.host(name)
	if h == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.statusWord()
}

// newerView adds what later microversions brought for everybody.
func newerView(c *call, i *instance, view map[string]any) {
	if c.at(9) {
		view["locked"] = false
	}
	if c.at(19) {
		view["description"] = i.Description
	}
	if c.at(26) {
		view["tags"] = []any{}
	}
	if c.at(63) {
		view["trusted_image_certificates"] = nil
	}
	if c.at(71) && !strings.HasSuffix(c.URL.Path, "/detail") { // a list has none
		view["server_groups"] = []any{}
	}
	if c.at(73) {
		view["locked_reason"] = nil
	}
	if c.at(90) {
		view["OS-EXT-SRV-ATTR:hostname"] = i.Hostname // since 2.90 for everybody
	}
}

func (s *Server) embeddedFlavor(c *call, i *instance) map[string]any {
	if !c.at(47) {
		return map[string]any{"id": i.Flavor.ID, "links": []any{s.link("bookmark", "flavors", i.Flavor.ID)}}
	}
	return map[string]any{
		"vcpus": i.Flavor.VCPUs, "ram": i.Flavor.RAM, "disk": i.Flavor.Disk, "ephemeral": i.Flavor.Ephemeral,
		"swap": i.Flavor.Swap, "original_name": i.Flavor.Name, "extra_specs": map[string]any{},
	}
}

// faultView hides the details from everybody but an admin where Nova broke (code 500), as Nova does.
func faultView(c *call, f *fault) map[string]any {
	view := map[string]any{"code": f.Code, "created": wire.Stamp(f.At), "message": f.Message}
	if f.Details != "" && (c.caller.Admin() || f.Code != 500) {
		view["details"] = f.Details
	}
	return view
}
