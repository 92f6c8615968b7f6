package zun

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// maxLimit is [api]max_limit.
const maxLimit = 1000

var listFilters = []string{"name", "image", "project_id", "user_id", "memory", "host", "task_state", "status", "auto_remove"}

func (s *Server) listContainers(c *call) (answer, error) {
	query := c.URL.Query()
	everything := truth(query.Get("all_projects"))
	if everything {
		if err := c.adminOnly("container:get_all_all_projects"); err != nil {
			return answer{}, err
		}
	}
	limit, err := limitOf(query)
	if err != nil {
		return answer{}, err
	}
	if err := checkFilters(c, query); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := slices.Clone(s.containers)
	key, dir := cmp.Or(query.Get("sort_key"), "id"), cmp.Or(query.Get("sort_dir"), "asc")
	if key != "id" && key != "created_at" { // id is the row's number: the order of creation
		slices.SortStableFunc(rows, func(a, b *container) int { return strings.Compare(a.column(key), b.column(key)) })
	}
	if dir == "desc" {
		slices.Reverse(rows)
	}
	if marker := query.Get("marker"); marker != "" {
		at := slices.IndexFunc(rows, func(row *container) bool { return row.ID == marker })
		if at < 0 {
			return answer{}, noContainer(marker)
		}
		rows = rows[at+1:]
	}
	list, last := []any{}, ""
	for _, row := range rows {
		if len(list) < limit && (everything || row.ProjectID == c.caller.ProjectID) && row.matches(query) {
			list, last = append(list, s.view(c, row, false, false)), row.ID
		}
	}
	body := map[string]any{"containers": list, "next": nil}
	if len(list) == limit {
		body["next"] = fmt.Sprintf("%s/v1/containers?sort_key=%s&sort_dir=%s&limit=%d&marker=%s", s.deps.URL, key, dir, limit, last)
	}
	return ok(body)
}

func limitOf(query url.Values) (int, error) {
	if !query.Has("limit") {
		return maxLimit, nil
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit <= 0 {
		return 0, invalidValue("Limit must be positive integer")
	}
	return min(limit, maxLimit), nil
}

func checkFilters(c *call, query url.Values) error {
	for name := range query {
		switch {
		case slices.Contains([]string{"all_projects", "limit", "marker", "sort_key", "sort_dir", "expand", "resource_url"}, name):
		case !slices.Contains(listFilters, name):
			return invalidValue("Unknown parameters: %s", name)
		case slices.Contains(adminFields, name):
			if err := c.adminOnly("container:get_one:" + name); err != nil {
				return err
			}
		}
	}
	if dir := query.Get("sort_dir"); dir != "" && dir != "asc" && dir != "desc" {
		return invalidValue("Invalid sort direction: %s. Acceptable values are 'asc' or 'desc'", dir)
	}
	return nil
}

func (row *container) column(name string) string {
	return map[string]string{
		"name": row.Name, "image": row.Image, "project_id": row.ProjectID, "user_id": row.UserID, "uuid": row.ID,
		"memory": strconv.FormatInt(row.MemoryMB, 10), "host": row.Host, "task_state": row.Task, "status": row.Status,
		"auto_remove": strconv.FormatBool(row.AutoRemove),
	}[name]
}

func (row *container) matches(query url.Values) bool {
	for _, name := range listFilters {
		if query.Has(name) && !strings.EqualFold(query.Get(name), row.column(name)) {
			return false
		}
	}
	return true
}

// showContainer is a call to the node, which refreshes the row; the row as it is where the node is known to be
// down; a wait and a 500 where it is dead and nobody knows yet.
func (s *Server) showContainer(c *call) (answer, error) {
	if truth(c.URL.Query().Get("all_projects")) {
		if err := c.adminOnly("container:get_one_all_projects"); err != nil {
			return answer{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	if h := s.hostNamed(row.Host); h != nil && !h.forcedDown {
		if h.dead {
			s.mu.Unlock()
			s.sleep(s.deps.RPCTimeout)
			s.mu.Lock()
			return answer{}, s.broken()
		}
		if row.DockerID != "" && row.Task == "" {
			row.refresh(s.deps.Clock())
		}
	}
	return ok(s.view(c, row, false, true))
}

func (s *Server) deleteContainer(c *call) (answer, error) {
	if err := queryOnly(c, "force", "stop", "all_projects"); err != nil {
		return answer{}, err
	}
	query := c.URL.Query()
	force, stop := truth(query.Get("force")), truth(query.Get("stop"))
	if truth(query.Get("all_projects")) {
		if err := c.adminOnly("container:delete_all_projects"); err != nil {
			return answer{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	state := "delete"
	switch {
	case stop:
		state, err = "delete_after_stop", c.needs("stop", 12)
	case force:
		state, err = "delete_force", c.needs("force", 7)
		if err == nil {
			err = c.adminOnly("container:delete_force")
		}
	}
	if err == nil {
		err = row.mustBe(state)
	}
	if err != nil {
		return answer{}, err
	}
	if row.Host == "" { // nobody is asked, and an allocation that the row still has stays for ever
		s.forget(row)
		return answer{status: http.StatusNoContent}, nil
	}
	if stop && row.Status == running {
		s.begin(c, row, "stop")
	}
	s.begin(c, row, "delete")
	s.later(row, func() {
		s.deps.Placement.Release(row.ID)
		s.forget(row)
	})
	return answer{status: http.StatusNoContent}, nil
}

func (s *Server) forget(row *container) {
	s.containers = slices.DeleteFunc(s.containers, func(other *container) bool { return other == row })
}

func accepted() (answer, error) { return answer{status: http.StatusAccepted, body: null{}}, nil }

// power is start, stop, reboot, pause, unpause and kill: 202, and the node does it later.
func (s *Server) power(c *call, name string) (answer, error) {
	known := map[string][]string{"stop": {"timeout"}, "reboot": {"timeout"}}[name]
	if known != nil {
		if err := queryOnly(c, known...); err != nil {
			return answer{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err == nil {
		err = row.mustBe(name)
	}
	if err != nil {
		return answer{}, err
	}
	a := s.begin(c, row, name)
	if name == "reboot" {
		row.Status = restarting
	}
	s.later(row, func() {
		if row.DockerID == "" {
			err := fmt.Errorf("Cannot operate an uncreated container.") //nolint:staticcheck // Zun's sentence
			row.failIt(err, false)
			s.finish(a, name, err)
			return
		}
		switch name {
		case "start", "reboot", "unpause":
			row.setState(running, s.deps.Clock())
		case "pause":
			row.setState(paused, s.deps.Clock())
		case "stop", "kill":
			row.ExitCode = 137
			row.setState(stopped, s.deps.Clock())
		}
		s.finish(a, name, nil)
	})
	return accepted()
}

func (s *Server) rebuildContainer(c *call) (answer, error) {
	var body struct {
		Image       string `json:"image"`
		ImageDriver string `json:"image_driver"`
	}
	_ = wire.ReadJSON(c.Request, &body) // no body rebuilds from the same image
	query := c.URL.Query()
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err == nil {
		err = row.mustBe("rebuild")
	}
	if err != nil {
		return answer{}, err
	}
	row.Image = cmp.Or(body.Image, query.Get("image"), row.Image)
	row.ImageDriver = cmp.Or(body.ImageDriver, query.Get("image_driver"), row.ImageDriver)
	start := row.Status == running
	row.Status = rebuilding
	if row.Host != "" {
		row.Task = "container_rebuilding"
	}
	a := s.begin(c, row, "rebuild")
	s.later(row, func() {
		if row.Status != rebuilding {
			return
		}
		if row.Host == "" {
			err := fmt.Errorf("Cannot operate an uncreated container.") //nolint:staticcheck // Zun's sentence
			row.failIt(err, false)
			s.finish(a, "rebuild", err)
			return
		}
		s.run(row, a, "rebuild", start)
	})
	return accepted()
}

// change is what PATCH and resize_container may change. Neither touches the allocation.
func (s *Server) change(c *call, rule string) (*container, map[string]any, error) {
	body, err := readBody(c, updateSchema)
	if err != nil {
		return nil, nil, err
	}
	row, err := s.find(c, c.PathValue("id"))
	if err == nil {
		err = row.mustBe(rule)
	}
	return row, body, err
}

func (row *container) apply(body map[string]any) {
	if name := str(body, "name"); name != "" {
		row.Name = name
	}
	if cpu, given := numberOf(body["cpu"]); given {
		row.CPU = cpu
	}
	if memory, given := numberOf(body["memory"]); given {
		row.MemoryMB = int64(memory)
	}
	if body["auto_heal"] != nil {
		row.AutoHeal = flag(body["auto_heal"])
	}
}

func (s *Server) patchContainer(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, body, err := s.change(c, "update")
	if err != nil {
		return answer{}, err
	}
	row.apply(body)
	row.Updated = s.deps.Clock()
	return ok(s.view(c, row, false, true))
}

func (s *Server) resizeContainer(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, body, err := s.change(c, "resize_container")
	if err != nil {
		return answer{}, err
	}
	view := s.view(c, row, false, true) // the answer still shows the old size
	s.later(row, func() { row.apply(body) })
	return answer{status: http.StatusAccepted, body: view}, nil
}

func (s *Server) renameContainer(c *call) (answer, error) {
	name := c.URL.Query().Get("name")
	if err := nameField.check("name", name); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	if row.Name == name {
		return answer{}, fail(http.StatusConflict, "conflict", "The new name for the container is the same as the old name.")
	}
	row.Name = name
	return ok(s.view(c, row, false, true))
}
