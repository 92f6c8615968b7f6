package engine

import (
	"context"
	"errors"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// evict has agents remove the copies of a version and waits for them, within a bound. It tells which are left, and
// which stay because disks are cloned from them.
func (e *Engine) evict(ctx context.Context, by job.By, v catalog.Version) (left, cloned []string, err error) {
	limit := e.Life.EvictTime
	if limit <= 0 {
		limit = time.Minute
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(e.PollEvery)
	defer tick.Stop()
	asked := map[string]string{} // copy to job
	for {
		copies, err := e.copies(ctx, v)
		if err != nil || len(copies) == 0 {
			return nil, nil, err
		}
		left, cloned = nil, nil
		for _, c := range copies {
			why, clones, err := e.evictOne(ctx, by, c, v.ProjectID, asked)
			switch {
			case err != nil:
				return nil, nil, err
			case clones:
				cloned = append(cloned, why)
			default:
				left = append(left, why)
			}
		}
		if len(left) == 0 {
			return nil, cloned, nil
		}
		select {
		case <-bounded.Done():
			return left, cloned, ctx.Err()
		case <-tick.C:
		}
	}
}

// evictOne starts or joins the eviction of a copy, and tells how it stands. One that fails is tried again by the next
// run, not by this one.
func (e *Engine) evictOne(ctx context.Context, by job.By, c cache.Copy, projectID string, asked map[string]string) (why string, clones bool, err error) {
	if id := asked[c.ID]; id != "" {
		j, err := e.Store.FindJob(ctx, id)
		if err == nil && j.Error != nil && j.Error.Code == cache.CodeClones {
			return j.Error.Detail, true, nil
		}
		why = "copy " + c.ID + " in cluster " + c.Cluster + " is being evicted"
		if c.State != cache.CopyEvicting && c.Error != "" {
			why = "copy " + c.ID + " in cluster " + c.Cluster + " could not be evicted: " + c.Error
		}
		return why, false, err
	}
	s := cache.Service{Desk: e.desk(), Store: e.Store}
	started, err := s.EvictUnused(ctx, by, c.ID, projectID)
	switch {
	case errs.Is(err, errs.Conflict):
		return err.Error(), false, nil // it is being made
	case err != nil:
		return "", false, gone(err)
	}
	asked[c.ID] = started.JobID
	return "copy " + c.ID + " in cluster " + c.Cluster + " is being evicted", false, nil
}

func (e *Engine) copies(ctx context.Context, v catalog.Version) ([]cache.Copy, error) {
	var all []cache.Copy
	for _, id := range v.Images() {
		found, err := listing.Read(ctx, listing.All().Where("image_id", id), e.Store.ListCopies, func(c cache.Copy) string { return c.ID })
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// removeImages deletes the version's own image first, because it is the one that Glance may refuse, then the others.
// It tells why where Glance does not let one go.
func (e *Engine) removeImages(ctx context.Context, v catalog.Version) (why string, err error) {
	for _, id := range v.Images() {
		switch err := e.removeImage(ctx, id); {
		case errs.Is(err, errs.Conflict):
			// For example "in use": a store that holds copy-on-write clones of the image says so.
			return "Glance does not let go of image " + id + ": " + err.Error(), nil
		case errs.Is(err, errs.Forbidden):
			return "somebody protected image " + id + " in Glance", nil
		case err != nil:
			return "", err
		}
	}
	return "", nil
}

func (e *Engine) removeImage(ctx context.Context, id string) error {
	g, err := e.Glance.Image(ctx, id)
	if err != nil {
		return gone(err)
	}
	if g.Protected {
		if g.Properties[catalog.PropProtected] != "true" {
			return errs.New(errs.Forbidden, "kiln.image.protected", "image %s is protected", id)
		}
		open := false
		if _, err := e.Glance.PatchImage(ctx, id, catalog.GlancePatch{Protected: &open}); err != nil {
			return gone(err)
		}
	}
	err = e.Glance.DeleteImage(ctx, id)
	if err != nil && g.Protected && !errs.Is(err, errs.NotFound) {
		closed := true // it stays, and as it was
		_, perr := e.Glance.PatchImage(ctx, id, catalog.GlancePatch{Protected: &closed})
		err = errors.Join(err, perr)
	}
	return gone(err)
}
