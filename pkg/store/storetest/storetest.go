// Package storetest is the contract of the store: every database that store.Open can open passes it.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// base is a moment with microseconds, which both databases must keep.
var base = time.Date(2026, 3, 29, 1, 30, 0, 123456000, time.UTC)

// Run holds a database against the contract. open gives a migrated, empty one for each call.
func Run(t *testing.T, open func(t *testing.T) *store.DB) {
	for name, test := range map[string]func(*testing.T, *store.DB){
		"Jobs":               testJobs,
		"JobNeeds":           testJobNeeds,
		"JobLeaseExpires":    testJobLeaseExpires,
		"JobManyOwners":      testJobManyOwners,
		"JobFinishOnce":      testJobFinishOnce,
		"JobCancel":          testJobCancel,
		"JobLog":             testJobLog,
		"JobLogSearch":       testJobLogSearch,
		"JobLogPrune":        testJobLogPrune,
		"Triggers":           testTriggers,
		"UrgentFixes":        testUrgentFixes,
		"Transactions":       testTransactions,
		"TransactionsClash":  testTransactionsClash,
		"Events":             testEvents,
		"EventsInOrder":      testEventsInOrder,
		"Outbox":             testOutbox,
		"OutboxRelays":       testOutboxRelays,
		"Families":           testFamilies,
		"VersionNames":       testVersionNames,
		"Versions":           testVersions,
		"ChannelMoves":       testChannelMoves,
		"VersionGuard":       testVersionGuard,
		"Images":             testImages,
		"ImageHeads":         testImageHeads,
		"Sources":            testSources,
		"Repositories":       testRepositories,
		"RepositoryPushes":   testRepositoryPushesAtOnce,
		"SourcesThatAreDue":  testSourcesThatAreDue,
		"BuildsAndUpgrades":  testBuildsAndUpgrades,
		"Campaigns":          testCampaigns,
		"UpgradePolicies":    testUpgradePolicies,
		"OneOpenUpgrade":     testOneOpenUpgrade,
		"UpgradePlans":       testPlans,
		"Advisories":         testAdvisories,
		"Gaps":               testGaps,
		"Findings":           testFindings,
		"WhoHas":             testWhoHas,
		"WhoLacks":           testWhoLacks,
		"Documents":          testDocuments,
		"Clusters":           testClusters,
		"Copies":             testCopies,
		"Nodes":              testNodes,
		"Workers":            testWorkers,
		"WaitingFor":         testWaitingFor,
		"Workloads":          testWorkloads,
		"Ledger":             testLedger,
		"LedgerLastPlace":    testLedgerLastPlace,
		"ListPages":          testListPages,
		"ListRefuses":        testListRefuses,
		"ContextEnds":        testContextEnds,
		"MigrateAgain":       testMigrateAgain,
		"TextThatIsNotUTF-8": testBadText,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks kind and code; twice is for writes that are refused each time.
func wantErr(t *testing.T, err error, kind errs.Kind, code string) {
	t.Helper()
	var own *errs.Error
	if !errors.As(err, &own) {
		t.Fatalf("got %v, want an *errs.Error with code %s", err, code)
	}
	if own.Kind != kind || own.Code != code {
		t.Fatalf("got kind %d code %s (%v), want kind %d code %s", own.Kind, own.Code, err, kind, code)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got)\n%s", d)
	}
}

func newJob(id string, q job.Queue, created time.Time) job.Job {
	return job.Job{
		ID: id, Kind: job.Build, Queue: q, Needs: []string{}, State: job.Pending, ProjectID: "p1", UserID: "u1", RequestID: "req-" + id,
		Resource: "builds/" + id, Payload: json.RawMessage(`{"build":"` + id + `"}`), MaxAttempts: 3,
		RunAfter: created, CreatedAt: created, UpdatedAt: created,
	}
}

func addJobs(t *testing.T, db *store.DB, n int) {
	t.Helper()
	for i := range n {
		must(t, db.AddJob(t.Context(), newJob(fmt.Sprintf("j%02d", i), job.WorkerQueue, base.Add(time.Duration(i)*time.Second))))
	}
}

func lease(t *testing.T, db *store.DB, owner string, now time.Time) *job.Job {
	t.Helper()
	j, err := db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue, job.EngineQueue}, nil, owner, now, now.Add(30*time.Second))
	must(t, err)
	return j
}

var errAbort = errors.New("the caller's own error")

func noApply(context.Context) error { return nil }

func at(seconds int) time.Time { return base.Add(time.Duration(seconds) * time.Second) }
