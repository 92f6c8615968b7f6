package nova

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

var ruleOf = map[string]string{
	"os-getConsoleOutput": "os-console-output", "os-start": "servers:start", "os-stop": "servers:stop", "reboot": "servers:reboot",
}

// actOnServer is POST /servers/{id}/action with one action in the body.
func (s *Server) actOnServer(c *call) (answer, error) {
	var body map[string]json.RawMessage
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, malformed()
	}
	if len(body) != 1 {
		return answer{}, malformed()
	}
	for name, raw := range body {
		do := map[string]func(*call, instance, json.RawMessage) (answer, error){
			"os-getConsoleOutput": s.consoleOutput, "os-start": s.startGuest, "os-stop": s.stopGuest, "reboot": s.rebootGuest,
		}[name]
		if do == nil {
			return answer{}, badRequest("There is no such action: %s", name)
		}
		i, err := s.find(c, c.PathValue("id"))
		if err == nil {
			err = c.may("member", ruleOf[name])
		}
		if err != nil {
			return answer{}, err
		}
		return do(c, i, raw)
	}
	return answer{}, nil // not reached: the body has one action
}

func (s *Server) consoleOutput(_ *call, i instance, raw json.RawMessage) (answer, error) {
	var body struct {
		Length any `json:"length"` // lines from the end; null, -1 or absent is everything
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return answer{}, badRequest("Invalid input for field/attribute os-getConsoleOutput.")
	}
	h := s.host(i.Host)
	if h == nil || i.VMState == "building" {
		return answer{}, conflict("Instance %s is not ready", i.ID)
	}
	text, err := h.driver.console(i)
	if err != nil {
		return answer{}, notFound("Unable to get console log: %v", err)
	}
	lines := -1
	switch length := body.Length.(type) {
	case float64:
		lines = int(length)
	case string:
		if lines, err = strconv.Atoi(length); err != nil {
			return answer{}, badRequest("Invalid input for field/attribute length. Value: %s.", length)
		}
	}
	return ok(map[string]any{"output": string(lastLines(text, lines))})
}

func lastLines(text []byte, n int) []byte {
	if n < 0 {
		return text
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	if last := len(lines) - 1; len(lines[last]) == 0 {
		lines = lines[:last]
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return bytes.Join(lines, nil)
}

// checkState refuses an action in other states than those that it is for, and while something else is under way.
func checkState(i instance, action string, states ...string) error {
	switch {
	case i.Host == "":
		return conflict("Instance %s is not ready", i.ID)
	case i.TaskState != "":
		return conflict("Cannot '%s' instance %s while it is in task_state %s", action, i.ID, i.TaskState)
	case slices.Contains(states, i.VMState):
		return nil
	}
	return conflict("Cannot '%s' instance %s while it is in vm_state %s", action, i.ID, i.VMState)
}

func (s *Server) startGuest(c *call, i instance, _ json.RawMessage) (answer, error) {
	if err := checkState(i, "start", "stopped"); err != nil {
		return answer{}, err
	}
	return s.power(c, i, "powering-on", "active", 1, func(ctx context.Context, h *host) error { return h.driver.start(ctx, i) })
}

func (s *Server) stopGuest(c *call, i instance, _ json.RawMessage) (answer, error) {
	if err := checkState(i, "stop", "active", "error"); err != nil {
		return answer{}, err
	}
	return s.power(c, i, "powering-off", "stopped", 4, func(_ context.Context, h *host) error { return h.driver.stop(i) })
}

func (s *Server) rebootGuest(c *call, i instance, raw json.RawMessage) (answer, error) {
	var body struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return answer{}, badRequest("Invalid input for field/attribute reboot. Value: %s.", raw)
	}
	task, states := "rebooting", []string{"active"}
	switch strings.ToUpper(body.Type) {
	case "SOFT":
	case "HARD":
		task, states = "rebooting_hard", []string{"active", "stopped", "error"}
	default:
		return answer{}, badRequest("Invalid input for field/attribute type. Value: %s. '%s' is not one of ['HARD', 'Hard', 'hard', 'SOFT', 'Soft', 'soft']", body.Type, body.Type)
	}
	if err := checkState(i, "reboot", states...); err != nil {
		return answer{}, err
	}
	return s.power(c, i, task, "active", 1, func(ctx context.Context, h *host) error {
		if err := h.driver.stop(i); err != nil && !errors.Is(err, errNoGuest) {
			return err
		}
		return h.driver.start(ctx, i)
	})
}

// power moves a guest to another power state in the background.
func (s *Server) power(c *call, i instance, task, state string, power int, do func(context.Context, *host) error) (answer, error) {
	ask := askOf(c)
	before, after, _ := s.change(i.ID, func(i *instance) { i.TaskState = task })
	s.notifyUpdate(ask, before, after)
	h := s.host(i.Host)
	s.background(func(ctx context.Context) {
		err := do(ctx, h)
		before, after, gone := s.change(i.ID, func(i *instance) {
			if i.TaskState == task {
				i.TaskState = ""
			}
			if err != nil {
				i.VMState, i.Fault = "error", faultOf(err, i.ID, s.deps.Clock())
				return
			}
			i.VMState, i.PowerState = state, power
		})
		if !gone {
			s.notifyUpdate(ask, before, after)
		}
	})
	return answer{status: http.StatusAccepted}, nil
}
