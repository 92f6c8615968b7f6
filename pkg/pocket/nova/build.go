package nova

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// change applies a change to an instance under the lock and answers it before and after, for notifications.
// gone is true where it was deleted meanwhile.
func (s *Server) change(id string, apply func(i *instance)) (before, after instance, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[id]
	if i == nil {
		return instance{}, instance{}, true
	}
	before = copyOf(i)
	apply(i)
	i.Updated = s.deps.Clock()
	return before, copyOf(i), false
}

// build schedules, claims, makes the image present and starts the guest: what conductor, scheduler and compute do.
func (s *Server) build(parent context.Context, i *instance, want destination) {
	defer close(i.built)
	ctx, cancel := context.WithTimeout(parent, s.deps.BuildTimeout)
	defer cancel()
	s.mu.Lock()
	i.cancel = cancel
	ask := i.ask
	s.mu.Unlock()

	h, err := s.schedule(ctx, i, want)
	if err != nil {
		s.buildFailed(i.ID, ask, nil, err)
		return
	}
	zone := s.zoneOf(h.Name)
	_, scheduled, _ := s.change(i.ID, func(i *instance) { i.Zone = zone })
	s.notifyInstance(ask, "compute:"+h.Name, "instance.create.start", scheduled)
	before, after, _ := s.change(i.ID, func(i *instance) {
		i.Host = h.Name
		if i.TaskState != "deleting" { // a delete that came meanwhile keeps its own
			i.TaskState = "spawning"
		}
	})
	s.notifyUpdate(ask, before, after)

	if err := h.driver.spawn(ctx, s.deps.Images, ask.caller, after); err != nil {
		if parent.Err() == nil { // at Close the guests go with the process; nobody reads an ERROR
			s.buildFailed(i.ID, ask, h, err)
		}
		return
	}
	before, after, _ = s.change(i.ID, func(i *instance) {
		i.VMState, i.PowerState = "active", 1
		if i.TaskState == "spawning" { // a delete that came meanwhile keeps its own
			i.TaskState = ""
		}
		i.Launched = s.deps.Clock()
	})
	s.notifyUpdate(ask, before, after)
	s.notifyInstance(ask, "compute:"+h.Name, "instance.create.end", after)
}

// buildFailed leaves the instance in ERROR without a host and without an allocation, as Nova does when it gives up.
func (s *Server) buildFailed(id string, ask request, h *host, cause error) {
	if h != nil {
		s.deps.Placement.Release(id)
	}
	f := faultOf(cause, id, s.deps.Clock())
	before, after, gone := s.change(id, func(i *instance) {
		i.VMState, i.Host, i.Zone, i.Fault = "error", "", "", f
		if i.TaskState != "deleting" {
			i.TaskState = ""
		}
	})
	if gone {
		return
	}
	if h != nil {
		s.notifyError(ask, "compute:"+h.Name, "instance.create.error", before, f)
	}
	s.notifyUpdate(ask, before, after)
}

// buildError is a failure of a driver, with the class that Nova would raise.
type buildError struct {
	exception string
	message   string
}

func (e *buildError) Error() string { return e.message }

var errNoValidHost = &buildError{
	exception: "NoValidHost", message: "No valid host was found. ",
}

func faultOf(cause error, id string, at time.Time) *fault {
	f := &fault{Code: 500, At: at, Exception: "BuildAbortException"}
	var known *buildError
	switch {
	case errors.Is(cause, errNoValidHost):
		f.Exception, f.Message = errNoValidHost.exception, errNoValidHost.message
	case errors.As(cause, &known):
		f.Exception = known.exception
		f.Message = fmt.Sprintf("Build of instance %s aborted: %s", id, known.message)
	case errors.Is(cause, context.Canceled):
		f.Message = fmt.Sprintf("Build of instance %s aborted: Instance disappeared during build.", id)
	default:
		f.Message = fmt.Sprintf("Build of instance %s aborted: %v", id, cause)
	}
	f.Details = "Traceback (most recent call last):\n" + f.Exception + ": " + f.Message + "\n"
	return f
}

// schedule picks the first enabled host with room, in the order of the configuration, and claims it.
func (s *Server) schedule(ctx context.Context, i *instance, want destination) (*host, error) {
	claim := wire.Claim{ // without a consumer type: Zed's Nova sends none, and Placement shows "unknown"
		Consumer: i.ID, ProjectID: i.ProjectID, UserID: i.UserID,
		Resources: map[string]int64{"VCPU": i.Flavor.VCPUs, "MEMORY_MB": i.Flavor.RAM},
	}
	if disk := i.Flavor.Disk + i.Flavor.Ephemeral; disk > 0 {
		claim.Resources["DISK_GB"] = disk
	}
	for _, h := range s.candidates(want) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		claim.Provider = h.provider
		err := s.deps.Placement.Claim(claim)
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, wire.ErrNoCapacity) {
			return nil, fmt.Errorf("claim: %w", err)
		}
	}
	return nil, errNoValidHost
}

func (s *Server) candidates(want destination) []*host {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*host
	for _, h := range s.hosts {
		switch {
		case want.host != "" && h.Name != want.host:
		case want.forced:
			list = append(list, h)
		case h.disabled || h.forcedDown:
		case want.zone != "" && s.zoneOfLocked(h.Name) != want.zone:
		default:
			list = append(list, h)
		}
	}
	return list
}

const defaultZone = "nova"

func (s *Server) zoneOf(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zoneOfLocked(name)
}

func (s *Server) zoneOfLocked(name string) string {
	for _, a := range s.aggregates {
		if zone := a.Metadata["availability_zone"]; zone != "" && slices.Contains(a.Hosts, name) {
			return zone
		}
	}
	return defaultZone
}

// zones are the zones that have a host, plus Nova's default zone where a host has no other.
func (s *Server) zones() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, h := range s.hosts {
		if zone := s.zoneOfLocked(h.Name); !slices.Contains(list, zone) {
			list = append(list, zone)
		}
	}
	slices.SortFunc(list, strings.Compare)
	return list
}
