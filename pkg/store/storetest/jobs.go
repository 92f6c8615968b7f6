package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testJobs(t *testing.T, db *store.DB) {
	ctx := t.Context()
	want := newJob("j1", job.WorkerQueue, base)
	for range 2 { // adding it again changes nothing
		must(t, db.AddJob(ctx, want))
	}
	got, err := db.FindJob(ctx, "j1")
	must(t, err)
	equal(t, got, want)
	if rows, err := db.NextOutbox(ctx, 10); err != nil || len(rows) != 1 || rows[0].Topic != store.TopicWake || rows[0].Key != "worker" {
		t.Fatalf("outbox after two AddJob of one id: %v %v, want one wake-up of worker", rows, err)
	}
	_, err = db.FindJob(ctx, "other")
	wantErr(t, err, errs.NotFound, "kiln.job.not_found")
	if !strings.Contains(err.Error(), "other") {
		t.Fatalf("%q does not name the id", err)
	}
	if j, err := db.LeaseJob(ctx, []job.Queue{job.EngineQueue}, nil, "o1", at(1), at(31)); j != nil || err != nil {
		t.Fatalf("leased %v %v from a queue without jobs", j, err)
	}
	if j := lease(t, db, "o1", base.Add(-time.Second)); j != nil {
		t.Fatal("leased a job before its run_after")
	}
	j := lease(t, db, "o1", at(1))
	if j == nil || j.ID != "j1" || j.State != job.Running || j.Attempt != 1 || !j.LeaseExpires.Equal(at(31)) || !j.StartedAt.Equal(at(1)) {
		t.Fatalf("leased %+v", j)
	}
	equal(t, j.Payload, want.Payload)
	for range 2 {
		cancel, err := db.Heartbeat(ctx, "j1", "o1", at(5), at(35), job.Progress{Stage: "packages", Done: 3, Total: 7, Unit: "steps"})
		if err != nil || cancel {
			t.Fatal(cancel, err)
		}
	}
	must(t, db.ReleaseJob(ctx, "j1", "o1", at(6), at(60), &job.Failure{Code: "kiln.x.y", Detail: "mirror away", Where: errs.Where{Line: 3}}))
	if err := db.ReleaseJob(ctx, "j1", "o1", at(6), at(60), nil); !errors.Is(err, job.ErrLeaseLost) {
		t.Fatalf("releasing twice: %v", err)
	}
	got, err = db.FindJob(ctx, "j1")
	must(t, err)
	if got.State != job.Pending || got.Error == nil || got.Error.Where.Line != 3 || got.Progress.Done != 3 || got.LeaseExpires != nil {
		t.Fatalf("released: %+v", got)
	}
	if lease(t, db, "o1", at(59)) != nil {
		t.Fatal("leased before the backoff's end")
	}
	if j := lease(t, db, "o2", at(60)); j == nil || j.Attempt != 2 || !j.StartedAt.Equal(at(1)) {
		t.Fatalf("second attempt: %+v", j)
	}
}

func testJobLeaseExpires(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 1)
	lease(t, db, "o1", at(1))
	if lease(t, db, "o2", at(31)) != nil {
		t.Fatal("leased while the first lease holds")
	}
	if j := lease(t, db, "o2", at(32)); j == nil || j.LeaseOwner != "o2" || j.Attempt != 2 {
		t.Fatalf("the lease ran out and the job was not taken over: %+v", j)
	}
	_, err := db.Heartbeat(ctx, "j00", "o1", at(33), at(63), job.Progress{})
	ran := false
	apply := func(context.Context) error { ran = true; return nil }
	for what, err := range map[string]error{
		"heartbeat": err,
		"release":   db.ReleaseJob(ctx, "j00", "o1", at(33), at(33), nil),
		"finish":    db.FinishJob(ctx, "j00", "o1", at(33), job.Outcome{State: job.Succeeded}, apply),
	} {
		if !errors.Is(err, job.ErrLeaseLost) {
			t.Errorf("%s by the old owner: %v, want ErrLeaseLost", what, err)
		}
	}
	if ran {
		t.Fatal("apply ran without the lease")
	}
}

// testJobManyOwners is the herd: every job is leased exactly once.
func testJobManyOwners(t *testing.T, db *store.DB) {
	const jobs, owners = 24, 8
	addJobs(t, db, jobs)
	var mu sync.Mutex
	seen := map[string]string{}
	var wg sync.WaitGroup
	for o := range owners {
		owner := fmt.Sprintf("o%d", o)
		wg.Go(func() {
			for {
				j, err := db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, owner, at(100), at(200))
				if err != nil {
					t.Error(err)
				}
				if j == nil {
					return
				}
				mu.Lock()
				if first, ok := seen[j.ID]; ok || j.Attempt != 1 || j.LeaseOwner != owner {
					t.Errorf("job %s: leased by %s after %q, attempt %d, row says %s", j.ID, owner, first, j.Attempt, j.LeaseOwner)
				}
				seen[j.ID] = owner
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// An owner may leave early where the others hold all that it saw; what is left is still there.
	for j := lease(t, db, "last", at(100)); j != nil; j = lease(t, db, "last", at(100)) {
		seen[j.ID] = "last"
	}
	if len(seen) != jobs {
		t.Fatalf("%d of %d jobs were leased", len(seen), jobs)
	}
}

func testJobFinishOnce(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 2)
	lease(t, db, "o1", at(1))
	done := job.Outcome{State: job.Succeeded, Result: json.RawMessage(`{"image": "i1"}`)}
	fails := func(ctx context.Context) error {
		must(t, db.Record(ctx, event.Event{Type: "job.succeeded", Resource: "jobs/j00"}))
		must(t, db.AddJob(ctx, newJob("follow-up", job.EngineQueue, at(2))))
		return errAbort
	}
	if err := db.FinishJob(ctx, "j00", "o1", at(2), done, fails); !errors.Is(err, errAbort) {
		t.Fatalf("apply's error came back as %v", err)
	}
	j, err := db.FindJob(ctx, "j00")
	must(t, err)
	if j.State != job.Running || j.FinishedAt != nil {
		t.Fatalf("apply failed and the job is %+v", j)
	}
	if _, err := db.FindJob(ctx, "follow-up"); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a write of the failed apply stayed: %v", err)
	}
	runs := 0
	for range 2 {
		must(t, db.FinishJob(ctx, "j00", "o1", at(3), done, func(ctx context.Context) error {
			runs++
			return db.AddJob(ctx, newJob("follow-up", job.EngineQueue, at(2)))
		}))
	}
	if runs != 1 {
		t.Fatalf("apply ran %d times for two FinishJob", runs)
	}
	j, err = db.FindJob(ctx, "j00")
	must(t, err)
	if j.State != job.Succeeded || !j.FinishedAt.Equal(at(3)) || string(j.Result) != `{"image": "i1"}` {
		t.Fatalf("finished: %+v", j)
	}
	if other := lease(t, db, "o2", at(1000)); other == nil || other.ID != "j01" {
		t.Fatalf("leased %+v beside the finished job, want j01", other)
	}
	fail := job.Outcome{State: job.Failed, Error: &job.Failure{Code: "c", Detail: "d"}}
	if err := db.FinishJob(ctx, "j00", "o1", at(4), fail, noApply); !errors.Is(err, job.ErrLeaseLost) {
		t.Fatalf("failing a finished job: %v", err)
	}
}

func testJobCancel(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 2)
	if ended, err := db.CancelJob(ctx, "j01", at(1)); !ended || err != nil {
		t.Fatal(ended, err)
	}
	_, err := db.CancelJob(ctx, "j01", at(1))
	wantErr(t, err, errs.Conflict, "kiln.job.final")
	_, err = db.CancelJob(ctx, "none", at(1))
	wantErr(t, err, errs.NotFound, "kiln.job.not_found")
	if j := lease(t, db, "o1", at(100)); j == nil || j.ID != "j00" {
		t.Fatalf("leased %+v", j)
	}
	for range 2 {
		if ended, err := db.CancelJob(ctx, "j00", at(101)); ended || err != nil {
			t.Fatal(ended, err)
		}
	}
	if cancel, err := db.Heartbeat(ctx, "j00", "o1", at(102), at(132), job.Progress{}); !cancel || err != nil {
		t.Fatal(cancel, err)
	}
	must(t, db.FinishJob(ctx, "j00", "o1", at(103), job.Outcome{State: job.Cancelled}, noApply))
	js, err := db.ListJobs(ctx, listing.Query{Filter: map[string]string{"state": "cancelled"}})
	if err != nil || len(js) != 2 {
		t.Fatalf("%d cancelled jobs, %v", len(js), err)
	}
}

func testJobLog(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var lines []job.LogLine
	for i := range 250 {
		lines = append(lines, job.LogLine{Seq: int64(1_000_001 + i), At: at(i), Level: "info", Text: fmt.Sprintf("line %d ü€", i)})
	}
	for range 2 {
		must(t, db.AppendJobLog(ctx, "j1", lines))
	}
	must(t, db.AppendJobLog(ctx, "j1", nil))
	must(t, db.AppendJobLog(ctx, "j2", lines[:1]))
	got, err := db.JobLog(ctx, "j1", 0, 1000)
	must(t, err)
	equal(t, got, lines)
	got, err = db.JobLog(ctx, "j1", 1_000_100, 3)
	must(t, err)
	equal(t, got, lines[100:103])
}

// Jobs that an owner cannot do are left for another, and hold up nothing behind them.
func testJobNeeds(t *testing.T, db *store.DB) {
	for i := range 20 {
		j := newJob(fmt.Sprintf("gpu%02d", i), job.WorkerQueue, base)
		j.Needs = []string{"gpu", "disk_gib>=10"}
		must(t, db.AddJob(t.Context(), j))
	}
	must(t, db.AddJob(t.Context(), newJob("plain", job.WorkerQueue, at(1))))
	if j := lease(t, db, "o1", at(2)); j == nil || j.ID != "plain" {
		t.Fatalf("an owner without labels leased %+v, want the job without needs", j)
	}
	if j := lease(t, db, "o1", at(3)); j != nil {
		t.Fatalf("an owner without labels leased %s", j.ID)
	}
	j, err := db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, []string{"gpu", "disk_gib=12"}, "o2", at(3), at(30))
	if err != nil || j == nil || j.ID != "gpu00" {
		t.Fatalf("an owner with the labels leased %+v, %v", j, err)
	}
}
