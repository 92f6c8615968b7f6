package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testClusters(t *testing.T, db *store.DB) {
	ctx := t.Context()
	a := cache.Cluster{ID: "c1", Name: "a", Nodes: []string{"n1", "n2"}, Stores: []cache.StoreSpec{{Name: "ssd", Type: "ceph", Pool: "cluster-a"}}, CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateCluster(ctx, a))
	wantErr(t, db.CreateCluster(ctx, a), errs.Conflict, "kiln.cluster.exists")
	b := cache.Cluster{ID: "c2", Name: "b", Nodes: []string{"n3", "n2"}, Stores: []cache.StoreSpec{}, CreatedAt: base, UpdatedAt: base}
	wantErr(t, db.CreateCluster(ctx, b), errs.Conflict, "kiln.cluster.node_taken")
	_, err := db.FindCluster(ctx, "b")
	wantErr(t, err, errs.NotFound, "kiln.cluster.not_found")
	b.Nodes = []string{"n3", "n3"}
	must(t, db.CreateCluster(ctx, b))
	a.Nodes = []string{"n1"}
	for range 2 {
		must(t, db.UpdateCluster(ctx, a))
	}
	b.Nodes = []string{"n3", "n2"}
	must(t, db.UpdateCluster(ctx, b))
	got, err := db.ClusterOfNode(ctx, "n2")
	must(t, err)
	equal(t, got, b)
	a.Nodes = []string{"n1", "n2"}
	wantErr(t, db.UpdateCluster(ctx, a), errs.Conflict, "kiln.cluster.node_taken")
	if got, err = db.ClusterOfNode(ctx, "n1"); err != nil || got.Name != "a" {
		t.Fatalf("a refused update took the node away: %v %v", got, err)
	}
	_, err = db.ClusterOfNode(ctx, "n9")
	wantErr(t, err, errs.NotFound, "kiln.cluster.not_found")
	c, err := db.EnsureCopy(ctx, cache.Copy{ID: "x1", Cluster: "b", Store: "ssd", ImageID: "i1", State: cache.CopyQueued})
	must(t, err)
	wantErr(t, db.DeleteCluster(ctx, "b"), errs.Conflict, "kiln.cluster.in_use")
	if cs, err := db.ListClusters(ctx, listing.All()); err != nil || len(cs) != 2 {
		t.Fatal(cs, err)
	}
	must(t, db.DeleteCopy(ctx, c.ID))
	must(t, db.DeleteCluster(ctx, "b"))
	wantErr(t, db.DeleteCluster(ctx, "b"), errs.NotFound, "kiln.cluster.not_found")
	_, err = db.ClusterOfNode(ctx, "n2")
	wantErr(t, err, errs.NotFound, "kiln.cluster.not_found")
}

func testCopies(t *testing.T, db *store.DB) {
	ctx := t.Context()
	want := cache.Copy{Cluster: "a", Store: cache.NovaCache, Node: "n1", ImageID: "i1", State: cache.CopyQueued, JobID: "j1", CreatedAt: base, UpdatedAt: base}
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			c := want
			c.ID = fmt.Sprintf("c%d", i)
			got, err := db.EnsureCopy(ctx, c)
			if err != nil {
				t.Error(err)
			}
			ids[i] = got.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one place, several copies: %v", ids)
		}
	}
	when := at(4)
	want.ID, want.State, want.VerifiedAt, want.Bytes = ids[0], cache.CopyVerified, &when, 1<<33
	for range 2 {
		must(t, db.UpdateCopy(ctx, want))
	}
	got, err := db.FindCopy(ctx, want.ID)
	must(t, err)
	equal(t, got, want)
	list, err := db.ListCopies(ctx, listing.Query{Filter: map[string]string{"image_id": "i1", "state": "verified", "node": "n1"}})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	for range 2 {
		must(t, db.DeleteCopy(ctx, want.ID))
	}
	wantErr(t, db.UpdateCopy(ctx, want), errs.NotFound, "kiln.copy.not_found")
}

func testNodes(t *testing.T, db *store.DB) {
	ctx := t.Context()
	wantErr(t, db.SeenNode(ctx, "n1", base), errs.NotFound, "kiln.node.not_found")
	must(t, db.CreateCluster(ctx, cache.Cluster{ID: "c1", Name: "a", Nodes: []string{"n1"}}))
	n := placement.Node{Name: "n1", ProviderID: "rp1", NovaHost: "n1", Up: true, Capacity: placement.Resources{VCPUs: 8, MemoryMB: 4096, DiskGB: 50}, Foreign: placement.Resources{VCPUs: 1}, UpdatedAt: base}
	must(t, db.PutNode(ctx, n))
	must(t, db.SeenNode(ctx, "n1", at(7)))
	must(t, db.Hold(ctx, placement.Claim{WorkloadID: "w1", Node: "n1", Resources: placement.Resources{VCPUs: 2, MemoryMB: 512, DiskGB: 3}}))
	n.Up, n.Disabled = false, true
	for range 2 {
		must(t, db.PutNode(ctx, n)) // leaves what it does not own
	}
	seen := at(7)
	n.Cluster, n.AgentSeen, n.Held = "a", &seen, placement.Resources{VCPUs: 2, MemoryMB: 512, DiskGB: 3}
	got, err := db.FindNode(ctx, "n1")
	must(t, err)
	equal(t, got, n)
	must(t, db.PutNode(ctx, placement.Node{Name: "n2", UpdatedAt: base}))
	list, err := db.ListNodes(ctx, listing.Query{Filter: map[string]string{"cluster": "a"}})
	must(t, err)
	equal(t, list, []placement.Node{n})
	list, err = db.ListNodes(ctx, listing.Query{Filter: map[string]string{"cluster": ""}})
	if err != nil || len(list) != 1 || list[0].Name != "n2" {
		t.Fatal(list, err)
	}
	if list, err = db.ListNodes(ctx, listing.Query{Marker: "n1"}); err != nil || len(list) != 1 || list[0].Name != "n2" {
		t.Fatal(list, err)
	}
	_, err = db.FindNode(ctx, "n9")
	wantErr(t, err, errs.NotFound, "kiln.node.not_found")
}

func testWorkloads(t *testing.T, db *store.DB) {
	ctx := t.Context()
	w := placement.Workload{
		ID: "w1", ProjectID: "p1", UserID: "u1", Name: "web", Kind: placement.Container, ImageRef: "nginx:1.25", Command: []string{"sh", "-c", "echo 'a\\b\"'"},
		Resources: placement.Resources{VCPUs: 1, MemoryMB: 64}, State: placement.Requested, CreatedAt: base, UpdatedAt: base,
	}
	must(t, db.CreateWorkload(ctx, w))
	wantErr(t, db.CreateWorkload(ctx, w), errs.Conflict, "kiln.workload.exists")
	w.State, w.Node, w.ExternalID, w.Note = placement.Active, "n1", "z1", "the channel is empty"
	must(t, db.UpdateWorkload(ctx, w))
	late := w
	late.State = placement.Errored
	wantErr(t, db.UpdateWorkload(ctx, late, placement.Requested, placement.Placing), errs.Conflict, placement.CodeMoved)
	for range 2 { // the same write twice: its answer may have been lost
		must(t, db.UpdateWorkload(ctx, w, placement.Requested, placement.Active))
	}
	got, err := db.FindWorkload(ctx, "w1")
	must(t, err)
	equal(t, got, w)
	if ws, err := db.ListWorkloads(ctx, listing.Query{ProjectID: "p1", Filter: map[string]string{"kind": "container", "node": "n1"}}); err != nil || len(ws) != 1 {
		t.Fatal(ws, err)
	}
}

func testLedger(t *testing.T, db *store.DB) {
	ctx := t.Context()
	size := placement.Resources{VCPUs: 2, MemoryMB: 1024, DiskGB: 10}
	claim := func(w, node string) placement.Claim {
		return placement.Claim{ID: w, WorkloadID: w, Node: node, ProviderID: "rp-" + node, Resources: size}
	}
	wantErr(t, db.Hold(ctx, claim("w1", "n1")), errs.NotFound, "kiln.node.not_found")
	for _, n := range []string{"n1", "n2"} { // room for two: the third part of the VCPUs is foreign
		must(t, db.PutNode(ctx, placement.Node{Name: n, Capacity: placement.Resources{VCPUs: 6, MemoryMB: 4096, DiskGB: 100}, Foreign: placement.Resources{VCPUs: 2}}))
	}
	for range 2 {
		must(t, db.Hold(ctx, claim("w1", "n1")))
	}
	must(t, db.Hold(ctx, claim("w2", "n1")))
	wantErr(t, db.Hold(ctx, claim("w3", "n1")), errs.Conflict, "kiln.placement.full")
	wantErr(t, db.Hold(ctx, claim("w1", "n2")), errs.Conflict, "kiln.placement.held")
	for range 2 {
		must(t, db.Confirm(ctx, "w1", "server-1", placement.Resources{VCPUs: 1, MemoryMB: 1024, DiskGB: 10}))
	}
	c, err := db.FindClaim(ctx, "w1")
	if err != nil || c.State != placement.ClaimConfirmed || c.ConsumerID != "server-1" || c.Resources.VCPUs != 1 || c.ProviderID != "rp-n1" {
		t.Fatal(c, err)
	}
	wantErr(t, db.Hold(ctx, claim("w3", "n1")), errs.Conflict, "kiln.placement.full")
	for range 2 {
		must(t, db.Release(ctx, "w1"))
	}
	must(t, db.Release(ctx, "never"))
	wantErr(t, db.Confirm(ctx, "w1", "server-1", size), errs.Conflict, "kiln.claim.released")
	wantErr(t, db.Confirm(ctx, "w9", "server-9", size), errs.NotFound, "kiln.claim.not_found")
	must(t, db.Hold(ctx, claim("w3", "n1")))
	must(t, db.Hold(ctx, claim("w1", "n2"))) // released before: it may go elsewhere
	open, err := db.ListClaims(ctx, listing.Query{Filter: map[string]string{"node": "n1", "state": "held"}})
	if err != nil || len(open) != 2 || open[0].ID != "w2" || open[1].ID != "w3" {
		t.Fatal(open, err)
	}
}

// testLedgerLastPlace: many want the last place of a node at the same moment, several times over, so that the
// pool's connections are open by the later rounds and the holds really meet.
func testLedgerLastPlace(t *testing.T, db *store.DB) {
	for round := range 5 {
		lastPlace(t, db, fmt.Sprintf("n%d", round))
	}
}

func lastPlace(t *testing.T, db *store.DB, node string) {
	t.Helper()
	ctx := t.Context()
	must(t, db.PutNode(ctx, placement.Node{Name: node, Capacity: placement.Resources{VCPUs: 4, MemoryMB: 4096, DiskGB: 40}}))
	must(t, db.Hold(ctx, placement.Claim{WorkloadID: node + "-first", Node: node, Resources: placement.Resources{VCPUs: 3}}))
	var won, full atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 20 {
		wg.Go(func() {
			<-start
			err := db.Hold(ctx, placement.Claim{WorkloadID: fmt.Sprintf("%s-w%d", node, i), Node: node, Resources: placement.Resources{VCPUs: 1}})
			switch {
			case err == nil:
				won.Add(1)
			case errs.CodeOf(err) == "kiln.placement.full":
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	if won.Load() != 1 || full.Load() != 19 {
		t.Fatalf("%d won and %d were told that the node is full, want 1 and 19", won.Load(), full.Load())
	}
	n, err := db.FindNode(ctx, node)
	if err != nil || n.Held.VCPUs != 4 {
		t.Fatal(n, err)
	}
}
