package zun

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// inspected finds a container that is in a state for the read.
func (s *Server) inspected(c *call, rule string) (*container, error) {
	row, err := s.find(c, c.PathValue("id"))
	if err == nil {
		err = row.mustBe(rule)
	}
	return row, err
}

// showLogs is a JSON string. A record has no output, so it is empty.
func (s *Server) showLogs(c *call) (answer, error) {
	if err := queryOnly(c, "stdout", "stderr", "timestamps", "tail", "since"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.inspected(c, "logs")
	if err != nil {
		return answer{}, err
	}
	if row.DockerID == "" {
		return answer{}, fail(http.StatusBadRequest, "invalid-remote", "Cannot operate an uncreated container.\nTraceback (most recent call last):\n\n"+
			"zun.common.exception.Invalid: Cannot operate an uncreated container.\n")
	}
	return ok("")
}

// execute answers as if every command printed nothing and succeeded.
func (s *Server) execute(c *call) (answer, error) {
	if err := queryOnly(c, "command", "run", "interactive"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.inspected(c, "execute"); err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"output": "", "exit_code": 0, "exec_id": nil, "proxy_url": nil})
}

func (s *Server) showTop(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.inspected(c, "top")
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{
		"Titles":    []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"},
		"Processes": [][]string{{"root", "1000", "999", "0", row.StateSince.UTC().Format("15:04"), "?", "00:00:00", strings.Join(row.Command, " ")}},
	})
}

func (s *Server) showStats(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.inspected(c, "stats")
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{
		"CONTAINER": row.Name, "CPU %": 0.0, "MEM USAGE(MiB)": 0.0, "MEM LIMIT(MiB)": row.MemoryMB, "MEM %": 0.0,
		"BLOCK I/O(B)": "0/0", "NET I/O(B)": "0/0",
	})
}

func (s *Server) showNetworks(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	list := []any{}
	if row.Address != "" {
		list = append(list, map[string]any{
			"net_id": networkID, "port_id": row.Port,
			"fixed_ips": []any{map[string]any{"subnet_id": subnetID, "version": 4, "ip_address": row.Address}},
		})
	}
	return ok(map[string]any{"networks": list})
}

func stampOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000")
}

func actionView(row *container, a *action) map[string]any {
	return map[string]any{
		"action": a.Name, "container_uuid": row.ID, "request_id": a.RequestID, "user_id": a.UserID, "project_id": a.ProjectID,
		"start_time": stampOrNull(a.Start), "finish_time": stampOrNull(a.Finish), "message": a.Message,
	}
}

// listActions shows the newest first.
func (s *Server) listActions(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	list := []any{}
	for _, a := range slices.Backward(row.Actions) {
		list = append(list, actionView(row, a))
	}
	return ok(map[string]any{"containerActions": list})
}

func (s *Server) showAction(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	name := c.PathValue("name")
	for _, a := range row.Actions {
		if a.RequestID != name {
			continue
		}
		view, events := actionView(row, a), []any{}
		for _, e := range slices.Backward(a.Events) {
			shown := map[string]any{
				"event": e.Name, "start_time": stampOrNull(e.Start), "finish_time": stampOrNull(e.Finish), "result": "Success", "traceback": nil,
			}
			if e.Failed {
				shown["result"] = failed
				if c.caller.Admin() {
					shown["traceback"] = e.Traceback
				}
			}
			events = append(events, shown)
		}
		view["events"] = events
		return ok(view)
	}
	return answer{}, fail(http.StatusNotFound, "resource-not-found", "The Action resource %s could not be found.", name)
}
