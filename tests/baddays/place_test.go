package baddays

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	osplacement "github.com/kiln-cloud/kiln/pkg/openstack/placement"
	"github.com/kiln-cloud/kiln/pkg/openstack/zun"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// slowly makes Nova and Zun take their time to answer a create.
func (w *world) slowly(d time.Duration) {
	for service, path := range map[string]string{pocket.Compute: "/servers", pocket.Container: "/containers"} {
		w.cloud.Fail(wire.Match{Service: service, Method: http.MethodPost, PathSuffix: path}, wire.Fault{Delay: d, DelayOnly: true}, -1)
	}
}

// small is an image that servers start from.
func (w *world) small() string {
	w.t.Helper()
	return w.upload("small", "raw", strings.NewReader(strings.Repeat("x", 4096)), 4096)
}

// place starts n workloads, every third a container, and gives the ids of their jobs.
func (w *world) place(image string, n int) []string {
	w.t.Helper()
	var jobs []string
	for i := range n {
		ask := placement.NewWorkload{Name: fmt.Sprintf("w%d", i), Kind: placement.VM, ImageID: image, Flavor: "kiln.tiny"}
		if i%3 == 2 {
			ask = placement.NewWorkload{Name: ask.Name, Kind: placement.Container, ImageRef: "nginx:1.25", Resources: placement.Resources{VCPUs: 1, MemoryMB: 64}}
		}
		var made placement.Workload
		if err := w.member.Post(w.t.Context(), "/v1/workloads", ask, &made); err != nil {
			w.t.Fatal(err)
		}
		jobs = append(jobs, made.JobID)
	}
	return jobs
}

// nodesKnown waits until an engine has read the cloud's nodes.
func (w *world) nodesKnown() {
	w.t.Helper()
	eventually(w.t, 30*time.Second, func() error {
		nodes, err := client.List[placement.Node](w.t.Context(), w.admin, "nodes", nil)
		if err == nil && len(nodes) != 3 {
			err = fmt.Errorf("%d nodes", len(nodes))
		}
		return err
	})
}

// allPlaced waits for the jobs and then holds Nova, Zun, Placement and the ledger against the workloads: each runs
// once, and the ledger is what Placement has.
func (w *world) allPlaced(jobs []string) {
	w.t.Helper()
	for _, id := range jobs {
		if j, log := w.ended(id, 90*time.Second); j.State != job.Succeeded {
			w.t.Errorf("job %s is %s after %d attempts: %+v\n%v", id, j.State, j.Attempt, j.Error, log)
		}
	}
	workloads, err := client.List[placement.Workload](w.t.Context(), w.member, "workloads", nil)
	if err != nil || len(workloads) != len(jobs) {
		w.t.Fatalf("%d workloads, error %v", len(workloads), err)
	}
	running := w.instances()
	for _, one := range workloads {
		ids := running[one.ID]
		if one.State != placement.Active || len(ids) != 1 || ids[0] != one.ExternalID {
			w.t.Errorf("workload %s is %s as %s; the cloud runs %v for it", one.Name, one.State, one.ExternalID, ids)
		}
		delete(running, one.ID)
	}
	if len(running) > 0 {
		w.t.Errorf("the cloud runs what no workload is: %v", running)
	}
	w.ledgerIsPlacement(len(jobs))
}

// instances are the servers and containers of the cloud by the workload that they carry.
func (w *world) instances() map[string][]string {
	w.t.Helper()
	found := map[string][]string{}
	var servers struct {
		Servers []struct {
			ID       string
			Metadata map[string]string
		}
	}
	compute := w.conn.Service(openstack.Description{Name: "nova", Types: []string{"compute"}, Version: "v2.1", Microversion: nova.Microversion})
	if err := compute.Get(w.t.Context(), "servers", "servers/detail", nil, &servers); err != nil {
		w.t.Fatal(err)
	}
	for _, s := range servers.Servers {
		key := s.Metadata[placement.KeyWorkload]
		found[key] = append(found[key], s.ID)
	}
	var containers struct {
		Containers []struct {
			UUID   string
			Labels map[string]string
		}
	}
	if err := w.containers().Get(w.t.Context(), "containers", "containers", nil, &containers); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range containers.Containers {
		key := c.Labels[placement.KeyWorkload]
		found[key] = append(found[key], c.UUID)
	}
	return found
}

func (w *world) containers() *openstack.Service {
	return w.conn.Service(openstack.Description{Name: "zun", Types: []string{"container"}, Version: "v1", Microversion: zun.Microversion})
}

// ledgerIsPlacement compares the open claims with what Placement has, consumer by consumer.
func (w *world) ledgerIsPlacement(want int) {
	w.t.Helper()
	service, _ := w.login("kiln", "service")
	providers := osplacement.New(service)
	has := map[string]string{}
	all, err := providers.Providers(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range all {
		held, err := providers.Consumers(w.t.Context(), p.ID)
		if err != nil {
			w.t.Fatal(err)
		}
		for consumer, amount := range held {
			has[consumer] = fmt.Sprintf("%s %+v", p.Name, amount)
		}
	}
	claims, err := w.store().ListClaims(w.t.Context(), listing.All())
	if err != nil {
		w.t.Fatal(err)
	}
	open := 0
	for _, c := range claims {
		if c.State == placement.ClaimReleased {
			continue
		}
		open++
		if got := fmt.Sprintf("%s %+v", c.Node, c.Resources); c.State != placement.ClaimConfirmed || has[c.ConsumerID] != got {
			w.t.Errorf("the ledger has %s %s, Placement %q", c.State, got, has[c.ConsumerID])
		}
	}
	if open != want || len(has) != want {
		w.t.Errorf("%d open claims and %d allocations for %d workloads", open, len(has), want)
	}
}

// An engine that is killed in the middle of placements leaves nothing half: the next one finds what it started.
func TestEngineKilledWhilePlacing(t *testing.T) {
	w := newWorld(t)
	w.startAPI()
	engine := w.start("kiln-engine", "[engine]\nparallel = 4\n")
	w.nodesKnown()
	w.slowly(400 * time.Millisecond)
	jobs := w.place(w.small(), 20)
	eventually(t, 30*time.Second, func() error { // in the middle: some are there, most are not
		n := 0
		for _, ids := range w.instances() {
			n += len(ids)
		}
		if n < 5 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	engine.kill()
	if n := w.count("SELECT COUNT(*) FROM jobs WHERE kind = 'place' AND state = 'running'"); n == 0 {
		t.Error("the engine was killed when no job was under way")
	}
	w.start("kiln-engine")
	w.allPlaced(jobs)
	if n := w.count("SELECT COUNT(*) FROM jobs WHERE kind = 'place' AND attempt > 1"); n == 0 {
		t.Error("no job was taken over")
	}
}

// Two engines and two workers share the work: each job runs once, and its result is written once.
func TestTwoOfEach(t *testing.T) {
	w := newWorld(t)
	w.startAPI()
	for range 2 {
		w.start("kiln-engine", "[engine]\nparallel = 2\n").says("connected to RabbitMQ")
		w.start("kiln-worker", "[worker]\nparallel = 2\n").says("connected to RabbitMQ")
	}
	w.nodesKnown()
	w.slowly(300 * time.Millisecond)
	w.cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodGet, PathSuffix: "/file"}, wire.Fault{Delay: 300 * time.Millisecond, DelayOnly: true}, -1)
	image := w.small()
	jobs := w.place(image, 12)
	var inspections []string
	for range 12 {
		id := w.upload("one of many", "raw", strings.NewReader(strings.Repeat("y", 4096)), 4096)
		inspections = append(inspections, w.inspect(id))
	}
	w.allPlaced(jobs)
	for _, id := range inspections {
		if j, log := w.ended(id, 30*time.Second); j.State != job.Succeeded {
			t.Errorf("inspection %s: %+v\n%v", id, j, log)
		}
	}
	all, err := client.List[job.Job](t.Context(), w.member, "jobs", nil)
	if err != nil || len(all) != 24 {
		t.Fatalf("%d jobs, error %v", len(all), err)
	}
	for _, j := range all {
		if j.Attempt != 1 {
			t.Errorf("job %s of %s ran %d times", j.ID, j.Resource, j.Attempt)
		}
	}
	for program, kind := range map[string]string{"kiln-engine": "place", "kiln-worker": "inspect"} {
		if n := w.count("SELECT COUNT(DISTINCT SUBSTRING_INDEX(lease_owner, ':', 3)) FROM jobs WHERE kind = ? AND lease_owner LIKE ?", kind, program+":%"); n != 2 {
			t.Errorf("%d programs ran the %s jobs", n, kind)
		}
	}
	w.toldOnce("workload.active", 12)
	w.toldOnce("image.unreadable", 12)
}

// toldOnce expects one event of the type for each of n resources.
func (w *world) toldOnce(kind string, n int) {
	w.t.Helper()
	events, err := w.store().After(w.t.Context(), 0, "", 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	var of []string
	for _, e := range events {
		if e.Type == kind {
			of = append(of, e.Resource)
		}
	}
	slices.Sort(of)
	if len(of) != n || len(slices.Compact(of)) != n {
		w.t.Errorf("%d events %s for %d resources, not %d", len(of), kind, len(slices.Compact(of)), n)
	}
}
