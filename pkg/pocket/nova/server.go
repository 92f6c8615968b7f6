package nova

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// find answers a copy of an instance that the caller may see; 404 for those of others, as Nova does.
func (s *Server) find(c *call, id string) (instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[id]
	if i == nil || !c.caller.Admin() && i.ProjectID != c.caller.ProjectID {
		return instance{}, notFound("Instance %s could not be found.", id)
	}
	return copyOf(i), nil
}

func (s *Server) showServer(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"server": s.serverView(c, &i)})
}

func (s *Server) updateServer(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Server struct {
			Name        *string `json:"name"`
			Description *string `json:"description"`
		} `json:"server"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, malformed()
	}
	_, after, _ := s.change(i.ID, func(i *instance) {
		if body.Server.Name != nil {
			i.Name = *body.Server.Name
		}
		if body.Server.Description != nil {
			i.Description = body.Server.Description
		}
	})
	return ok(map[string]any{"server": s.serverView(c, &after)})
}

func (s *Server) listServers(c *call) (answer, error) {
	return s.serverList(c, "servers", s.serverSummary)
}

func (s *Server) listServersDetail(c *call) (answer, error) {
	return s.serverList(c, "servers/detail", s.serverView)
}

// queryKeys are those that Nova's schema of the list takes; the others are a 400.
var queryKeys = strings.Fields(`user_id project_id tenant_id launch_index image_ref image kernel_id hostname key_name power_state
	vm_state task_state host node flavor reservation_id launched_at terminated_at availability_zone name display_name description
	display_description locked_by uuid root_device_name config_drive access_ip_v4 access_ip_v6 auto_disk_config progress limit marker
	sort_key sort_dir all_tenants deleted status changes-since changes-before ip ip6 created_at block_device_mapping services metadata
	system_metadata security_groups info_cache not-tags not-tags-any tags tags-any soft_deleted locked`)

var statuses = []string{
	"ACTIVE", "BUILD", "DELETED", "ERROR", "HARD_REBOOT", "MIGRATING", "PASSWORD", "PAUSED", "REBOOT", "REBUILD", "RESCUE", "RESIZE",
	"REVERT_RESIZE", "SHELVED", "SHELVED_OFFLOADED", "SHUTOFF", "SOFT_DELETED", "SUSPENDED", "UNKNOWN", "VERIFY_RESIZE",
}

// maxLimit is [api]max_limit.
const maxLimit = 1000

func (s *Server) serverList(c *call, path string, view func(*call, *instance) map[string]any) (answer, error) {
	query := c.URL.Query()
	limit, err := limitOf(query)
	if err != nil {
		return answer{}, err
	}
	for name := range query {
		if !slices.Contains(queryKeys, name) && !strings.HasPrefix(name, "_") {
			return answer{}, badRequest("'%s' does not match any of the regexes: '^_'", name)
		}
	}
	if query.Has("status") && !slices.Contains(statuses, strings.ToUpper(query.Get("status"))) {
		return answer{}, badRequest("Invalid status value")
	}
	everything, err := allTenants(c, query)
	if err != nil {
		return answer{}, err
	}
	var found []instance
	marker, seen := query.Get("marker"), query.Get("marker") == ""
	for _, i := range s.newestFirst() {
		if !everything && i.ProjectID != c.caller.ProjectID {
			continue
		}
		if !seen {
			seen = i.ID == marker
			continue
		}
		if matches(c, query, i) {
			found = append(found, i)
		}
	}
	if !seen {
		return answer{}, badRequest("marker [%s] not found", marker)
	}
	body := map[string]any{}
	if len(found) > limit {
		found = found[:limit]
	}
	if len(found) == limit && limit > 0 { // as Nova: a full page names a next one, which may be empty
		query.Set("limit", strconv.Itoa(limit))
		query.Set("marker", found[limit-1].ID)
		body["servers_links"] = []any{map[string]any{"rel": "next", "href": s.deps.URL + "/v2.1/" + path + "?" + query.Encode()}}
	}
	list := []any{}
	for n := range found {
		list = append(list, view(c, &found[n]))
	}
	body["servers"] = list
	return ok(body)
}

func limitOf(query url.Values) (int, error) {
	text := query.Get("limit")
	if text == "" {
		return maxLimit, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 0 {
		return 0, badRequest("Invalid input for query parameters limit. Value: %s. '%s' does not match '^[0-9]*$'", text, text)
	}
	return min(limit, maxLimit), nil
}

// allTenants: only an admin may look into other projects; tenant_id alone is not enough.
func allTenants(c *call, query url.Values) (bool, error) {
	if !query.Has("all_tenants") {
		return false, nil
	}
	switch strings.ToLower(query.Get("all_tenants")) {
	case "0", "false", "f", "no", "n", "off":
		return false, nil
	}
	return true, c.may("admin", "servers:"+detailWord(c)+":get_all_tenants")
}

func detailWord(c *call) string {
	if strings.HasSuffix(c.URL.Path, "/detail") {
		return "detail"
	}
	return "index"
}

func (s *Server) newestFirst() []instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]instance, 0, len(s.order))
	for _, id := range slices.Backward(s.order) {
		list = append(list, copyOf(s.instances[id]))
	}
	return list
}

// matches are the filters that Kiln and its tests use; others are ignored, as Nova ignores unknown ones
// for non-admins. The name is a regular expression in Nova (SQL's REGEXP); here a substring, which agrees for plain names.
func matches(c *call, query url.Values, i instance) bool {
	name := strings.TrimSuffix(strings.TrimPrefix(query.Get("name"), "^"), "$")
	switch {
	case !strings.Contains(i.Name, name):
		return false
	case strings.HasPrefix(query.Get("name"), "^") && !strings.HasPrefix(i.Name, name):
		return false
	case strings.HasSuffix(query.Get("name"), "$") && !strings.HasSuffix(i.Name, name):
		return false
	case query.Has("status") && !strings.EqualFold(query.Get("status"), i.status()):
		return false
	case query.Has("uuid") && query.Get("uuid") != i.ID:
		return false
	}
	if !c.caller.Admin() {
		return true // the rest are admin's filters
	}
	for key, value := range map[string]string{
		"host": i.Host, "node": i.Host, "project_id": i.ProjectID, "tenant_id": i.ProjectID, "user_id": i.UserID,
		"image": i.Image.ID, "flavor": i.Flavor.ID, "vm_state": i.VMState, "reservation_id": i.Reservation,
	} {
		if query.Has(key) && query.Get(key) != value {
			return false
		}
	}
	return true
}

func (s *Server) deleteServer(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err == nil {
		err = c.may("member", "servers:delete")
	}
	if err != nil {
		return answer{}, err
	}
	var twice bool
	before, after, gone := s.change(i.ID, func(i *instance) {
		twice = i.TaskState == "deleting"
		i.TaskState = "deleting"
	})
	if gone || twice {
		return answer{status: http.StatusNoContent}, nil
	}
	ask := askOf(c)
	s.notifyUpdate(ask, before, after)
	s.background(func(context.Context) { s.destroy(after, ask) })
	return answer{status: http.StatusNoContent}, nil
}

// destroy ends the build that is under way, then the guest, gives back its allocation and forgets it.
func (s *Server) destroy(i instance, ask request) {
	_, i, gone := s.change(i.ID, func(*instance) {})
	if gone {
		return
	}
	i.cancel()
	<-i.built
	if _, i, gone = s.change(i.ID, func(*instance) {}); gone { // the build may have moved it
		return
	}
	publisher := "compute:" + i.Host
	if h := s.host(i.Host); h != nil {
		s.notifyAction(ask, publisher, "instance.delete.start", i)
		h.driver.destroy(i)
		s.notifyAction(ask, publisher, "instance.shutdown.end", i)
	}
	s.deps.Placement.Release(i.ID)
	before, after, _ := s.change(i.ID, func(i *instance) {
		i.VMState, i.TaskState, i.PowerState = "deleted", "", 0
		i.Terminated = s.deps.Clock()
	})
	s.notifyUpdate(ask, before, after)
	after.Deleted = s.deps.Clock()
	if after.Host != "" {
		s.notifyAction(ask, publisher, "instance.delete.end", after)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.instances, i.ID)
	s.order = slices.DeleteFunc(s.order, func(id string) bool { return id == i.ID })
}
