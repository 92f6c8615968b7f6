package nova

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func (h *host) statusWord() string {
	switch {
	case h.disabled:
		return "MAINTENANCE"
	case h.forcedDown:
		return "DOWN"
	}
	return "UP"
}

func (h *host) state() string {
	if h.forcedDown {
		return "down"
	}
	return "up"
}

func (h *host) status() string {
	if h.disabled {
		return "disabled"
	}
	return "enabled"
}

// index counts from 1: the ids that Nova showed below 2.53.
func (s *Server) index(h *host) int {
	for n, other := range s.hosts {
		if other == h {
			return n + 1
		}
	}
	return 0
}

func (s *Server) hypervisorSummary(c *call, h *host) map[string]any {
	view := map[string]any{"id": any(h.id), "hypervisor_hostname": h.Name, "state": h.state(), "status": h.status()}
	if !c.at(53) {
		view["id"] = s.index(h)
	}
	return view
}

// hypervisorView is the detailed one: with capacity below 2.88 and without it from there on
// (https://docs.openstack.org/nova/latest/reference/api-microversion-history.html).
func (s *Server) hypervisorView(c *call, h *host) map[string]any {
	view := s.hypervisorSummary(c, h)
	service := map[string]any{"id": any(h.serviceID), "host": h.Name, "disabled_reason": h.disabledReason}
	if !c.at(53) {
		service["id"] = s.index(h)
	}
	view["service"], view["host_ip"] = service, "127.0.0.1"
	view["hypervisor_type"], view["hypervisor_version"] = h.Driver, 1000
	if h.Driver == "qemu" {
		view["hypervisor_type"], view["hypervisor_version"] = "QEMU", 7002000
	}
	if c.at(53) && c.URL.Query().Get("with_servers") != "" {
		if servers := s.serversOn(h); len(servers) > 0 || c.at(75) {
			view["servers"] = servers
		}
	}
	if c.at(88) {
		view["uptime"] = nil
		return view
	}
	s.addCapacity(c, h, view)
	return view
}

func (s *Server) addCapacity(c *call, h *host, view map[string]any) {
	var vcpus, ram, disk, guests int64
	for _, id := range s.order {
		i := s.instances[id]
		if i.Host == h.Name {
			vcpus, ram, disk, guests = vcpus+i.Flavor.VCPUs, ram+i.Flavor.RAM, disk+i.Flavor.Disk, guests+1
		}
	}
	view["vcpus"], view["vcpus_used"] = h.VCPUs, vcpus
	view["memory_mb"], view["memory_mb_used"], view["free_ram_mb"] = h.MemoryMB, ram, h.MemoryMB-ram
	view["local_gb"], view["local_gb_used"], view["free_disk_gb"] = h.DiskGB, disk, h.DiskGB-disk
	view["disk_available_least"], view["running_vms"], view["current_workload"] = h.DiskGB-disk, guests, 0
	view["cpu_info"] = ""
	if c.at(28) {
		view["cpu_info"] = map[string]any{}
	}
}

func (s *Server) serversOn(h *host) []any {
	list := []any{}
	for _, id := range s.order {
		if i := s.instances[id]; i.Host == h.Name {
			list = append(list, map[string]any{"uuid": i.ID, "name": i.Label})
		}
	}
	return list
}

func (s *Server) listHypervisors(c *call) (answer, error) {
	return s.hypervisorList(c, "list", s.hypervisorSummary)
}

func (s *Server) listHypervisorsDetail(c *call) (answer, error) {
	return s.hypervisorList(c, "list-detail", s.hypervisorView)
}

func (s *Server) hypervisorList(c *call, rule string, view func(*call, *host) map[string]any) (answer, error) {
	if err := c.may("admin", "os-hypervisors:"+rule); err != nil {
		return answer{}, err
	}
	pattern := c.URL.Query().Get("hypervisor_hostname_pattern")
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for _, h := range s.hosts {
		if strings.Contains(h.Name, pattern) {
			list = append(list, view(c, h))
		}
	}
	if pattern != "" && len(list) == 0 {
		return answer{}, notFound("No hypervisor matching '%s' could be found.", pattern)
	}
	return ok(map[string]any{"hypervisors": list})
}

func (s *Server) showHypervisor(c *call) (answer, error) {
	if err := c.may("admin", "os-hypervisors:show"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := c.PathValue("id")
	for _, h := range s.hosts {
		if h.id == id && c.at(53) || !c.at(53) && strconv.Itoa(s.index(h)) == id {
			return ok(map[string]any{"hypervisor": s.hypervisorView(c, h)})
		}
	}
	return answer{}, notFound("Hypervisor with ID '%s' could not be found.", id)
}

func (s *Server) serviceView(c *call, h *host) map[string]any {
	view := map[string]any{
		"id": any(h.serviceID), "binary": "nova-compute", "host": h.Name, "zone": s.zoneOfLocked(h.Name), "status": h.status(),
		"state": h.state(), "updated_at": wire.MicroStamp(s.deps.Clock()), "disabled_reason": h.disabledReason,
	}
	if !c.at(53) {
		view["id"] = s.index(h)
	}
	if c.at(11) {
		view["forced_down"] = h.forcedDown
	}
	return view
}

func (s *Server) listServices(c *call) (answer, error) {
	if err := c.may("admin", "os-services:list"); err != nil {
		return answer{}, err
	}
	query := c.URL.Query()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for n, binary := range []string{"nova-scheduler", "nova-conductor"} {
		if (query.Has("host") && query.Get("host") != s.deps.Region) || (query.Has("binary") && query.Get("binary") != binary) {
			continue
		}
		inner := &host{Node: wire.Node{Name: s.deps.Region}, serviceID: s.control[n]}
		view := s.serviceView(c, inner)
		view["binary"], view["zone"] = binary, "internal"
		if !c.at(53) {
			view["id"] = len(s.hosts) + n + 1
		}
		list = append(list, view)
	}
	for _, h := range s.hosts {
		if (!query.Has("host") || query.Get("host") == h.Name) && (!query.Has("binary") || query.Get("binary") == "nova-compute") {
			list = append(list, s.serviceView(c, h))
		}
	}
	return ok(map[string]any{"services": list})
}

// updateService is PUT /os-services/{uuid} since 2.53.
func (s *Server) updateService(c *call) (answer, error) {
	if err := c.may("admin", "os-services:update"); err != nil {
		return answer{}, err
	}
	var body struct {
		Status         string  `json:"status"`
		DisabledReason *string `json:"disabled_reason"`
		ForcedDown     *bool   `json:"forced_down"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, malformed()
	}
	if !c.at(53) {
		return answer{}, notFound("The resource could not be found.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.serviceID != c.PathValue("id") {
			continue
		}
		switch body.Status {
		case "enabled":
			h.disabled, h.disabledReason = false, nil
		case "disabled":
			h.disabled, h.disabledReason = true, body.DisabledReason
		case "":
		default:
			return answer{}, badRequest("Invalid input for field/attribute status. Value: %s. '%s' is not one of ['enabled', 'disabled']", body.Status, body.Status)
		}
		if body.ForcedDown != nil {
			h.forcedDown = *body.ForcedDown
		}
		if err := s.deps.Placement.SetTrait(h.provider, "COMPUTE_STATUS_DISABLED", h.disabled); err != nil {
			return answer{}, err
		}
		return ok(map[string]any{"service": s.serviceView(c, h)})
	}
	return answer{}, notFound("Service %s could not be found.", c.PathValue("id"))
}

func (s *Server) listZones(*call) (answer, error) {
	list := []any{}
	for _, zone := range s.zones() {
		list = append(list, map[string]any{"zoneName": zone, "zoneState": map[string]any{"available": true}, "hosts": nil})
	}
	return ok(map[string]any{"availabilityZoneInfo": list})
}

// showLimits and showQuota: the pocket cloud has no quotas, so everything is -1 as on a cloud that set them so.
func (s *Server) showLimits(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var guests, cores, ram int64
	for _, i := range s.instances {
		if i.ProjectID == c.caller.ProjectID {
			guests, cores, ram = guests+1, cores+i.Flavor.VCPUs, ram+i.Flavor.RAM
		}
	}
	absolute := map[string]any{
		"maxServerMeta": 128, "maxTotalInstances": -1, "maxTotalCores": -1, "maxTotalRAMSize": -1, "maxTotalKeypairs": 100,
		"maxServerGroups": -1, "maxServerGroupMembers": -1, "totalCoresUsed": cores, "totalInstancesUsed": guests,
		"totalRAMUsed": ram, "totalServerGroupsUsed": 0,
	}
	return ok(map[string]any{"limits": map[string]any{"rate": []any{}, "absolute": absolute}})
}

func (s *Server) showQuota(c *call) (answer, error) {
	if !c.caller.Admin() && c.PathValue("id") != c.caller.ProjectID {
		return answer{}, forbidden("os_compute_api:os-quota-sets:show")
	}
	set := map[string]any{"id": c.PathValue("id")}
	for _, key := range []string{"cores", "instances", "key_pairs", "metadata_items", "ram", "server_group_members", "server_groups"} {
		set[key] = -1
	}
	return answer{status: http.StatusOK, body: map[string]any{"quota_set": set}}, nil
}
