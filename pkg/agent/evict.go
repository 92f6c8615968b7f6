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
		if err := spared(ctx, r, store, c); err != nil {
			return job.Result{}, err
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

// spared refuses to evict a copy that clones hang on, where the job says so.
func spared(ctx context.Context, r *job.Run, store cache.Backend, c cache.Copy) error {
	var p cache.EvictPayload
	if err := r.Decode(&p); err != nil {
		return err
	}
	counter, counts := store.(cache.ChildCounter)
	if !p.Spare || !counts {
		return nil
	}
	n, err := counter.Children(ctx, c.ImageID)
	if err != nil || n == 0 {
		return err
	}
	return errs.New(errs.Conflict, cache.CodeClones, "%d disks are cloned from copy %s at %s", n, c.ID, c.Path)
}

// Failed keeps the reason on the copy. One that was spared is as good as it was.
func (h *evictHandler) Failed(ctx context.Context, j job.Job, _ job.State, f *job.Failure) error {
	if f.Code != cache.CodeClones {
		return h.failed(ctx, j, f)
	}
	c, err := h.Store.FindCopy(ctx, j.ResourceID())
	if err != nil {
		return err
	}
	c.State, c.Error, c.UpdatedAt = cache.CopyFailed, f.Detail, h.Now()
	if c.VerifiedAt != nil {
		c.State = cache.CopyVerified
	}
	return h.Store.UpdateCopy(ctx, c)
}
