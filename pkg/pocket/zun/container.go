package zun

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// The states of a container (zun.common.consts).
const (
	creating   = "Creating"
	created    = "Created"
	running    = "Running"
	stopped    = "Stopped"
	paused     = "Paused"
	failed     = "Error"
	restarting = "Restarting"
	rebuilding = "Rebuilding"
	deleting   = "Deleting"
)

// validStates are the states in which an action is taken (zun.common.utils.VALID_STATES).
var validStates = map[string][]string{
	"delete":            {created, failed, stopped, "Deleted", "Dead"},
	"delete_force":      {created, creating, failed, running, stopped, "Unknown", "Deleted", "Dead", restarting, rebuilding, deleting},
	"delete_after_stop": {running, created, failed, stopped, "Deleted", "Dead"},
	"start":             {created, stopped, failed}, "stop": {running}, "reboot": {created, running, stopped, failed},
	"rebuild": {created, running, stopped, failed}, "pause": {running}, "unpause": {paused}, "kill": {running},
	"execute": {running}, "update": {created, running, stopped, paused}, "top": {running}, "stats": {running},
	"logs": {created, failed, paused, running, stopped, "Unknown"}, "resize_container": {created, running, stopped, paused},
}

// container is one row of Zun's table. Guarded by Server.mu.
type container struct {
	ID, Name, ProjectID, UserID  string
	Image, ImageDriver           string
	CPU                          float64
	CPUPolicy                    string
	MemoryMB, DiskGB             int64
	Command, Entrypoint          []string // nil where not given
	Environment, Labels          map[string]any
	RestartPolicy, Healthcheck   map[string]any
	Workdir, Hostname            *string
	PullPolicy, Reason, Detail   *string
	Runtime                      *string
	AutoRemove, AutoHeal         bool
	Interactive, TTY, Privileged bool
	Status, Task                 string // Task "" is null
	Host                         string // "" is null
	DockerID                     string // "" until Docker took it
	Address, Port                string
	Created, Updated             time.Time
	StateSince                   time.Time // for status_detail
	ExitCode                     int
	Actions                      []*action

	caller wire.Caller // who created it; its images are read as this one
}

// action is one entry of container_actions.
type action struct {
	Name, RequestID, UserID, ProjectID string
	Start, Finish                      time.Time
	Message                            *string
	Events                             []event
}

// event is a step of an action on the node.
type event struct {
	Name          string
	Start, Finish time.Time
	Failed        bool
	Traceback     string
}

func (c *container) mustBe(action string) error {
	if slices.Contains(validStates[action], c.Status) {
		return nil
	}
	return fail(409, "invalid-state-exception", "Cannot %s container %s in %s state", action, c.ID, c.Status)
}

// find is zun.api.utils.get_resource: by uuid or name, in the caller's project; an admin sees all. Under the lock.
func (s *Server) find(c *call, ident string) (*container, error) {
	var found []*container
	for _, row := range s.containers {
		if !c.caller.Admin() && row.ProjectID != c.caller.ProjectID {
			continue
		}
		if row.ID == ident {
			return row, nil
		}
		if row.Name == ident {
			found = append(found, row)
		}
	}
	switch len(found) {
	case 0:
		return nil, noContainer(ident)
	case 1:
		return found[0], nil
	}
	return nil, fail(409, "conflict", "Multiple containers exist with same name. Please use the container uuid instead.")
}

// begin records an action. Under the lock.
func (s *Server) begin(c *call, row *container, name string) *action {
	a := &action{
		Name: name, RequestID: wire.RequestID(c.Context()), UserID: c.caller.UserID, ProjectID: c.caller.ProjectID, Start: s.deps.Clock(),
	}
	row.Actions = append(row.Actions, a)
	return a
}

// finish ends an action with its event. Under the lock.
func (s *Server) finish(a *action, name string, err error) {
	e := event{Name: "compute__do_container_" + name, Start: a.Start, Finish: s.deps.Clock()}
	a.Finish = e.Finish
	if err != nil {
		text := failed
		a.Message, e.Failed = &text, true
		e.Traceback = fmt.Sprintf("  File \"zun/compute/manager.py\", in _do_container_%s\n    raise %v\n", name, err)
	}
	a.Events = append(a.Events, e)
}

// later runs a background step of a container under the lock, unless it is gone by then or its node is dead.
func (s *Server) later(row *container, step func()) {
	s.background(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if h := s.hostNamed(row.Host); h != nil && h.dead {
			return
		}
		if slices.Contains(s.containers, row) {
			step()
			row.Updated = s.deps.Clock()
		}
	})
}

// failIt is zun.compute.manager._fail_container.
func (row *container) failIt(err error, unsetHost bool) {
	reason := err.Error()
	row.Status, row.Reason, row.Task = failed, &reason, ""
	if unsetHost {
		row.Host = ""
	}
}

// resources are what Placement is asked for: whole CPUs, rounded up, at least 1, and no disk where none was
// given (zun.scheduler.utils.resources_from_request_spec).
func (row *container) resources() map[string]int64 {
	out := map[string]int64{"VCPU": max(1, int64(math.Ceil(row.CPU))), "MEMORY_MB": max(1, row.MemoryMB)}
	if row.DiskGB > 0 {
		out["DISK_GB"] = row.DiskGB
	}
	return out
}

// candidates are the enabled hosts with room, in the order of their providers' uuids: Zun has no weigher.
func (s *Server) candidates(row *container, wanted string) ([]string, error) {
	var providers []string
	for _, h := range s.hosts {
		if h.disabled || h.forcedDown || wanted != "" && h.Name != wanted {
			continue
		}
		id, err := s.deps.Placement.ProviderByName(h.Name)
		if err != nil {
			continue // zun-compute without a provider silently stays out
		}
		free, err := s.deps.Placement.Free(id)
		if err != nil {
			return nil, fmt.Errorf("free resources of %s: %w", h.Name, err)
		}
		fits := true
		for class, amount := range row.resources() {
			fits = fits && free[class] >= amount
		}
		if fits {
			providers = append(providers, id)
		}
	}
	slices.Sort(providers)
	return providers, nil
}

// schedule claims the first candidate. An empty host without an error is "not enough hosts"; an error is a claim
// that another request overtook, which Zun does not expect.
func (s *Server) schedule(row *container, wanted string) (string, error) {
	providers, err := s.candidates(row, wanted)
	if err != nil || len(providers) == 0 {
		return "", err
	}
	err = s.deps.Placement.Claim(wire.Claim{ // Zun names no consumer type (zun.scheduler.client.report.claim_resources)
		Consumer: row.ID, Provider: providers[0], Resources: row.resources(), ProjectID: row.ProjectID, UserID: row.UserID,
	})
	if err != nil {
		return "", fmt.Errorf("claim: %w", err)
	}
	for _, h := range s.hosts {
		if id, err := s.deps.Placement.ProviderByName(h.Name); err == nil && id == providers[0] {
			return h.Name, nil
		}
	}
	return "", fmt.Errorf("provider %s has no host", providers[0])
}

// run is what zun-compute does with a creation or rebuild: pull, create, and start where asked.
func (s *Server) run(row *container, a *action, step string, start bool) {
	err := s.pull(row)
	switch {
	case err != nil:
		row.failIt(err, false) // host and allocation stay until DELETE
		s.finish(a, step, err)
		return
	case row.DiskGB > 0 && !s.deps.DiskQuota:
		err = fmt.Errorf("Your host does not support disk quota feature.") //nolint:staticcheck // Zun's sentence
	case row.Workdir != nil && !strings.HasPrefix(*row.Workdir, "/"):
		s.connect(row)
		err = fmt.Errorf("Docker internal error: 400 Client Error for http+docker://localhost/v1.41/containers/create?name=zun-%s: "+ //nolint:staticcheck // Zun's
			"Bad Request (\"the working directory '%s' is invalid, it needs to be an absolute path\").", row.ID, *row.Workdir)
	default:
		s.connect(row)
		err = s.deps.Docker.Create(row.spec())
	}
	if err != nil {
		row.failIt(err, true) // the host is unset, so DELETE will orphan the allocation
		s.finish(a, step, err)
		return
	}
	s.created(row)
	s.finish(a, step, nil)
	if !start {
		return
	}
	if err := s.deps.Docker.Start(row.spec()); err != nil {
		reason := err.Error()
		row.Reason = &reason
		s.finish(a, "start", err)
		return
	}
	row.setState(running, s.deps.Clock())
	s.finish(a, "start", nil)
}

// created is Docker's first inspection of the new container.
func (s *Server) created(row *container) {
	row.Task, row.Reason = "", nil
	row.setState(created, s.deps.Clock())
	row.DockerID = wire.Hex(s.deps.NewID()) + wire.Hex(s.deps.NewID())
	if row.Hostname == nil {
		short := row.DockerID[:12]
		row.Hostname = &short
	}
	runc := "runc"
	row.Runtime = &runc
}

// connect gives the container its port. It comes before Docker is asked, and stays when Docker refuses.
func (s *Server) connect(row *container) {
	if row.Address == "" {
		s.address++
		row.Address, row.Port = fmt.Sprintf("10.77.%d.%d", s.address/250%250, s.address%250+2), s.deps.NewID()
	}
}

func (row *container) setState(status string, at time.Time) {
	row.Status, row.StateSince = status, at
	row.refresh(at)
}

// refresh renews status_detail as Docker's inspection does (zun.container.docker.driver): nothing in the first second.
func (row *container) refresh(now time.Time) {
	var text string
	age, known := ago(now.Sub(row.StateSince))
	switch row.Status {
	case running:
		text = "Up " + age
	case paused:
		text = "Up " + age + " (paused)"
	case created:
		text, known = "Created", true
	case stopped:
		if !known {
			age, known = "None", true
		}
		text = fmt.Sprintf("Exited(%d) %s ago ", row.ExitCode, age)
	default:
		return
	}
	row.Detail = nil
	if known {
		row.Detail = &text
	}
}

func ago(d time.Duration) (string, bool) {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour)), true
	case d >= time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour), true
	case d >= time.Minute:
		return fmt.Sprintf("%d mins", d/time.Minute), true
	case d >= time.Second:
		return fmt.Sprintf("%d seconds", d/time.Second), true
	}
	return "", false
}

func (row *container) spec() Spec {
	spec := Spec{
		ID: row.ID, Name: row.Name, Node: row.Host, Image: row.Image, DiskGB: row.DiskGB,
		Command: slices.Clone(row.Command), Entrypoint: slices.Clone(row.Entrypoint),
	}
	if row.Workdir != nil {
		spec.Workdir = *row.Workdir
	}
	return spec
}
