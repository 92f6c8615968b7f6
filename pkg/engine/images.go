package engine

import (
	"context"
	"errors"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// sweepImages does again what a crash may have lost: versions are shown, hidden and barred in Glance, and half-made
// images of jobs that have ended are removed.
func (e *Engine) sweepImages(ctx context.Context) error {
	return errors.Join(e.settleAll(ctx), e.removeHalves(ctx))
}

// removeHalves deletes images that a job began and will never finish. Images of running jobs are left alone.
func (e *Engine) removeHalves(ctx context.Context) error {
	var all error
	for _, status := range []string{"queued", "saving"} {
		found, err := e.Glance.Images(ctx, map[string]string{"status": status})
		if err != nil {
			return errors.Join(all, err)
		}
		for _, g := range found {
			id := g.Properties[catalog.PropJob]
			if id == "" {
				continue // not Kiln's
			}
			j, err := e.Store.FindJob(ctx, id)
			if errs.Is(err, errs.NotFound) {
				continue // of another Kiln on the same cloud
			}
			if err != nil {
				return errors.Join(all, err)
			}
			if !j.State.Final() {
				continue
			}
			e.Log.WithField("image", g.ID).Info("removing a half-made image of a job that has ended")
			if err := e.Glance.DeleteImage(ctx, g.ID); !errs.Is(err, errs.NotFound) { // another engine may have been faster
				all = errors.Join(all, err)
			}
		}
	}
	return all
}

func versionID(v catalog.Version) string { return v.ID }
