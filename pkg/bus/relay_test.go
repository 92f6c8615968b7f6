package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/bus/bustest"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func openStore(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")})
	if err == nil {
		err = db.Migrate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// relay runs a relay until stop.
func relay(t *testing.T, db *store.DB, b bus.Bus, every time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	r := &bus.Relay{Outbox: db, Bus: b, Log: logger(t), Every: every, Publisher: "kiln.host-1"}
	go func() { end <- r.Serve(ctx) }()
	stop = func() {
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
		end <- context.Canceled
	}
	t.Cleanup(stop)
	return stop
}

func notifications() bus.ConsumerSpec {
	return bus.ConsumerSpec{Queue: "consumer", Bindings: []bus.Binding{{Exchange: bus.Exchange, Key: "notifications.#"}}}
}

func addJob(t *testing.T, db *store.DB, id string) {
	t.Helper()
	now := time.Now()
	if err := db.AddJob(t.Context(), job.Job{ID: id, Kind: job.Build, Queue: job.WorkerQueue, RunAfter: now, CreatedAt: now, UpdatedAt: now}); err != nil {
		t.Fatal(err)
	}
}

// next skips the messages of bustest.Ready.
func next(t *testing.T, r *bustest.Reader) bus.Notification {
	t.Helper()
	for {
		d := r.Next(t)
		if d.ID == "ready" {
			continue
		}
		n, err := bus.OpenEnvelope(d.Body)
		if err != nil {
			t.Fatal(err)
		}
		if d.ID != n.MessageID {
			t.Fatalf("message id %q, in the envelope %q", d.ID, n.MessageID)
		}
		return n
	}
}

func TestRelay(t *testing.T) {
	t.Parallel()
	db, b := openStore(t), bus.NewLocal(logger(t))
	reader := bustest.Read(t, b, notifications(), nil)
	bustest.Ready(t, b, bus.Exchange, bus.NotificationKey)
	wake, err := b.Wake(t.Context(), []job.Queue{job.WorkerQueue})
	if err != nil {
		t.Fatal(err)
	}
	awaitSignal(t, wake)
	relay(t, db, b, time.Hour) // only the nudge after a commit can make it look
	time.Sleep(100 * time.Millisecond)
	err = db.InTx(t.Context(), func(ctx context.Context) error {
		if err := db.Record(ctx, event.Event{Type: "build.queued", Resource: "builds/1", ProjectID: "p1", RequestID: "req-1", Payload: json.RawMessage(`{"recipe":"web"}`)}); err != nil {
			return err
		}
		return db.AddJob(ctx, job.Job{ID: "j1", Queue: job.WorkerQueue, Kind: job.Build})
	})
	if err != nil {
		t.Fatal(err)
	}
	awaitSignal(t, wake)
	n := next(t, reader)
	var e event.Event
	if err := json.Unmarshal(n.Payload, &e); err != nil {
		t.Fatal(err)
	}
	if n.EventType != "build.queued" || n.PublisherID != "kiln.host-1" || n.Priority != "INFO" || n.RequestID != "req-1" || n.ProjectID != "p1" ||
		!n.At().Equal(e.CreatedAt) || e.ID != 1 || string(e.Payload) != `{"recipe":"web"}` {
		t.Fatalf("%+v %+v", n, e)
	}
	reader.None(t)
}

// downBus is a bus whose broker is away while down is set; it counts what it was asked.
type downBus struct {
	*bus.Local
	down  atomic.Bool
	asked atomic.Int64
}

func (d *downBus) Publish(ctx context.Context, m bus.Message) error {
	d.asked.Add(1)
	if d.down.Load() {
		return errs.New(errs.Unavailable, "kiln.bus.unavailable", "away")
	}
	return d.Local.Publish(ctx, m)
}

// TestRelayBrokerAway: what was committed while the broker was away is sent when it returns, each event once.
func TestRelayBrokerAway(t *testing.T) {
	t.Parallel()
	db, b := openStore(t), &downBus{Local: bus.NewLocal(logger(t))}
	reader := bustest.Read(t, b, notifications(), nil)
	bustest.Ready(t, b, bus.Exchange, bus.NotificationKey)
	b.down.Store(true)
	relay(t, db, b, 50*time.Millisecond)
	relay(t, db, b, 70*time.Millisecond) // two of them share the work
	for range 5 {
		if err := db.Record(t.Context(), event.Event{Type: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); b.asked.Load() < 4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the relay does not try again")
		}
	}
	b.down.Store(false)
	ids := map[string]bool{}
	for range 5 {
		ids[next(t, reader).MessageID] = true
	}
	if len(ids) != 5 {
		t.Fatalf("%d different message ids for 5 events", len(ids))
	}
	reader.None(t)
}

// TestRelayWakesOnce: a herd of jobs needs one wake-up a batch, and rows that nobody can send are left out.
func TestRelayWakesOnce(t *testing.T) {
	t.Parallel()
	db, b := openStore(t), &downBus{Local: bus.NewLocal(logger(t))}
	for i := range 20 {
		addJob(t, db, string(rune('a'+i)))
	}
	stop := relay(t, db, b, 20*time.Millisecond)
	var n int64
	for deadline := time.Now().Add(30 * time.Second); n < 20; time.Sleep(20 * time.Millisecond) {
		var err error
		if n, err = db.PruneOutbox(t.Context(), time.Now().Add(time.Hour)); err != nil || time.Now().After(deadline) {
			t.Fatal(n, err)
		}
	}
	stop()
	if asked := b.asked.Load(); asked != 1 {
		t.Fatalf("%d wake-ups for 20 jobs of one queue", asked)
	}
}

var _ bus.Outbox = (*store.DB)(nil)
