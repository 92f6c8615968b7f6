package api_test

import (
	"net/http"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
)

// Workers are the operator's to see, and down where they are silent.
func TestWorkers(t *testing.T) {
	w := newWorld(t)
	w.seed()
	old := build.Worker{Name: "worker-0", Builders: []string{}, Labels: []string{}, StartedAt: noon, SeenAt: noon.Add(-build.WorkerSilence - 1)}
	w.must(w.db.PutWorker(t.Context(), old))
	var page struct {
		Workers []struct {
			Name     string
			Up       bool
			Builders []string
			FreeDisk int64 `json:"free_disk"`
		}
	}
	w.want(http.StatusOK, "admin@p", http.MethodGet, "/v1/workers", nil).into(t, &page)
	if len(page.Workers) != 2 || page.Workers[0].Up || !page.Workers[1].Up || page.Workers[1].Builders[0] != "native" || page.Workers[1].FreeDisk != 50<<30 {
		t.Errorf("%+v", page)
	}
	w.refused(http.StatusForbidden, "kiln.policy.denied", "", "member@p", http.MethodGet, "/v1/workers", nil)
	if a := w.want(http.StatusOK, "admin@p", http.MethodGet, "/v1/workers/worker-0", nil); a.get(t, "name") != "worker-0" {
		t.Errorf("%s", a.body)
	}
	w.refused(http.StatusNotFound, "kiln.worker.not_found", "", "admin@p", http.MethodGet, "/v1/workers/worker-9", nil)
}

// A queued build says which of its needs nobody meets; one that may run, or runs, says nothing.
func TestBuildSaysWhatItWaitsFor(t *testing.T) {
	w := newWorld(t)
	w.seed()
	waits := func(state build.State, needs ...string) string {
		t.Helper()
		b, err := w.db.FindBuild(t.Context(), "build-1")
		w.must(err)
		b.State, b.Needs = state, needs
		w.must(w.db.UpdateBuild(t.Context(), b))
		var shown struct {
			WaitingFor string `json:"waiting_for"`
		}
		w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/builds/build-1", nil).into(t, &shown)
		return shown.WaitingFor
	}
	if got := waits(build.Queued, "builder=packer"); got != "no worker with builder=packer is up (workers seen: worker-1)" {
		t.Errorf("waits for %q", got)
	}
	if got := waits(build.Queued, "builder=native", "disk_gib>=50") + waits(build.Running, "builder=packer"); got != "" {
		t.Errorf("waits for %q", got)
	}
}
