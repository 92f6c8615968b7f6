package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testTransactions(t *testing.T, db *store.DB) {
	ctx := t.Context()
	err := db.InTx(ctx, func(ctx context.Context) error {
		must(t, db.AddJob(ctx, newJob("gone", job.WorkerQueue, base)))
		must(t, db.Record(ctx, event.Event{Type: "job.created", Resource: "jobs/gone"}))
		if _, err := db.FindJob(ctx, "gone"); err != nil {
			t.Errorf("a transaction does not see its own write: %v", err)
		}
		return errAbort
	})
	if !errors.Is(err, errAbort) {
		t.Fatal(err)
	}
	_, err = db.FindJob(ctx, "gone")
	wantErr(t, err, errs.NotFound, "kiln.job.not_found")
	if rows, err := db.NextOutbox(ctx, 10); err != nil || len(rows) != 0 {
		t.Fatalf("outbox of a rolled back transaction: %v %v", rows, err)
	}
	if id, err := db.LastID(ctx); id != 0 || err != nil {
		t.Fatalf("event of a rolled back transaction: %d %v", id, err)
	}
	select {
	case <-db.OutboxChanged():
		t.Fatal("the relay was nudged for a transaction that was rolled back")
	default:
	}
	// Nested calls join: the outer one's end decides for both.
	err = db.InTx(ctx, func(ctx context.Context) error {
		must(t, db.InTx(ctx, func(ctx context.Context) error { return db.AddJob(ctx, newJob("inner", job.WorkerQueue, base)) }))
		return errAbort
	})
	if !errors.Is(err, errAbort) {
		t.Fatal(err)
	}
	if _, err := db.FindJob(ctx, "inner"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("the inner transaction committed by itself: %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.InTx(ctx, func(ctx context.Context) error {
			must(t, db.AddJob(ctx, newJob("panicked", job.WorkerQueue, base)))
			panic("a defect")
		})
	}()
	if _, err := db.FindJob(ctx, "panicked"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("after a panic: %v", err)
	}
	must(t, db.InTx(ctx, func(ctx context.Context) error { return db.AddJob(ctx, newJob("stays", job.WorkerQueue, base)) }))
	select {
	case <-db.OutboxChanged():
	case <-time.After(5 * time.Second):
		t.Fatal("no nudge for the relay after the commit")
	}
}

// testTransactionsClash takes two rows in opposite order in many transactions: every one must get through.
func testTransactionsClash(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 2)
	lease(t, db, "o", at(100))
	lease(t, db, "o", at(100))
	var wg sync.WaitGroup
	var commits atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			ids := []string{"j00", "j01"}
			if g%2 == 1 {
				ids = []string{"j01", "j00"}
			}
			for range 5 {
				err := db.InTx(ctx, func(ctx context.Context) error {
					for _, id := range ids {
						if _, err := db.Heartbeat(ctx, id, "o", at(101), at(131), job.Progress{}); err != nil {
							return err
						}
						time.Sleep(5 * time.Millisecond)
					}
					return nil
				})
				if err != nil {
					t.Errorf("transaction: %v", err)
					continue
				}
				commits.Add(1)
			}
		})
	}
	wg.Wait()
	if commits.Load() != 20 {
		t.Fatalf("%d of 20 transactions got through", commits.Load())
	}
}

func testEvents(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.Record(ctx, event.Event{Type: "build.queued", Resource: "builds/1", ProjectID: "p1", RequestID: "req-1", Payload: json.RawMessage(`{"a":1}`)}))
	must(t, db.InTx(ctx, func(ctx context.Context) error {
		must(t, db.Record(ctx, event.Event{Type: "build.running", Resource: "builds/1", ProjectID: "p1"}))
		return db.Record(ctx, event.Event{Type: "node.up", Resource: "nodes/n1", ProjectID: "p2"})
	}))
	all, err := db.After(ctx, 0, "", 10)
	must(t, err)
	if len(all) != 3 || all[0].ID != 1 || all[1].ID != 2 || all[2].Type != "node.up" || all[0].CreatedAt.IsZero() {
		t.Fatalf("%+v", all)
	}
	equal(t, all[0].Payload, json.RawMessage(`{"a":1}`))
	mine, err := db.After(ctx, 1, "p1", 10)
	if err != nil || len(mine) != 1 || mine[0].Type != "build.running" {
		t.Fatalf("%+v %v", mine, err)
	}
	if one, err := db.After(ctx, 0, "", 1); err != nil || len(one) != 1 {
		t.Fatalf("limit 1: %+v %v", one, err)
	}
	last, err := db.LastID(ctx)
	if last != 3 || err != nil {
		t.Fatal(last, err)
	}
	if n, err := db.PruneEvents(ctx, time.Now().Add(time.Hour)); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if last, err = db.LastID(ctx); last != 3 || err != nil {
		t.Fatalf("LastID went back to %d after pruning: %v", last, err)
	}
}

// testEventsInOrder: a transaction that records first and commits last must not hide behind a reader's mark.
func testEventsInOrder(t *testing.T, db *store.DB) {
	const writers, each = 6, 12
	ctx := t.Context()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := db.InTx(ctx, func(ctx context.Context) error {
					if err := db.Record(ctx, event.Event{Type: "test", Resource: fmt.Sprintf("t/%d/%d", w, i)}); err != nil {
						return err
					}
					if err := db.AddJob(ctx, newJob(fmt.Sprintf("%d-%d", w, i), job.WorkerQueue, base)); err != nil {
						return err
					}
					time.Sleep(time.Duration(rand.IntN(6)) * time.Millisecond)
					if i%5 == 4 && rand.IntN(2) == 0 { // rolled back and tried again by the caller
						return errAbort
					}
					return nil
				})
				if errors.Is(err, errAbort) {
					err = db.Record(ctx, event.Event{Type: "test", Resource: fmt.Sprintf("t/%d/%d", w, i)})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	seen, after := map[string]bool{}, int64(0)
	for last := false; ; {
		es, err := db.After(ctx, after, "", 7)
		must(t, err)
		for _, e := range es {
			if e.ID <= after || seen[e.Resource] {
				t.Fatalf("event %d %s after mark %d", e.ID, e.Resource, after)
			}
			after, seen[e.Resource] = e.ID, true
		}
		if last && len(es) == 0 {
			break
		}
		select {
		case <-finished:
			last = true
		default:
		}
	}
	if len(seen) != writers*each {
		t.Fatalf("the reader saw %d of %d events", len(seen), writers*each)
	}
}

func testOutbox(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 2)
	must(t, db.Record(ctx, event.Event{Type: "build.queued", Resource: "builds/1", RequestID: "req-7"}))
	rows, err := db.NextOutbox(ctx, 10)
	must(t, err)
	if len(rows) != 3 || rows[2].Topic != store.TopicEvent || rows[2].Key != "build.queued" {
		t.Fatalf("%+v", rows)
	}
	var e event.Event
	must(t, json.Unmarshal([]byte(rows[2].Body), &e))
	if e.ID != 1 || e.RequestID != "req-7" {
		t.Fatalf("%+v", e)
	}
	if again, err := db.NextOutbox(ctx, 10); err != nil || len(again) != 0 {
		t.Fatalf("another relay got %v %v", again, err)
	}
	must(t, db.ReturnOutbox(ctx, []int64{rows[0].ID, rows[1].ID, rows[2].ID}))
	if again, err := db.NextOutbox(ctx, 2); err != nil || len(again) != 2 || again[0].ID != rows[0].ID {
		t.Fatalf("after ReturnOutbox: %v %v", again, err)
	}
	for range 2 {
		must(t, db.MarkPublished(ctx, []int64{rows[0].ID, rows[1].ID}))
	}
	must(t, db.MarkPublished(ctx, nil))
	must(t, db.ReturnOutbox(ctx, []int64{rows[0].ID}))
	left, err := db.NextOutbox(ctx, 10)
	if err != nil || len(left) != 1 || left[0].ID != rows[2].ID {
		t.Fatalf("left: %v %v", left, err)
	}
	if n, err := db.PruneOutbox(ctx, time.Now().Add(time.Minute)); n != 2 || err != nil {
		t.Fatalf("pruned %d %v, want the two published ones", n, err)
	}
}

func testOutboxRelays(t *testing.T, db *store.DB) {
	const rows = 40
	addJobs(t, db, rows)
	var mu sync.Mutex
	got := map[int64]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				batch, err := db.NextOutbox(t.Context(), 3)
				if err != nil {
					t.Error(err)
					return
				}
				if len(batch) == 0 {
					return
				}
				for _, r := range batch {
					mu.Lock()
					got[r.ID]++
					mu.Unlock()
					if err := db.MarkPublished(t.Context(), []int64{r.ID}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	rest, err := db.NextOutbox(t.Context(), rows)
	must(t, err)
	for _, r := range rest {
		got[r.ID]++
	}
	if len(got) != rows {
		t.Fatalf("%d of %d rows were given out", len(got), rows)
	}
	for id, n := range got {
		if n != 1 {
			t.Fatalf("row %d was given to %d relays", id, n)
		}
	}
}
