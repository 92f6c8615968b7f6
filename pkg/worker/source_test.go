package worker_test

import (
	"context"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

func (s *shop) openBuilds() []build.Build {
	s.t.Helper()
	bs, err := s.db.ListBuilds(s.t.Context(), listing.All())
	if err != nil {
		s.t.Fatal(err)
	}
	return bs
}

// What a webhook or an interval finds changed is built; what people only read, and what was there at first, is not.
func TestAnnouncedChangesAreBuilt(t *testing.T) {
	s := newShop(t)
	commit, recipe := strings.Repeat("a", 40), "name: web\nfrom: {release: bookworm}\noutput: {format: raw}\n"
	s.deps.Fetch = func(context.Context, string, string, string) (worker.Checkout, error) {
		return worker.Checkout{Commit: commit, Files: fstest.MapFS{"recipes/web.yaml": {Data: []byte(recipe)}}, Close: func() error { return nil }}, nil
	}
	now := time.Now().Add(-time.Hour) // jobs are due by the clock of the worker
	s.builds.Now = func() time.Time { return now }
	src, err := s.builds.CreateSource(t.Context(), s.by(), build.NewSource{Name: "main", URL: "https://git.example.org/r", Interval: "15m"})
	if err != nil {
		t.Fatal(err)
	}
	s.drain()
	if bs := s.openBuilds(); len(bs) != 0 {
		t.Fatalf("the first read built %+v", bs)
	}
	commit, recipe = strings.Repeat("b", 40), recipe+"packages: [curl]\n"
	if n, err := s.builds.SyncDue(t.Context(), s.by()); n != 0 || err != nil {
		t.Fatalf("%d were due too early: %v", n, err)
	}
	now = now.Add(16 * time.Minute)
	for _, want := range []int{1, 0} { // the second engine comes too late
		if n, err := s.builds.SyncDue(t.Context(), s.by()); n != want || err != nil {
			t.Fatalf("%d were due, want %d: %v", n, want, err)
		}
	}
	s.drain()
	bs := s.openBuilds()
	if len(bs) != 1 || bs[0].Commit != commit || bs[0].Trigger != build.ByPush || bs[0].Reason != "commit bbbbbbb of source main, pulled every 15m" {
		t.Fatalf("%+v", bs)
	}
	if _, started, err := s.builds.Announced(t.Context(), s.by(), src.ID, "announced by github", "1"); err != nil || !started {
		t.Fatal(started, err)
	}
	s.drain()
	if n := len(s.openBuilds()); n != 1 {
		t.Fatalf("an equal recipe was built again: %d", n)
	}
	recipe += "values: {a: b}\n"
	if _, err := s.builds.SyncSource(t.Context(), s.by(), src.ID); err != nil {
		t.Fatal(err)
	}
	s.drain()
	if n := len(s.openBuilds()); n != 1 {
		t.Fatalf("a read on request built something: %d", n)
	}
	if got, err := s.db.FindSource(t.Context(), src.ID); err != nil || got.State != build.SourceReady || got.Commit != commit || got.Secret == "" || !got.NextSync.After(now) {
		t.Fatalf("%+v %v", got, err)
	}
}
