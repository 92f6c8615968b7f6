package zun

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func (s *Server) hostView(h *host) map[string]any {
	var memory, disk, count int64
	var cpu float64
	for _, row := range s.containers {
		if row.Host == h.Name {
			memory, disk, cpu = memory+row.MemoryMB, disk+row.DiskGB, cpu+row.CPU
			if row.Status == running {
				count++
			}
		}
	}
	view := map[string]any{
		"uuid": h.id, "links": s.links("hosts", h.id), "hostname": h.Name, "mem_total": h.MemoryMB, "mem_used": memory,
		"total_containers": count, "cpus": h.VCPUs, "cpu_used": cpu, "architecture": "x86_64", "os_type": "linux",
		"os": "Debian GNU/Linux 12 (bookworm)", "kernel_version": "6.1.0", "labels": map[string]any{}, "disk_total": h.DiskGB,
		"disk_used": disk, "disk_quota_supported": s.deps.DiskQuota, "runtimes": []string{"io.containerd.runc.v2", "runc"},
		"enable_cpu_pinning": false,
	}
	return view
}

func (s *Server) listHosts(c *call) (answer, error) {
	if err := c.adminOnly("host:get_all"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	byName := func(a, b *host) int { return cmp.Compare(a.Name, b.Name) }
	for _, h := range slices.SortedFunc(slices.Values(s.hosts), byName) {
		list = append(list, s.hostView(h))
	}
	return ok(map[string]any{"hosts": list, "next": nil})
}

func (s *Server) showHost(c *call) (answer, error) {
	if err := c.adminOnly("host:get"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hostNamed(c.PathValue("id"))
	if h == nil {
		return answer{}, fail(http.StatusNotFound, "compute-node-not-found", "Compute node %s could not be found.", c.PathValue("id"))
	}
	return ok(s.hostView(h))
}

func (s *Server) listServices(c *call) (answer, error) {
	if err := c.adminOnly("zun-service:get_all"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.deps.Clock()
	list := []any{}
	for _, h := range s.hosts {
		state := "up"
		if h.forcedDown {
			state = "down"
		}
		list = append(list, map[string]any{
			"id": h.number, "host": h.Name, "binary": "zun-compute", "disabled": h.disabled, "disabled_reason": h.disabledReason,
			"last_seen_up": stampOrNull(now), "forced_down": h.forcedDown, "report_count": 1, "availability_zone": "nova",
			"created_at": stampOrNull(h.started), "updated_at": stampOrNull(now), "state": state,
		})
	}
	return ok(map[string]any{"services": list})
}

// changeService is PUT /v1/services/{enable, disable, force_down}; the parameters may be in the query or in the body.
func (s *Server) changeService(c *call) (answer, error) {
	action := c.PathValue("action")
	if !slices.Contains([]string{"enable", "disable", "force_down"}, action) {
		return answer{}, bare(http.StatusNotFound)
	}
	body := map[string]any{}
	_ = wire.ReadJSON(c.Request, &body) // no body: the query has it all
	for name, values := range c.URL.Query() {
		body[name] = values[0]
	}
	if err := c.adminOnly("zun-service:" + action); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hostNamed(str(body, "host"))
	if h == nil || str(body, "binary") != "zun-compute" {
		return answer{}, fail(http.StatusNotFound, "zun-service-not-found", "Zun service %s on host %s could not be found.", str(body, "binary"), str(body, "host"))
	}
	view := map[string]any{"host": h.Name, "binary": "zun-compute"}
	if action == "force_down" {
		h.forcedDown = flag(body["forced_down"])
		view["forced_down"] = h.forcedDown
		return ok(map[string]any{"service": view})
	}
	h.disabled, h.disabledReason = action == "disable", nil
	if h.disabled {
		h.disabledReason = optional(body, "disabled_reason")
	}
	view["disabled"], view["disabled_reason"] = h.disabled, h.disabledReason
	return ok(map[string]any{"service": view})
}

func (s *Server) listZones(*call) (answer, error) {
	return ok(map[string]any{"availability_zones": []any{map[string]any{"availability_zone": "nova"}}, "next": nil})
}

func (s *Server) quotaOf(project string) Quota {
	if quota, set := s.quotas[project]; set {
		return quota
	}
	return s.deps.Quota
}

func quotaView(q Quota) map[string]any {
	return map[string]any{"containers": q.Containers, "memory": q.Memory, "disk": q.Disk, "cpu": q.CPU}
}

func (s *Server) showQuota(c *call) (answer, error) {
	if !c.caller.Admin() && c.PathValue("id") != c.caller.ProjectID {
		return answer{}, forbidden("quota:get")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return ok(quotaView(s.quotaOf(c.PathValue("id"))))
}

func (s *Server) updateQuota(c *call) (answer, error) {
	limit := of("integer", "string")
	body, err := readBody(c, map[string]field{"containers": limit, "memory": limit, "disk": limit, "cpu": limit})
	if err != nil {
		return answer{}, err
	}
	if err := c.adminOnly("quota:update"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	quota := s.quotaOf(c.PathValue("id"))
	for name, target := range map[string]*int64{
		"containers": &quota.Containers, "memory": &quota.Memory, "disk": &quota.Disk, "cpu": &quota.CPU,
	} {
		if value, given := numberOf(body[name]); given {
			*target = int64(value)
		}
	}
	s.quotas[c.PathValue("id")] = quota
	return ok(quotaView(quota))
}

func (s *Server) deleteQuota(c *call) (answer, error) {
	if err := c.adminOnly("quota:delete"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.quotas, c.PathValue("id"))
	return ok(null{})
}
