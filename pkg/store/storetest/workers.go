package storetest

import (
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testWorkers(t *testing.T, db *store.DB) {
	ctx := t.Context()
	w := build.Worker{Name: "w1", Host: "h1", Arch: "amd64", Builders: []string{"native"}, Labels: build.Labels("amd64", []string{"native"}, 9<<30, []string{"gpu"}),
		FreeDisk: 9 << 30, Parallel: 2, Version: "1", StartedAt: base, SeenAt: at(1)}
	must(t, db.PutWorker(ctx, w))
	w.Builders, w.FreeDisk, w.SeenAt = []string{"native", "packer"}, 8<<30, at(2)
	for range 2 {
		must(t, db.PutWorker(ctx, w))
	}
	got, err := db.FindWorker(ctx, "w1")
	must(t, err)
	equal(t, got, w)
	_, err = db.FindWorker(ctx, "w9")
	wantErr(t, err, errs.NotFound, "kiln.worker.not_found")
	other := build.Worker{Name: "w2", Host: "h2", Arch: "arm64", Builders: []string{}, Labels: []string{}, StartedAt: base, SeenAt: at(60)}
	must(t, db.PutWorker(ctx, other))
	list, err := db.ListWorkers(ctx, listing.Query{Filter: map[string]string{"arch": "arm64"}})
	must(t, err)
	equal(t, list, []build.Worker{other})
	must(t, db.ForgetWorkers(ctx, at(60)))
	list, err = db.ListWorkers(ctx, listing.All())
	must(t, err)
	equal(t, list, []build.Worker{other})
}

// A build that nobody can run says what it waits for.
func testWaitingFor(t *testing.T, db *store.DB) {
	now := at(100)
	put := func(name string, age time.Duration, labels ...string) {
		t.Helper()
		must(t, db.PutWorker(t.Context(), build.Worker{Name: name, Builders: []string{}, Labels: labels, StartedAt: base, SeenAt: now.Add(-age)}))
	}
	says := func(want string, needs ...string) {
		t.Helper()
		got, err := build.WaitingFor(t.Context(), db, needs, now)
		if err != nil || got != want {
			t.Errorf("needs %v: %q, %v; want %q", needs, got, err, want)
		}
	}
	says("no worker is up", "builder=native")
	put("old", build.WorkerSilence+time.Second, "builder=packer")
	says("no worker is up (seen before: old)", "builder=packer")
	put("w1", 0, "builder=native", "disk_gib=40")
	put("w2", build.WorkerSilence, "builder=diskimage-builder", "disk_gib=90", "gpu")
	says("")
	says("", "builder=native", "disk_gib>=40")
	says("no worker with builder=packer is up (workers seen: w1, w2)", "builder=packer", "disk_gib>=90")
	says("no worker with builder=native and disk_gib>=50 is up (workers seen: w1, w2)", "builder=native", "disk_gib>=50")
	says("no worker with builder=packer and disk_gib>=500 is up (workers seen: w1, w2)", "builder=packer", "gpu", "disk_gib>=500")
}
