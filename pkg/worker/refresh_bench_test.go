package worker_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/store/storetest"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// BenchmarkRefresh compares 1,000 images of 400 packages with an index of 65,000, and again with nothing new:
// go test -run '^$' -bench Refresh -benchtime 1x ./pkg/worker/
func BenchmarkRefresh(b *testing.B) {
	db, err := store.Open(b.Context(), store.Config{Driver: store.SQLite, DSN: filepath.Join(b.TempDir(), "kiln.sqlite")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := db.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	if _, err := storetest.Fleet(b.Context(), db, 1000, 400); err != nil {
		b.Fatal(err)
	}
	p := newPublished()
	var offers []deb.Candidate
	for n := range 65000 {
		c := deb.Candidate{Name: fmt.Sprintf("package-%03d", n), Version: "1", Architecture: "amd64", Source: fmt.Sprintf("package-%03d", n), SourceVersion: "1", Filename: fmt.Sprintf("%d.deb", n)}
		if n < 40 {
			c.Version, c.SourceVersion = "3.0.19-1", "3.0.19-1"
		}
		offers = append(offers, c)
	}
	p.offers["bookworm-security"] = offers
	log := logrus.New()
	log.SetOutput(io.Discard)
	deps := worker.Deps{Store: db, Indexes: p, Changelogs: p, Suites: fakeSuites{}, WorkDir: b.TempDir(), CacheDir: b.TempDir(), Log: log}
	handlers, err := worker.New(deps)
	if err != nil {
		b.Fatal(err)
	}
	refresh := func(b *testing.B) (wall, processor time.Duration) {
		start, before := time.Now(), spent(b)
		j := job.Job{ID: uuid.NewString(), Kind: job.Advisories, Resource: "advisories", Queue: job.WorkerQueue, State: job.Pending, MaxAttempts: 1,
			RunAfter: start, CreatedAt: start, UpdatedAt: start, Payload: []byte("{}")}
		if err := db.AddJob(b.Context(), j); err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		r := &job.Runner{Store: db, Waker: never{}, Handlers: handlers, Queues: []job.Queue{job.WorkerQueue}, Owner: "bench", Lease: time.Minute, Poll: 5 * time.Millisecond, Log: log}
		done := make(chan error, 1)
		go func() { done <- r.Serve(ctx) }()
		for !j.State.Final() {
			time.Sleep(5 * time.Millisecond)
			if j, err = db.FindJob(b.Context(), j.ID); err != nil {
				b.Fatal(err)
			}
		}
		wall, processor = time.Since(start), spent(b)-before
		cancel()
		<-done
		if j.State != job.Succeeded {
			b.Fatalf("%+v", j.Error)
		}
		return wall, processor
	}
	for b.Loop() {
		p.date = p.date.Add(time.Hour)
		for _, what := range []string{"all-anew", "nothing-new"} {
			wall, processor := refresh(b)
			b.ReportMetric(wall.Seconds(), "s-"+what)
			b.ReportMetric(processor.Seconds(), "cpu-s-"+what)
		}
	}
}

// spent is the processor time of this process.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
