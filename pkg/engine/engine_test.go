package engine_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	osplacement "github.com/kiln-cloud/kiln/pkg/openstack/placement"
	"github.com/kiln-cloud/kiln/pkg/openstack/zun"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/store"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// plant is an engine on a real SQLite store and the pocket cloud's Nova, Zun and Placement.
type plant struct {
	t         *testing.T
	db        *store.DB
	cloud     *pocket.Cloud
	engine    *engine.Engine
	providers *osplacement.Client
	nova      *nova.Client
	service   placement.Service
	image     string
	by        job.By
}

func newPlant(t *testing.T, nodes ...wire.Node) *plant {
	t.Helper()
	ctx := t.Context()
	log := logrus.New()
	log.SetOutput(io.Discard)
	db, err := store.Open(ctx, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	cloud, err := pocket.Start(context.WithoutCancel(ctx), pocket.Config{Dir: t.TempDir(), Nodes: nodes, Zun: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	conn, err := openstack.Connect(ctx, openstack.Config{AuthURL: cloud.AuthURL(), Username: "kiln", Password: "kiln", ProjectName: "service", Interface: "public"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := conn.ForProject("").ID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{t: t, db: db, cloud: cloud, providers: osplacement.New(conn), nova: nova.New(conn), by: job.By{ProjectID: project, UserID: "u", RequestID: "req-1"}}
	p.engine = engine.New(engine.Deps{
		Store: db, Glance: glance.New(conn), Nova: p.nova, Zun: zun.New(conn), Providers: p.providers,
		SyncInterval: time.Hour, PlaceTimeout: 5 * time.Second, PollEvery: 10 * time.Millisecond, Log: log,
	})
	p.service = placement.Service{Desk: job.Desk{Jobs: db, Tx: db, Events: db, Now: time.Now, NewID: uuid.NewString}, Store: db, Catalog: db}
	p.image = p.upload(glance.New(conn))
	p.sync()
	return p
}

func (p *plant) upload(g *glance.Client) string {
	p.t.Helper()
	img, err := g.CreateImage(p.t.Context(), catalog.NewGlanceImage{ID: uuid.NewString(), Name: "disk", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "public"})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := g.Upload(p.t.Context(), img.ID, io.LimitReader(zeros{}, 4096), 4096); err != nil {
		p.t.Fatal(err)
	}
	return img.ID
}

func (p *plant) sync() {
	p.t.Helper()
	if err := p.engine.Sync(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// drain runs the engine's jobs, several at once, until none is open.
func (p *plant) drain() {
	p.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := &job.Runner{
		Store: p.db, Waker: never{}, Handlers: p.engine.Handlers(), Queues: []job.Queue{job.EngineQueue}, Owner: uuid.NewString(), Parallel: 4,
		Lease: 10 * time.Second, Beat: 50 * time.Millisecond, Poll: 10 * time.Millisecond, Log: log,
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(ctx) })
	defer wg.Wait()
	defer cancel()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// One question for all states: a job that moves between two questions would not be seen.
		all, err := p.db.ListJobs(ctx, listing.All())
		if err != nil {
			p.t.Fatal(err)
		}
		if !slices.ContainsFunc(all, func(j job.Job) bool { return !j.State.Final() }) {
			return
		}
	}
	p.t.Fatal("jobs are still open")
}

func (p *plant) vm(name string) placement.Workload {
	return p.create(placement.NewWorkload{Name: name, Kind: placement.VM, ImageID: p.image, Flavor: "kiln.tiny"})
}

func (p *plant) container(name string) placement.Workload {
	return p.create(placement.NewWorkload{
		Name: name, Kind: placement.Container, ImageRef: "nginx:1.25", Resources: placement.Resources{VCPUs: 1, MemoryMB: 64},
	})
}

func (p *plant) create(n placement.NewWorkload) placement.Workload {
	p.t.Helper()
	w, err := p.service.CreateWorkload(p.t.Context(), p.by, n)
	if err != nil {
		p.t.Fatal(err)
	}
	return w
}

func (p *plant) find(id string) placement.Workload {
	p.t.Helper()
	w, err := p.db.FindWorkload(p.t.Context(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	return w
}

// equal holds the ledger against Placement, consumer by consumer.
func (p *plant) equal(wantClaims int) {
	p.t.Helper()
	ctx := p.t.Context()
	claims, err := p.db.ListClaims(ctx, listing.All().Where("state", string(placement.ClaimConfirmed)))
	if err != nil {
		p.t.Fatal(err)
	}
	held, err := p.db.ListClaims(ctx, listing.All().Where("state", string(placement.ClaimHeld)))
	if err != nil {
		p.t.Fatal(err)
	}
	if len(held) != 0 || len(claims) != wantClaims {
		p.t.Errorf("the ledger has %d confirmed and %d held claims, want %d and 0", len(claims), len(held), wantClaims)
	}
	ledger := map[string]string{}
	for _, c := range claims {
		ledger[c.ConsumerID] = fmt.Sprint(c.ProviderID, c.Resources)
	}
	providers, err := p.providers.Providers(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	real := map[string]string{}
	for _, prov := range providers {
		consumers, err := p.providers.Consumers(ctx, prov.ID)
		if err != nil {
			p.t.Fatal(err)
		}
		for id, r := range consumers {
			real[id] = fmt.Sprint(prov.ID, r)
		}
	}
	if len(real) != len(ledger) {
		p.t.Errorf("Placement has %d consumers, the ledger %d", len(real), len(ledger))
	}
	for id, want := range real {
		if ledger[id] != want {
			p.t.Errorf("consumer %s: Placement has %s, the ledger %q", id, want, ledger[id])
		}
	}
}

func nodes(n int) []wire.Node {
	out := make([]wire.Node, n)
	for i := range out {
		out[i] = wire.Node{Name: fmt.Sprintf("node%d", i+1), VCPUs: 16, MemoryMB: 8192, DiskGB: 100}
	}
	return out
}

func TestLedgerEqualsPlacementAfterMixedCreatesAndDeletes(t *testing.T) {
	p := newPlant(t, nodes(3)...)
	var live []string
	for i := range 50 {
		if len(live) > 0 && rand.IntN(3) == 0 {
			k := rand.IntN(len(live))
			if _, err := p.service.DeleteWorkload(t.Context(), p.by, live[k]); err != nil {
				t.Fatal(err)
			}
			live = append(live[:k], live[k+1:]...)
			continue
		}
		w := p.vm
		if i%2 == 1 {
			w = p.container
		}
		live = append(live, w(fmt.Sprintf("w%d", i)).ID)
		if i%10 == 9 {
			p.drain()
		}
	}
	p.drain()
	for _, id := range live {
		if w := p.find(id); w.State != placement.Active || w.ExternalID == "" || w.Node == "" {
			t.Errorf("workload %+v", w)
		}
	}
	p.equal(len(live))
	p.sync()
	p.equal(len(live))
	all, err := p.db.ListNodes(t.Context(), listing.All())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.Foreign != (placement.Resources{}) {
			t.Errorf("node %s counts %+v as held by others", n.Name, n.Foreign)
		}
	}
}

func TestNoRoomIsExplainedAndLeavesNothing(t *testing.T) {
	p := newPlant(t, wire.Node{Name: "small", VCPUs: 1, MemoryMB: 64, DiskGB: 1})
	w := p.vm("too-big")
	p.drain()
	got := p.find(w.ID)
	if got.State != placement.Errored || got.Error == "" {
		t.Errorf("workload %+v", got)
	}
	p.equal(0)
}

// Nova refuses on the first node: the ledger is freed there and the next node takes the workload.
func TestAnotherNodeIsTriedWhereOneRefuses(t *testing.T) {
	p := newPlant(t, nodes(2)...)
	p.cloud.Fail(wire.Match{Service: pocket.Compute, Method: http.MethodPost, PathSuffix: "/servers"}, wire.Fault{Status: http.StatusConflict}, 1)
	w := p.vm("one")
	p.drain()
	if got := p.find(w.ID); got.State != placement.Active {
		t.Errorf("workload %+v", got)
	}
	p.equal(1)
}

// The answer of the create is lost: the repeat finds the server by its key and does not start a second one.
func TestLostAnswerStartsNoSecondServer(t *testing.T) {
	p := newPlant(t, nodes(2)...)
	p.cloud.Fail(wire.Match{Service: pocket.Compute, Method: http.MethodPost, PathSuffix: "/servers"}, wire.Fault{AfterServing: true}, 1)
	w := p.vm("one")
	p.drain()
	if got := p.find(w.ID); got.State != placement.Active {
		t.Errorf("workload %+v", got)
	}
	found, err := p.nova.ServersByKey(t.Context(), p.by.ProjectID, w.ID)
	if err != nil || len(found) != 1 {
		t.Errorf("servers %+v, error %v", found, err)
	}
	p.equal(1)
}

// An engine dies while Nova works on its create, and the user deletes the workload before the server can be seen:
// the removal waits for the dead engine's lease, and nothing is left.
func TestDeleteDuringACreateThatNobodyWaitsForLeavesNothing(t *testing.T) {
	p := newPlant(t, nodes(1)...)
	w := p.vm("one")
	now := time.Now()
	if j, err := p.db.LeaseJob(t.Context(), []job.Queue{job.EngineQueue}, nil, "dead", now, now.Add(time.Second)); err != nil || j == nil || j.ID != w.JobID {
		t.Fatalf("leased %+v, error %v", j, err)
	}
	w.State = placement.Placing
	if err := p.db.UpdateWorkload(t.Context(), w, placement.Requested); err != nil {
		t.Fatal(err)
	}
	if _, err := p.service.DeleteWorkload(t.Context(), p.by, w.ID); err != nil {
		t.Fatal(err)
	}
	flavor, err := p.nova.Flavor(t.Context(), "kiln.tiny")
	if err != nil {
		t.Fatal(err)
	}
	late := make(chan error, 1)
	go func() {
		time.Sleep(300 * time.Millisecond)
		_, err := p.nova.CreateServer(t.Context(), p.by.ProjectID, placement.NewServer{
			Name: "one", ImageID: p.image, FlavorID: flavor.ID, Host: "node1", Metadata: map[string]string{placement.KeyWorkload: w.ID},
		})
		late <- err
	}()
	p.drain()
	if err := <-late; err != nil {
		t.Fatal(err)
	}
	found, err := p.nova.ServersByKey(t.Context(), p.by.ProjectID, w.ID)
	if got := p.find(w.ID); err != nil || len(found) != 0 || got.State != placement.Deleted {
		t.Errorf("servers %+v, workload %+v, error %v", found, got, err)
	}
	p.equal(0)
}

// A server turns up after its workload was removed for good: the next round deletes it, and nobody else's.
func TestLateServerOfADeletedWorkloadIsSwept(t *testing.T) {
	p := newPlant(t, nodes(1)...)
	w, other := p.vm("one"), p.vm("two")
	p.drain()
	if _, err := p.service.DeleteWorkload(t.Context(), p.by, w.ID); err != nil {
		t.Fatal(err)
	}
	p.drain()
	late, err := p.nova.CreateServer(t.Context(), p.by.ProjectID, placement.NewServer{
		Name: "one", ImageID: p.image, FlavorID: p.find(w.ID).Flavor, Host: "node1", Metadata: map[string]string{placement.KeyWorkload: w.ID},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.sync()
	for range 100 {
		if _, err = p.nova.Server(t.Context(), p.by.ProjectID, late.ID); errs.Is(err, errs.NotFound) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errs.Is(err, errs.NotFound) {
		t.Errorf("the late server is still there: %v", err)
	}
	if got := p.find(other.ID); got.State != placement.Active {
		t.Errorf("the other workload is %+v", got)
	}
	p.equal(1)
}

// Somebody deletes the server in Nova: the next round of reconciling frees the ledger and says so.
func TestServerDeletedOutsideKilnIsNoticed(t *testing.T) {
	p := newPlant(t, nodes(1)...)
	w := p.vm("one")
	p.drain()
	if err := p.nova.DeleteServer(t.Context(), p.by.ProjectID, p.find(w.ID).ExternalID); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := p.nova.Server(t.Context(), p.by.ProjectID, p.find(w.ID).ExternalID); errs.Is(err, errs.NotFound) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.sync()
	if got := p.find(w.ID); got.State != placement.Deleted {
		t.Errorf("workload %+v", got)
	}
	p.equal(0)
}

type never struct{}

func (never) Wake(context.Context, []job.Queue) (<-chan struct{}, error) { return nil, nil }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
