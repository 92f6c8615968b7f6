package cli_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// locker is a worker that makes the same lock of every recipe.
type locker struct{}

func (locker) Kind() job.Kind { return job.Lock }

func (locker) Run(context.Context, *job.Run) (job.Result, error) {
	return job.Result{Value: map[string]any{"path": "recipes/web.lock", "lock": "release: bookworm\n", "packages": 3}}, nil
}

type asleep struct{}

func (asleep) Wake(context.Context, []job.Queue) (<-chan struct{}, error) { return nil, nil }

func TestALockIsWrittenWhereItBelongs(t *testing.T) {
	k := start(t)
	t.Chdir(t.TempDir())
	k.run("source", "create", "--name", "main", "--url", "https://git.example.org/images.git", "--no-wait")
	sources, err := k.parts.DB.ListSources(t.Context(), listing.All())
	if err != nil || len(sources) != 1 {
		t.Fatal(sources, err)
	}
	src := sources[0]
	row := build.Recipe{ID: uuid.NewString(), ProjectID: src.ProjectID, SourceID: src.ID, Name: "web", Path: "recipes/web.yaml", Commit: "c1", Problems: []build.Problem{},
		Spec: &recipe.Recipe{Name: "web", Path: "recipes/web.yaml", From: recipe.From{Release: "bookworm"}}, UpdatedAt: time.Now()}
	if err := k.parts.DB.ReplaceRecipes(t.Context(), src.ID, []build.Recipe{row}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r := &job.Runner{Store: k.parts.DB, Waker: asleep{}, Handlers: []job.Handler{locker{}}, Queues: []job.Queue{job.WorkerQueue}, Owner: "w",
		Lease: 5 * time.Second, Beat: 50 * time.Millisecond, Poll: 50 * time.Millisecond, Log: log.Discard()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Serve(ctx)
	}()
	defer func() { stop(); <-done }()
	if out := k.run("recipe", "lock", "main", "web"); !strings.Contains(out, "web.lock: 3 packages; commit it as recipes/web.lock") {
		t.Errorf("said %q", out)
	}
	if data, err := os.ReadFile("web.lock"); err != nil || string(data) != "release: bookworm\n" {
		t.Errorf("wrote %q, %v", data, err)
	}
	if out := k.run("recipe", "lock", "main", "web", "-o", "-"); out != "release: bookworm\n" {
		t.Errorf("to standard output: %q", out)
	}
	for _, args := range [][]string{{"other", "web"}, {"main", "db"}} {
		if _, err := k.try("recipe", "lock", args[0], args[1]); err == nil || !strings.Contains(err.Error(), "there is no") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
