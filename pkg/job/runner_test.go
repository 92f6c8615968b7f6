package job_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// bench is a runner with one handler on a real SQLite store.
type bench struct {
	t  *testing.T
	db *store.DB
}

type handler struct {
	run    func(ctx context.Context, r *job.Run) (job.Result, error)
	mu     sync.Mutex
	failed []job.State
}

func (h *handler) Kind() job.Kind { return job.Inspect }

func (h *handler) Run(ctx context.Context, r *job.Run) (job.Result, error) { return h.run(ctx, r) }

func (h *handler) Failed(_ context.Context, _ job.Job, s job.State, _ *job.Failure) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = append(h.failed, s)
	return nil
}

func newBench(t *testing.T) *bench {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, db: db}
}

func (b *bench) add(id string, attempts int) {
	b.t.Helper()
	now := time.Now()
	if err := b.db.AddJob(b.t.Context(), job.Job{
		ID: id, Kind: job.Inspect, Queue: job.WorkerQueue, State: job.Pending, ProjectID: "p", Resource: "images/i", Payload: []byte("{}"),
		MaxAttempts: attempts, RunAfter: now, CreatedAt: now, UpdatedAt: now,
	}); err != nil {
		b.t.Fatal(err)
	}
}

// serve runs a runner until the job is in the state, and returns the job.
func (b *bench) serve(h job.Handler, id string, until job.State) job.Job {
	b.t.Helper()
	stop := b.start(h)
	defer stop()
	return b.await(id, until)
}

func (b *bench) await(id string, until job.State) job.Job {
	b.t.Helper()
	for range 500 {
		j, err := b.db.FindJob(b.t.Context(), id)
		if err != nil {
			b.t.Fatal(err)
		}
		if j.State == until {
			return j
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("the job did not become %s", until)
	return job.Job{}
}

func (b *bench) start(h job.Handler) func() {
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := &job.Runner{
		Store: b.db, Waker: never{}, Events: b.db, Handlers: []job.Handler{h}, Queues: []job.Queue{job.WorkerQueue}, Owner: "test",
		Lease: 2 * time.Second, Beat: 10 * time.Millisecond, Poll: 10 * time.Millisecond, Log: log, Backoff: func(int) time.Duration { return 0 },
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Serve(ctx); !errors.Is(err, context.Canceled) {
			b.t.Errorf("Serve ended with %v", err)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

func TestRunnerWritesResultLogAndEvent(t *testing.T) {
	b := newBench(t)
	b.add("j1", 3)
	applied := 0
	h := &handler{run: func(_ context.Context, r *job.Run) (job.Result, error) {
		r.Progress("read", 3, 4, "bytes")
		fmt.Fprint(r, "one\ntwo\r\nthree")
		return job.Result{Value: "done", Apply: func(context.Context) error { applied++; return nil }}, nil
	}}
	j := b.serve(h, "j1", job.Succeeded)
	lines, err := b.db.JobLog(t.Context(), "j1", 0, 10)
	if err != nil || len(lines) != 3 || lines[2].Text != "three" {
		t.Errorf("log %+v, error %v", lines, err)
	}
	events, err := b.db.After(t.Context(), 0, "p", 10)
	if err != nil || len(events) != 1 || events[0].Type != "job.succeeded" || events[0].Resource != "jobs/j1" {
		t.Errorf("events %+v, error %v", events, err)
	}
	if applied != 1 || string(j.Result) != `"done"` || j.Attempt != 1 {
		t.Errorf("applied %d times, job %+v", applied, j)
	}
}

func TestRunnerTriesAgainOnlyWhereThatCanHelp(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		attempts int
		code     string
	}{
		"away":    {errs.New(errs.Unavailable, "kiln.test.away", "away"), 3, "kiln.test.away"},
		"bad":     {errs.New(errs.Invalid, "kiln.test.bad", "bad"), 1, "kiln.test.bad"},
		"unknown": {errors.New("odd"), 3, "kiln.internal"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.add("j1", 3)
			h := &handler{run: func(context.Context, *job.Run) (job.Result, error) { return job.Result{}, c.err }}
			j := b.serve(h, "j1", job.Failed)
			if j.Attempt != c.attempts || j.Error == nil || j.Error.Code != c.code || len(h.failed) != 1 {
				t.Errorf("job %+v, Failed was called %d times", j, len(h.failed))
			}
		})
	}
}

func TestRunnerOutlivesADefect(t *testing.T) {
	b := newBench(t)
	b.add("j1", 1)
	h := &handler{run: func(context.Context, *job.Run) (job.Result, error) {
		panic("a defect")
	}}
	if j := b.serve(h, "j1", job.Failed); j.Error.Code != "kiln.job.panic" {
		t.Errorf("job %+v", j)
	}
}

func TestRunnerCancels(t *testing.T) {
	b := newBench(t)
	b.add("j1", 3)
	started := make(chan struct{})
	h := &handler{run: func(ctx context.Context, _ *job.Run) (job.Result, error) {
		close(started)
		<-ctx.Done()
		return job.Result{}, ctx.Err()
	}}
	stop := b.start(h)
	defer stop()
	<-started
	if _, err := b.db.CancelJob(t.Context(), "j1", time.Now()); err != nil {
		t.Fatal(err)
	}
	j := b.await("j1", job.Cancelled)
	if len(h.failed) != 1 || h.failed[0] != job.Cancelled || j.Error == nil || j.Error.Code != "kiln.job.cancelled" {
		t.Errorf("job %+v, Failed saw %v", j, h.failed)
	}
}

// A program that stops gives its job back at once, and the attempt does not count.
func TestRunnerGivesJobsBackWhenItStops(t *testing.T) {
	b := newBench(t)
	b.add("j1", 1)
	started := make(chan struct{})
	stop := b.start(&handler{run: func(ctx context.Context, _ *job.Run) (job.Result, error) {
		close(started)
		<-ctx.Done()
		return job.Result{}, ctx.Err()
	}})
	<-started
	stop()
	if j := b.await("j1", job.Pending); j.Attempt != 0 {
		t.Errorf("job %+v", j)
	}
	j := b.serve(&handler{run: func(context.Context, *job.Run) (job.Result, error) { return job.Result{}, nil }}, "j1", job.Succeeded)
	if j.Attempt != 1 {
		t.Errorf("job %+v", j)
	}
}

// A job whose owners died without a word is not started for ever.
func TestRunnerEndsAJobThatKillsItsOwners(t *testing.T) {
	b := newBench(t)
	b.add("j1", 2)
	for range 2 {
		past := time.Now().Add(-time.Minute)
		if _, err := b.db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, "dead", time.Now(), past); err != nil {
			t.Fatal(err)
		}
	}
	h := &handler{run: func(context.Context, *job.Run) (job.Result, error) {
		t.Error("the job was started again")
		return job.Result{}, nil
	}}
	if j := b.serve(h, "j1", job.Failed); !strings.Contains(j.Error.Detail, "2 attempts ended without a word") {
		t.Errorf("job %+v", j)
	}
}

type never struct{}

func (never) Wake(context.Context, []job.Queue) (<-chan struct{}, error) { return nil, nil }

// A need is met by the same label, or by a label whose number is as large.
func TestFits(t *testing.T) {
	labels := []string{"arch=amd64", "builder=native", "builder=packer", "disk_gib=42.5", "gpu"}
	for _, c := range []struct {
		needs string
		want  bool
	}{
		{"", true}, {"gpu", true}, {"builder=packer gpu", true}, {"builder=diskimage-builder", false}, {"disk_gib>=42", true},
		{"disk_gib>=43", false}, {"disk_gib>=x", false}, {"memory_gib>=1", false}, {"gpu arch=arm64", false},
	} {
		if got := job.Fits(strings.Fields(c.needs), labels); got != c.want {
			t.Errorf("%q: %v", c.needs, got)
		}
	}
	if job.Fits([]string{"gpu"}, nil) {
		t.Error("an owner without labels got a job with needs")
	}
}
