package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// pages walks a list page by page and gives the ids.
func pages(t *testing.T, db *store.DB, q listing.Query) []string {
	t.Helper()
	var ids []string
	for range 100 {
		bs, err := db.ListBuilds(t.Context(), q)
		must(t, err)
		if len(bs) == 0 {
			return ids
		}
		if len(bs) > q.Limit {
			t.Fatalf("a page of %d, limit %d", len(bs), q.Limit)
		}
		for _, b := range bs {
			ids = append(ids, b.ID)
		}
		q.Marker = bs[len(bs)-1].ID
	}
	t.Fatal("the pages do not end")
	return nil
}

func testListPages(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var all []string
	for i := range 12 { // in threes of the same time, in fours of the same recipe
		b := build.Build{ID: fmt.Sprintf("b%02d", (i*7)%12), ProjectID: "p1", Recipe: fmt.Sprintf("r%d", i%3), State: build.Failed, CreatedAt: at(i / 3), UpdatedAt: base}
		must(t, db.CreateBuild(ctx, b))
		all = append(all, b.ID)
	}
	must(t, db.CreateBuild(ctx, build.Build{ID: "foreign", ProjectID: "p2", Recipe: "r0", State: build.Failed, CreatedAt: at(1)}))
	for _, sort := range [][]listing.Key{
		nil,
		{{Field: "id"}},
		{{Field: "id", Desc: true}},
		{{Field: "created_at"}},
		{{Field: "recipe", Desc: true}, {Field: "created_at"}},
		{{Field: "recipe"}, {Field: "created_at", Desc: true}, {Field: "id"}},
		{{Field: "state"}},
	} {
		whole, err := db.ListBuilds(ctx, listing.Query{ProjectID: "p1", Sort: sort, Limit: 100})
		must(t, err)
		var want []string
		for _, b := range whole {
			want = append(want, b.ID)
		}
		for _, limit := range []int{1, 2, 5, 12} {
			equal(t, pages(t, db, listing.Query{ProjectID: "p1", Sort: sort, Limit: limit}), want)
		}
		sorted := slices.Sorted(slices.Values(want))
		slices.Sort(all)
		equal(t, sorted, all)
	}
	newest, err := db.ListBuilds(ctx, listing.Query{ProjectID: "p1", Limit: 1})
	if err != nil || !newest[0].CreatedAt.Equal(at(3)) {
		t.Fatalf("the default order does not begin with the newest: %v %v", newest, err)
	}
	byRecipe, err := db.ListBuilds(ctx, listing.Query{Sort: []listing.Key{{Field: "recipe", Desc: true}}, Limit: 1})
	if err != nil || byRecipe[0].Recipe != "r2" {
		t.Fatal(byRecipe, err)
	}
}

func testListRefuses(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.CreateBuild(ctx, build.Build{ID: "b1", ProjectID: "p1"}))
	for _, c := range []struct {
		q    listing.Query
		code string
	}{
		{listing.Query{Filter: map[string]string{"steps": "x"}}, "kiln.query.filter"},
		{listing.Query{Filter: map[string]string{"id`; DROP TABLE builds": "x"}}, "kiln.query.filter"},
		{listing.Query{Filter: map[string]string{"force": "perhaps"}}, "kiln.query.filter"},
		{listing.Query{Sort: []listing.Key{{Field: "error"}}}, "kiln.query.sort"},
		{listing.Query{Sort: []listing.Key{{Field: "1, (SELECT 1)"}}}, "kiln.query.sort"},
		{listing.Query{Marker: "b9"}, "kiln.query.marker"},
		{listing.Query{ProjectID: "p2", Marker: "b1"}, "kiln.query.marker"},
	} {
		_, err := db.ListBuilds(ctx, c.q)
		wantErr(t, err, errs.Invalid, c.code)
	}
	// Case and trailing blanks count, in both databases.
	for _, name := range []string{"B1", "b1 "} {
		if _, err := db.FindBuild(ctx, name); !errs.Is(err, errs.NotFound) {
			t.Fatalf("%q found b1: %v", name, err)
		}
	}
	if bs, err := db.ListBuilds(ctx, listing.Query{Filter: map[string]string{"id": "' OR 1=1 -- \\"}}); err != nil || len(bs) != 0 {
		t.Fatal(bs, err)
	}
}

func testContextEnds(t *testing.T, db *store.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := db.FindBuild(ctx, "b1")
	if !errs.Is(err, errs.Cancelled) {
		t.Fatalf("cancelled: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	time.Sleep(time.Millisecond)
	err = db.AddJob(ctx, newJob("j1", job.WorkerQueue, base))
	if !errs.Is(err, errs.Timeout) {
		t.Fatalf("deadline: %v", err)
	}
	// A transaction whose caller goes away in the middle leaves nothing.
	ctx, cancel = context.WithCancel(t.Context())
	err = db.InTx(ctx, func(ctx context.Context) error {
		must(t, db.PutNode(ctx, placement.Node{Name: "n1"}))
		cancel()
		return nil
	})
	if err == nil {
		t.Fatal("a cancelled transaction committed")
	}
	if _, err := db.FindNode(t.Context(), "n1"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a cancelled transaction left its write: %v", err)
	}
}

func testMigrateAgain(t *testing.T, db *store.DB) {
	ctx := t.Context()
	latest, err := store.LatestVersion()
	must(t, err)
	must(t, db.PutNode(ctx, placement.Node{Name: "n1"}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := db.Migrate(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if v, err := db.Version(ctx); v != latest || err != nil {
		t.Fatalf("version %d, want %d: %v", v, latest, err)
	}
	_, err = db.FindNode(ctx, "n1")
	must(t, err)
	must(t, db.Ping(ctx))
}
