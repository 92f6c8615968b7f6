package agent

import (
	"context"
	"os"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// evictHandler removes a copy.
type evictHandler struct{ *Agent }

func (h *evictHandler) Kind() job.Kind { return job.Evict }

func (h *evictHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	c, err := h.Store.FindCopy(ctx, r.Job.ResourceID())
	if errs.Is(err, errs.NotFound) {
		return job.Result{}, nil // an earlier attempt removed it
	}
	if err != nil {
		return job.Result{}, err
	}
	if c.Node != "" {
		// A running server's overlay holds the file open by its name: Nova counts its users, Kiln does not. Nova
		// removes an unused file itself once its time is no longer renewed, so only the renewing ends here.
		_, err = os.Stat(cache.NovaCachePath(h.InstancesPath, c.ImageID))
		if err == nil {
			r.Logf("Nova's cache manager removes the file once no server uses it")
		}
	} else {
		store, serr := h.storeOf(ctx, c.Cluster, c.Store)
		if serr != nil {
			return job.Result{}, serr
		}
		if err := store.Delete(ctx, c.ImageID); err != nil {
			return job.Result{}, err
		}
	}
	return job.Result{Apply: func(ctx context.Context) error {
		if err := h.Store.DeleteCopy(ctx, c.ID); err != nil {
			return err
		}
		return h.Store.Record(ctx, event.Event{Type: "copy.evicted", Resource: "copies/" + c.ID, ProjectID: r.Job.ProjectID, RequestID: r.Job.RequestID})
	}}, nil
}

// Failed keeps the reason on the copy.
func (h *evictHandler) Failed(ctx context.Context, j job.Job, _ job.State, f *job.Failure) error {
	return h.failed(ctx, j, f)
}
