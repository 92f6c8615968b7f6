package engine

import (
	"context"
	"errors"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Life is what becomes of versions that are superseded or revoked.
type Life struct {
	Limits            catalog.Limits // of families that say nothing else
	RetentionEvery    time.Duration  // 0: only on request
	EvictTime         time.Duration  // how long one run waits for agents to evict the copies of one version; 1 min where it is 0
	DeactivateRevoked bool
}

// settleHandler tells Glance what changed of some families.
type settleHandler struct{ *Engine }

func (h *settleHandler) Kind() job.Kind { return job.Settle }

func (h *settleHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	var p catalog.SettlePayload
	if err := r.Decode(&p); err != nil {
		return job.Result{}, err
	}
	var all error
	for _, id := range p.FamilyIDs {
		f, versions, err := h.family(ctx, id)
		if err == nil {
			err = h.settleFamily(ctx, f, versions, r.Logf)
		}
		all = errors.Join(all, err)
	}
	return job.Result{}, all
}

// family reads a family with its versions.
func (e *Engine) family(ctx context.Context, id string) (catalog.Family, []catalog.Version, error) {
	f, err := e.Store.FamilyByID(ctx, id)
	if err != nil {
		return f, nil, err
	}
	versions, err := listing.Read(ctx, listing.All().Where("family_id", id), e.Store.ListVersions, versionID)
	return f, versions, err
}

// settleFamily makes the images of a family in Glance what the catalog says of them. A version whose image is gone from
// Glance does not count: the newest that is left is shown then.
func (e *Engine) settleFamily(ctx context.Context, f catalog.Family, versions []catalog.Version, logf func(string, ...any)) error {
	images := map[string]catalog.GlanceImage{}
	for i, v := range versions {
		if v.State == catalog.Deleted {
			continue
		}
		for _, id := range v.Images() {
			g, err := e.Glance.Image(ctx, id)
			switch {
			case errs.Is(err, errs.NotFound) && id == v.ImageID:
				versions[i].State = catalog.Deleted
			case errs.Is(err, errs.NotFound):
			case err != nil:
				return err
			default:
				images[id] = g
			}
		}
	}
	var all error
	sights := catalog.Visible(versions, f.Channels)
	for _, v := range versions {
		sight, there := sights[v.ID]
		if !there {
			continue
		}
		for _, id := range v.Images() {
			if g, there := images[id]; there {
				all = errors.Join(all, e.settleImage(ctx, v, sight, g, logf))
			}
		}
	}
	return all
}

func (e *Engine) settleImage(ctx context.Context, v catalog.Version, sight catalog.Sight, g catalog.GlanceImage, logf func(string, ...any)) error {
	s, change := catalog.Settle(v, sight, g, e.Life.DeactivateRevoked)
	if !change {
		return nil
	}
	if s.Reactivate {
		if err := e.Glance.Reactivate(ctx, g.ID); err != nil {
			return gone(err)
		}
	}
	if _, err := e.Glance.PatchImage(ctx, g.ID, s.Patch); err != nil {
		return gone(err)
	}
	if s.Deactivate {
		if err := e.Glance.Deactivate(ctx, g.ID); err != nil {
			return gone(err)
		}
	}
	how := "is shown"
	if sight.Hidden {
		how = "is hidden"
	}
	logf("image %s of %s %s: %s", g.ID, v.Label(), how, s.Why)
	return nil
}

// gone forgives that an image is not there any more.
func gone(err error) error {
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// settleAll is settleFamily for every family that needs it. Which ones do is seen from one list of all images; what is then
// done is decided from rows that are read anew, so that a channel that moved since is never undone.
func (e *Engine) settleAll(ctx context.Context) error {
	listed, err := e.Glance.Images(ctx, nil)
	if err != nil {
		return err
	}
	images := make(map[string]catalog.GlanceImage, len(listed))
	for _, g := range listed {
		images[g.ID] = g
	}
	byFamily := map[string][]catalog.Version{}
	for v, err := range listing.Rows(ctx, listing.All(), e.Store.ListVersions, versionID) {
		if err != nil {
			return err
		}
		if _, there := images[v.ImageID]; !there {
			v.State = catalog.Deleted
		}
		byFamily[v.FamilyID] = append(byFamily[v.FamilyID], v)
	}
	var all error
	for id, versions := range byFamily {
		f, err := e.Store.FamilyByID(ctx, id)
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		if !e.differs(f, versions, images) {
			continue
		}
		f, versions, err = e.family(ctx, id)
		if err == nil {
			err = e.settleFamily(ctx, f, versions, e.Log.Infof)
		}
		all = errors.Join(all, err)
	}
	return all
}

func (e *Engine) differs(f catalog.Family, versions []catalog.Version, images map[string]catalog.GlanceImage) bool {
	sights := catalog.Visible(versions, f.Channels)
	for _, v := range versions {
		sight, there := sights[v.ID]
		if !there {
			continue
		}
		for _, id := range v.Images() {
			if g, there := images[id]; there {
				if _, change := catalog.Settle(v, sight, g, e.Life.DeactivateRevoked); change {
					return true
				}
			}
		}
	}
	return false
}
