// Package zun is the Zun of the pocket cloud: the container API from 1.1 to 1.40 over real HTTP. Its answers are
// held against 187 recorded answers of a real zun-api by tests/conformance; texts and odd behaviours (a 500 without
// a body above 1.40, a 202 with status Error, claims that leak) follow Zun of the Zed series
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed).
//
// There is no Docker in the pocket cloud: a container is only a record, which moves from Creating to Created or
// Running after Deps.Delay. An image of the driver "glance" has to exist in Glance with the container format
// docker; one of the driver "docker" is taken to exist unless Deps.Docker says otherwise.
package zun

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// Oldest and newest microversion.
var (
	oldest = wire.Microversion{Major: 1, Minor: 1}
	newest = wire.Microversion{Major: 1, Minor: 40}
)

// Docker stands in for the nodes' Docker daemons: it can refuse a step. The error's text becomes status_reason.
type Docker interface {
	// Pull brings an image ("repo:tag") to a node; policy is never, ifnotpresent or always. It must not wait: the
	// service is locked meanwhile.
	Pull(node, image, policy string) error
	// Create and Start are asked before a container becomes Created or Running.
	Create(c Spec) error
	Start(c Spec) error
}

// Spec is what a Docker sees of a container.
type Spec struct {
	ID, Name, Node, Image, Workdir string
	Command, Entrypoint            []string
	DiskGB                         int64
}

// Deps is what a pocket Zun is made from.
type Deps struct {
	wire.Kit
	Delay      time.Duration // of each background step of a container; 0 is 50 ms
	RPCTimeout time.Duration // how long a read waits for a dead node; 0 is 60 s, as rpc_response_timeout
	Docker     Docker        // nil takes everything
	DiskQuota  bool          // whether the nodes' storage drivers know quotas; without it a container with a disk fails, as with overlay2
	Quota      Quota         // of every project; the zero value is Zun's default
}

// Quota is how much a project may have. Memory in MB, disk in GB.
type Quota struct {
	Containers, CPU, Memory, Disk int64
}

// Server is the service; it is an http.Handler for the paths below /container. Close it after use.
type Server struct {
	deps    Deps
	handler http.Handler
	life    context.Context //nolint:containedctx // the life of the background steps, ended by Close
	stop    context.CancelFunc
	work    sync.WaitGroup

	mu         sync.Mutex
	containers []*container // in order of creation
	images     []*image
	hosts      []*host
	quotas     map[string]Quota // by project
	address    int              // of the last one given
}

// host is one zun-compute with its node.
type host struct {
	wire.Node
	id             string // Zun's own; Placement's provider has Nova's
	number         int
	disabled       bool
	disabledReason *string
	forcedDown     bool
	dead           bool
	started        time.Time
}

// New makes the service. The nodes' providers are found in Placement by name, as with host_shared_with_nova: Nova has
// made them, or New makes them.
func New(deps Deps) (*Server, error) {
	if deps.Delay == 0 {
		deps.Delay = 50 * time.Millisecond
	}
	if deps.RPCTimeout == 0 {
		deps.RPCTimeout = time.Minute
	}
	if deps.Quota == (Quota{}) {
		deps.Quota = Quota{Containers: 40, CPU: 20, Memory: 50 * 1024, Disk: 100}
	}
	if deps.Docker == nil {
		deps.Docker = yesDocker{}
	}
	s := &Server{deps: deps, quotas: map[string]Quota{}}
	for n, node := range deps.Nodes {
		if _, err := deps.Placement.ProviderByName(node.Name); err != nil {
			if err := deps.Placement.EnsureProvider(deps.NewID(), node.Name, inventoryOf(node)); err != nil {
				return nil, err
			}
		}
		s.hosts = append(s.hosts, &host{Node: node, id: deps.NewID(), number: n + 1, started: deps.Clock()})
	}
	s.life, s.stop = context.WithCancel(context.Background())
	s.handler = s.routes()
	return s, nil
}

func inventoryOf(node wire.Node) map[string]wire.Inventory {
	one := func(total int64) wire.Inventory {
		return wire.Inventory{Total: total, MinUnit: 1, MaxUnit: total, StepSize: 1, AllocationRatio: 1}
	}
	return map[string]wire.Inventory{"VCPU": one(node.VCPUs), "MEMORY_MB": one(node.MemoryMB), "DISK_GB": one(node.DiskGB)}
}

type yesDocker struct{}

func (yesDocker) Pull(string, string, string) error { return nil }
func (yesDocker) Create(Spec) error                 { return nil }
func (yesDocker) Start(Spec) error                  { return nil }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Close ends the background steps and waits for them.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	return nil
}

// Kill makes a node's zun-compute dead (or alive again) without anybody noticing yet: reads of its containers wait for
// RPCTimeout and fail, and what is cast to it stays undone.
func (s *Server) Kill(node string, dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hostNamed(node); h != nil {
		h.dead = dead
	}
}

// background runs a step of a container after the configured delay, unless the service closes before.
func (s *Server) background(step func()) {
	s.work.Go(func() {
		if s.sleep(s.deps.Delay) {
			step()
		}
	})
}

// sleep reports whether the time passed before the service closed.
func (s *Server) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.life.Done():
		return false
	}
}

// hostNamed finds a host by name or by Zun's uuid. Under the lock, or on the list that New made.
func (s *Server) hostNamed(ident string) *host {
	for _, h := range s.hosts {
		if h.Name == ident || h.id == ident {
			return h
		}
	}
	return nil
}
