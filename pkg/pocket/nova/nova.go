// Package nova is the Nova of the pocket cloud: the compute API from 2.1 to 2.93 over real HTTP, with the
// image cache, the notifications and the Placement claims of the real one. Shapes and texts follow Nova of
// the Zed series (https://opendev.org/openstack/nova/src/branch/unmaintained/zed); the conformance suite in
// tests/conformance runs the same requests against both.
//
// A node's driver "fake" makes a guest ACTIVE at once and touches no disk, as nova.virt.fake does; the driver
// "qemu" boots it with QEMU's TCG on an overlay over the cached image.
package nova

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// Oldest and newest microversion: Zed's.
var (
	oldest = wire.Microversion{Major: 2, Minor: 1}
	newest = wire.Microversion{Major: 2, Minor: 93}
)

// Deps is what a pocket Nova is made from.
type Deps struct {
	wire.Kit
	QEMU         string        // program of the driver "qemu"; "" is qemu-system-x86_64 in PATH
	QEMUImg      string        // "" is qemu-img in PATH
	BuildTimeout time.Duration // of one build, downloads and conversion included; 0 is 10 minutes
	Region       string        // host part of the control services' names in notifications; "" is "pocket"
}

// Server is the service; it is an http.Handler for the paths below /compute. Close it after use.
type Server struct {
	deps    Deps
	handler http.Handler
	stop    context.CancelFunc
	life    context.Context //nolint:containedctx // the life of the background builds, ended by Close
	work    sync.WaitGroup

	mu         sync.Mutex
	instances  map[string]*instance
	order      []string // of creation
	flavors    []*flavor
	aggregates []*aggregate
	hosts      []*host
	control    []string // service ids of scheduler and conductor
	serial     int      // of instance names
	aggSerial  int
}

// host is one nova-compute with its node.
type host struct {
	wire.Node
	id, provider   string // hypervisor (and provider) uuid
	serviceID      string
	disabled       bool
	disabledReason *string
	forcedDown     bool
	cache          *imageCache
	driver         driver
}

// New makes the service, registers the nodes' providers in Placement (as nova-compute does) and seeds the flavors
// kiln.tiny (1 vCPU, 128 MB, 1 GB) and kiln.small (1 vCPU, 512 MB, 4 GB).
func New(deps Deps) (*Server, error) {
	if deps.BuildTimeout == 0 {
		deps.BuildTimeout = 10 * time.Minute
	}
	if deps.Region == "" {
		deps.Region = "pocket"
	}
	if deps.QEMU == "" {
		deps.QEMU = "qemu-system-x86_64"
	}
	if deps.QEMUImg == "" {
		deps.QEMUImg = "qemu-img"
	}
	s := &Server{deps: deps, instances: map[string]*instance{}, control: []string{deps.NewID(), deps.NewID()}}
	s.life, s.stop = context.WithCancel(context.Background())
	for _, node := range deps.Nodes {
		h, err := s.addHost(node)
		if err != nil {
			s.stop()
			return nil, err
		}
		s.hosts = append(s.hosts, h)
	}
	s.flavors = []*flavor{
		{ID: deps.NewID(), Name: "kiln.tiny", VCPUs: 1, RAM: 128, Disk: 1, Public: true, RxTx: 1},
		{ID: deps.NewID(), Name: "kiln.small", VCPUs: 1, RAM: 512, Disk: 4, Public: true, RxTx: 1},
	}
	s.handler = s.routes()
	return s, nil
}

func (s *Server) addHost(node wire.Node) (*host, error) {
	h := &host{Node: node, serviceID: s.deps.NewID()}
	id, err := s.deps.Placement.ProviderByName(node.Name)
	if err != nil {
		id = s.deps.NewID()
	}
	if err := s.deps.Placement.EnsureProvider(id, node.Name, inventoryOf(node)); err != nil {
		return nil, err
	}
	h.id, h.provider = id, id
	h.cache = &imageCache{
		base: baseFolder(node), images: s.deps.Images, qemuImg: s.deps.QEMUImg, clock: s.deps.Clock, locks: map[string]*sync.Mutex{},
	}
	h.driver = fakeDriver{}
	if node.Driver == "qemu" {
		h.driver = &qemuDriver{
			program: s.deps.QEMU, qemuImg: s.deps.QEMUImg, folder: node.InstancesPath, cache: h.cache,
			log: s.deps.Log.WithField("node", node.Name), guests: map[string]*guest{},
		}
	}
	return h, nil
}

// inventoryOf is what nova-compute reports with Zed's default ratios for a new node
// (initial_cpu_allocation_ratio 4.0, initial_ram 1.0, initial_disk 1.0) and reserved memory of 0, because the pocket's
// nodes are made of exactly what the test asked for; the ratio for CPUs is 1 for the same reason.
func inventoryOf(node wire.Node) map[string]wire.Inventory {
	one := func(total int64) wire.Inventory {
		return wire.Inventory{Total: total, MinUnit: 1, MaxUnit: total, StepSize: 1, AllocationRatio: 1}
	}
	return map[string]wire.Inventory{"VCPU": one(node.VCPUs), "MEMORY_MB": one(node.MemoryMB), "DISK_GB": one(node.DiskGB)}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Close ends the background builds and every guest, and waits for them.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	for _, h := range s.hosts {
		h.driver.close()
	}
	return nil
}

// background runs work that outlives its request.
func (s *Server) background(work func(ctx context.Context)) {
	s.work.Go(func() { work(s.life) })
}

func (s *Server) host(name string) *host {
	for _, h := range s.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}
