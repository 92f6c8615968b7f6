package engine

import (
	"context"
	"errors"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// sweepImages does again what a crash may have lost: versions are shown, hidden and barred in Glance, and half-made
// images of jobs that have ended are removed.
func (e *Engine) sweepImages(ctx context.Context) error {
	return errors.Join(e.settleAll(ctx), e.removeHalves(ctx))
}

// removeHalves deletes images that a job began and will never publish. Images of open jobs are left alone.
func (e *Engine) removeHalves(ctx context.Context) error {
	published := map[string]bool{}
	for v, err := range listing.Rows(ctx, listing.All(), e.Store.ListVersions, versionID) {
		if err != nil {
			return err
		}
		for _, id := range v.Images() {
			published[id] = true
		}
	}
	var all error
	for _, status := range []string{"queued", "saving", "active"} {
		found, err := e.Glance.Images(ctx, map[string]string{"status": status})
		if err != nil {
			return errors.Join(all, err)
		}
		for _, g := range found {
			if g.Properties[catalog.PropJob] != "" && !published[g.ID] { // Kiln's, and no version
				all = errors.Join(all, e.removeHalf(ctx, g))
			}
		}
	}
	return all
}

func (e *Engine) removeHalf(ctx context.Context, g catalog.GlanceImage) error {
	j, err := e.Store.FindJob(ctx, g.Properties[catalog.PropJob])
	if errs.Is(err, errs.NotFound) {
		return nil // of another Kiln on the same cloud
	}
	// A job that succeeded may have ended after the versions were read: its whole images are left alone.
	if err != nil || !j.State.Final() || g.Status == "active" && j.State == job.Succeeded {
		return err
	}
	e.Log.WithField("image", g.ID).Info("removing an image of a job that has ended without publishing it")
	if g.Protected { // by the recipe, a moment before the end
		no := false
		if _, err := e.Glance.PatchImage(ctx, g.ID, catalog.GlancePatch{Protected: &no}); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	if err := e.Glance.DeleteImage(ctx, g.ID); !errs.Is(err, errs.NotFound) { // another engine may have been faster
		return err
	}
	return nil
}

func versionID(v catalog.Version) string { return v.ID }
