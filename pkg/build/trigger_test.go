package build_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
)

// onBoth runs a test on SQLite and on a real MariaDB.
func onBoth(t *testing.T, test func(t *testing.T, f *factory)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, newFactory(t, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")}))
	})
	t.Run("MariaDB", func(t *testing.T) {
		if testing.Short() {
			t.Skip("needs a real MariaDB")
		}
		t.Parallel()
		test(t, newFactory(t, store.Config{Driver: store.MySQL, DSN: mariadb.New(t)}))
	})
}

// factory is a store with a service on it and a clock that the test sets.
type factory struct {
	*build.Service
	t    *testing.T
	db   *store.DB
	mu   sync.Mutex
	time time.Time
}

func newFactory(t *testing.T, cfg store.Config) *factory {
	t.Helper()
	db, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := &factory{t: t, db: db, time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.Service = &build.Service{Desk: job.Desk{Jobs: db, Tx: db, Events: db, Now: f.now, NewID: uuid.NewString}, Store: db}
	return f
}

func (f *factory) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.time
}

func (f *factory) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.time = f.time.Add(d)
}

// commit makes texts the recipes of the source "s" at a commit, and gives them by name.
func (f *factory) commit(commit string, texts ...string) map[string]build.Recipe {
	f.t.Helper()
	ctx := f.t.Context()
	if _, err := f.db.FindSource(ctx, "s"); errs.Is(err, errs.NotFound) {
		f.ok(f.db.CreateSource(ctx, build.Source{ID: "s", ProjectID: "p", Name: "s", State: build.SourceReady}))
	}
	var rows []build.Recipe
	for i, text := range texts {
		r, err := recipe.Parse(fmt.Sprintf("recipes/%d.yaml", i), []byte(text))
		f.ok(err)
		rows = append(rows, build.Recipe{
			ID: uuid.NewString(), ProjectID: "p", SourceID: "s", Name: r.Name, Path: r.Path, Commit: commit, Spec: r, Problems: []build.Problem{}, UpdatedAt: f.now(),
		})
	}
	f.ok(f.db.ReplaceRecipes(ctx, "s", rows))
	got, err := f.db.ListRecipes(ctx, listing.All())
	f.ok(err)
	out := map[string]build.Recipe{}
	for _, r := range got {
		out[r.Name] = r
	}
	return out
}

func (f *factory) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *factory) builds(state build.State) []build.Build {
	f.t.Helper()
	out, err := f.db.ListBuilds(f.t.Context(), listing.All().Where("state", string(state)))
	f.ok(err)
	return out
}

// end ends a build as a worker does.
func (f *factory) end(b build.Build, s build.State) {
	f.t.Helper()
	f.ok(f.db.InTx(f.t.Context(), func(ctx context.Context) error {
		b.State, b.UpdatedAt = s, f.now()
		if err := f.db.UpdateBuild(ctx, b); err != nil {
			return err
		}
		return f.Ended(ctx, b.RecipeID)
	}))
}

var someone = job.By{ProjectID: "p", UserID: "alice", RequestID: "req-1"}

const web = "name: web\nfrom: {release: bookworm}\n"

func TestBurstMakesOneBuild(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		r := f.commit("c1", web+"builder: {needs: [gpu]}\n")["web"]
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				if _, err := f.Triggered(t.Context(), someone, r.ID, build.ByPush, fmt.Sprintf("push %d", i%4)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		queued := f.builds(build.Queued)
		if len(queued) != 1 {
			t.Fatalf("%d builds", len(queued))
		}
		got := strings.Split(queued[0].Reason, "; ")
		slices.Sort(got)
		if strings.Join(got, " ") != "push 0 push 1 push 2 push 3" || queued[0].Trigger != build.ByPush || queued[0].UserID != "alice" {
			t.Errorf("trigger %s by %s because of %q", queued[0].Trigger, queued[0].UserID, queued[0].Reason)
		}
		// The next commit asks for another builder: build and job follow it.
		f.commit("c2", web+"builder: {name: packer, needs: [disk_gib>=50]}\n")
		b, err := f.Triggered(t.Context(), job.By{ProjectID: "p"}, r.ID, build.BySchedule, "schedule")
		f.ok(err)
		if b.ID != queued[0].ID || b.Commit != "c2" || b.Builder != "packer" {
			t.Errorf("joined build %+v", b)
		}
		j, err := f.db.FindJob(t.Context(), b.JobID)
		f.ok(err)
		if strings.Join(j.Needs, " ") != "disk_gib>=50 builder=packer" || strings.Join(f.builds(build.Queued)[0].Needs, " ") != strings.Join(j.Needs, " ") {
			t.Errorf("needs %v", j.Needs)
		}
	})
}

func TestExactlyOneBuildFollowsARunningOne(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		r := f.commit("c1", web)["web"]
		b, err := f.Triggered(t.Context(), someone, r.ID, build.ByPush, "push 0")
		f.ok(err)
		running, err := f.db.BeginBuild(t.Context(), b.ID, "w1", f.now())
		f.ok(err)
		if running.State != build.Running || running.Worker != "w1" {
			t.Fatalf("begun: %+v", running)
		}
		f.commit("c2", web)
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				got, err := f.Triggered(t.Context(), someone, r.ID, build.ByPush, fmt.Sprintf("push %d", 1+i%2))
				if err != nil || got.ID != b.ID || got.State != build.Running {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		all.Wait()
		if n := len(f.builds(build.Queued)); n != 0 {
			t.Fatalf("%d builds beside the running one", n)
		}
		f.end(running, build.Failed)
		f.end(running, build.Failed) // the worker did not hear the answer and says it again
		next := f.builds(build.Queued)
		if len(next) != 1 || next[0].Commit != "c2" || len(next[0].Reason) != len("push 1; push 2") || next[0].ID == b.ID {
			t.Fatalf("what follows: %+v", next)
		}
		f.end(next[0], build.Succeeded)
		if n := len(f.builds(build.Queued)); n != 0 {
			t.Errorf("%d more builds that nobody asked for", n)
		}
	})
}

// A worker takes the build while a trigger is about to join it: whichever comes first, the newest commit is built.
func TestJoinAndBeginAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		r := f.commit("c1", web)["web"]
		for i := range 10 {
			b, err := f.Triggered(t.Context(), someone, r.ID, build.ByPush, "first")
			f.ok(err)
			f.commit(fmt.Sprintf("next%d", i), web)
			var both sync.WaitGroup
			var begun build.Build
			both.Go(func() {
				if _, err := f.Triggered(t.Context(), someone, r.ID, build.ByPush, "second"); err != nil {
					t.Error(err)
				}
			})
			both.Go(func() {
				var err error
				if begun, err = f.db.BeginBuild(t.Context(), b.ID, "w1", f.now()); err != nil {
					t.Error(err)
				}
			})
			both.Wait()
			f.end(begun, build.Succeeded)
			follows := f.builds(build.Queued)
			joined := begun.Commit == fmt.Sprintf("next%d", i)
			if joined == (len(follows) == 1) || joined != strings.Contains(begun.Reason, "second") {
				t.Fatalf("began with %s because of %q, %d follow", begun.Commit, begun.Reason, len(follows))
			}
			for _, b := range follows {
				f.end(b, build.Succeeded)
			}
		}
	})
}

func TestPersonAsks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		all := f.commit("c1", "name: base\nfrom: {release: bookworm}\nbuilder: {name: packer, needs: [kvm]}\n", "name: web\nfrom: {recipe: base}\nbuilder: {needs: [gpu]}\n")
		b, err := f.RequestBuild(t.Context(), someone, all["web"].ID, true)
		f.ok(err)
		if b.Trigger != build.ByPerson || b.UserID != "alice" || b.Reason == "" || b.Builder != "packer" ||
			strings.Join(b.Needs, " ") != "kvm gpu builder=packer" || !b.Force {
			t.Errorf("%+v", b)
		}
		if _, err := f.RequestBuild(t.Context(), someone, all["web"].ID, false); errs.CodeOf(err) != "kiln.build.open" {
			t.Errorf("a second one: %v", err)
		}
		if _, err := f.Triggered(t.Context(), someone, "nobody", build.ByPush, "x"); !errs.Is(err, errs.NotFound) {
			t.Errorf("of no recipe: %v", err)
		}
	})
}
