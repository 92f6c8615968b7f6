package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// clashing is a store whose every transaction is rolled back once and run again, as a serialization conflict does.
type clashing struct{ *store.DB }

var errClash = errors.New("clash")

func (c clashing) InTx(ctx context.Context, fn func(ctx context.Context) error) error {
	err := c.DB.InTx(ctx, func(ctx context.Context) error { return errors.Join(fn(ctx), errClash) })
	if !errors.Is(err, errClash) {
		return err
	}
	return c.DB.InTx(ctx, fn)
}

func TestATransactionThatRunsTwiceActsOnce(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.deps.Store, w.deps.DefaultFamily = clashing{w.db}, "debian-12-web"
	w.http = newAPI(w)
	told, before := w.since(), w.jobs()

	var f catalog.Family
	w.want(http.StatusOK, "manager@p", http.MethodPut, "/v1/families/debian-12-web/channels/stable", map[string]any{"version": "20260305.2"}).into(t, &f)
	if row, err := w.db.FamilyByID(t.Context(), f.ID); err != nil || row.Channels["stable"] != "20260305.2" || f.Channels["stable"] != "20260305.2" {
		t.Errorf("%+v %+v %v", row, f, err)
	}
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/workloads", map[string]any{"name": "a", "kind": "vm", "family": "nosuch", "channel": "x", "flavor": "m1"})
	if a.get(t, "version") != "20260305.2" || !strings.Contains(a.get(t, "note"), "nosuch x") {
		t.Errorf("%s", a.body)
	}
	var out struct{ Copies []cache.Copy }
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/copies", map[string]any{"image_id": "image-2", "cluster": "rack-1", "nodes": "all"}).into(t, &out)
	for _, p := range out.Copies {
		if row, err := w.db.FindCopy(t.Context(), p.ID); err != nil || row.JobID != p.JobID {
			t.Errorf("the answer names copy %s with job %s, the row is %+v (%v)", p.ID, p.JobID, row, err)
		}
	}
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/images/image-1/inspect", nil)
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+out.Copies[0].JobID+"/cancel", nil)
	want := "family.promoted workload.requested copy.queued copy.queued copy.queued copy.queued image.inspecting copy.cancelled job.cancelled"
	if got := told(); got != want || len(out.Copies) != 4 || w.jobs() != before+7 {
		t.Errorf("%d copies, %d new jobs, events: %s", len(out.Copies), w.jobs()-before, got)
	}
}
