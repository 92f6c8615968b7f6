package agent

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// warmUpHandler makes a verified copy of an image in a store of the cluster.
type warmUpHandler struct{ *Agent }

func (h *warmUpHandler) Kind() job.Kind { return job.WarmUp }

func (h *warmUpHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	c, err := h.Store.FindCopy(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	g, digest, err := h.image(ctx, c.ImageID)
	if err != nil {
		return job.Result{}, err
	}
	store, err := h.storeOf(ctx, c.Cluster, c.Store)
	if err != nil {
		return job.Result{}, err
	}
	if err := store.Sweep(ctx); err != nil {
		r.Warnf("what killed writers left in the store could not be removed: %v", err)
	}
	stat, err := store.Stat(ctx, c.ImageID)
	switch {
	case err == nil && stat.Digest == digest && stat.Size == g.Size:
		r.Logf("the store has the image already")
	case err != nil && !errs.Is(err, errs.NotFound):
		return job.Result{}, err
	default:
		c.State, c.UpdatedAt = cache.CopyCopying, h.Now()
		if err := h.Store.UpdateCopy(ctx, c); err != nil {
			return job.Result{}, err
		}
		if stat, err = h.copy(ctx, r, store, g, digest); err != nil {
			return job.Result{}, err
		}
	}
	now := h.Now()
	c.State, c.Bytes, c.Digest, c.Path, c.Error, c.VerifiedAt, c.UpdatedAt = cache.CopyVerified, stat.Size, digest, stat.Path, "", &now, now
	return h.done(r, c, "copy.verified"), nil
}

func (h *warmUpHandler) copy(ctx context.Context, r *job.Run, store cache.Backend, g catalog.GlanceImage, digest string) (cache.Stat, error) {
	body, err := h.Glance.Download(ctx, g.ID, 0)
	if err != nil {
		return cache.Stat{}, err
	}
	defer body.Close() //nolint:errcheck // only read
	return store.Put(ctx, g.ID, r.Metered("copy", body, g.Size), g.Size, digest)
}

// Failed keeps the reason on the copy.
func (h *warmUpHandler) Failed(ctx context.Context, j job.Job, _ job.State, f *job.Failure) error {
	return h.failed(ctx, j, f)
}

// image asks Glance for an image that can be copied, and its digest.
func (a *Agent) image(ctx context.Context, id string) (catalog.GlanceImage, string, error) {
	g, err := a.Glance.Image(ctx, id)
	switch {
	case err != nil:
		return g, "", err
	case g.Status != "active":
		return g, "", errs.New(errs.Conflict, "kiln.image.not_active", "image %s is %s in Glance, not active", id, g.Status)
	case g.HashAlgo != "sha512" || g.HashValue == "":
		return g, "", errs.New(errs.Conflict, "kiln.image.no_digest", "Glance has no sha512 of image %s, so a copy could not be verified", id)
	}
	return g, "sha512:" + g.HashValue, nil
}
