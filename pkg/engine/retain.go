package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// ImageUsers is a service that knows what runs from an image.
type ImageUsers struct {
	Service  string // "Nova"
	Thing    string // "server"
	Optional bool   // a cloud may lack it
	// Find lists the ids of what was made from the image, by its id or, where the service keeps names, by a name.
	Find func(ctx context.Context, imageID string, names ...string) ([]string, error)
}

// retainHandler runs the retention of one family.
type retainHandler struct{ *Engine }

func (h *retainHandler) Kind() job.Kind { return job.Retain }

func (h *retainHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	var p catalog.RetainPayload
	if err := r.Decode(&p); err != nil {
		return job.Result{}, err
	}
	f, versions, verdicts, limits, err := h.verdicts(ctx, p.FamilyID)
	if err != nil {
		return job.Result{}, err
	}
	by := job.By{ProjectID: f.ProjectID, UserID: r.Job.UserID, RequestID: r.Job.RequestID}
	for i, d := range verdicts {
		r.Progress("retention", int64(i), int64(len(verdicts)), "versions")
		v := versions[slices.IndexFunc(versions, func(v catalog.Version) bool { return v.Name == d.Version })]
		if v.State == catalog.Deleting || len(d.Why) == 0 {
			if err := h.judge(ctx, by, v, p.DryRun, &d); err != nil {
				return job.Result{}, err
			}
			verdicts[i] = d
		}
		r.Logf("%s: %s%s", d.Version, d.Fate, because(d.Why))
	}
	return job.Result{Value: catalog.RetentionReport{Family: f.Name, Limits: limits, DryRun: p.DryRun, Versions: verdicts}}, nil
}

func because(why []string) string {
	if len(why) == 0 {
		return ""
	}
	return ", because " + strings.Join(why, "; ")
}

// verdicts are what the catalog alone says of a family's versions.
func (e *Engine) verdicts(ctx context.Context, familyID string) (catalog.Family, []catalog.Version, []catalog.Verdict, catalog.Limits, error) {
	f, versions, err := e.family(ctx, familyID)
	if err != nil {
		return f, nil, nil, catalog.Limits{}, err
	}
	q := listing.All()
	q.ProjectID = f.ProjectID
	project, err := listing.Read(ctx, q, e.Store.ListVersions, versionID)
	limits := f.Retention.Limits(e.Life.Limits)
	return f, versions, catalog.Keep(f, versions, project, limits, e.Now()), limits, err
}

// judge asks who uses a version that the catalog would let go, and removes it where nobody does. Each step may be the
// last one before a crash: the next run finds the version in state deleting and goes on.
func (e *Engine) judge(ctx context.Context, by job.By, v catalog.Version, dry bool, d *catalog.Verdict) error {
	if dry {
		switch d.Why = e.uses(ctx, v); {
		case v.State == catalog.Deleting:
			d.Fate = catalog.Leaving
		case len(d.Why) == 0:
			d.Fate = catalog.Doomed
		}
		return nil
	}
	was := v.State
	if was == catalog.Deleting {
		was = before(v)
	} else if why, err := e.mark(ctx, &v); err != nil || why != "" {
		d.Why = append(d.Why, why)
		return err
	}
	// Asked again now that nothing starts from it through Kiln any more.
	if d.Why = e.uses(ctx, v); len(d.Why) > 0 {
		return e.spare(ctx, v, was, d)
	}
	left, cloned, err := e.evict(ctx, by, v)
	switch {
	case err != nil:
		return err
	case len(cloned) > 0:
		d.Why = cloned
		return e.spare(ctx, v, was, d)
	case len(left) > 0:
		d.Fate, d.Why = catalog.Leaving, left
		return nil
	}
	why, err := e.removeImages(ctx, v)
	if err != nil {
		return err
	}
	if why != "" {
		d.Why = []string{why}
		return e.spare(ctx, v, was, d)
	}
	d.Fate, d.Why = catalog.Removed, []string{}
	return e.buried(ctx, by, v)
}

// before is what a version was before retention took it.
func before(v catalog.Version) catalog.VersionState {
	if v.RevokedWith != "" {
		return catalog.Revoked
	}
	return catalog.Superseded
}

// mark takes the version out of use, unless somebody pinned it, moved a channel to it or changed it meanwhile.
func (e *Engine) mark(ctx context.Context, v *catalog.Version) (why string, err error) {
	err = e.Store.InTx(ctx, func(ctx context.Context) error {
		why = ""
		if err := e.Store.LockFamily(ctx, v.FamilyID); err != nil {
			return err
		}
		f, err := e.Store.FamilyByID(ctx, v.FamilyID)
		if err != nil {
			return err
		}
		now, err := e.Store.FindVersion(ctx, v.FamilyID, v.Name)
		if err != nil {
			return err
		}
		for _, pointed := range f.Channels {
			if pointed == v.Name {
				why = "a channel was moved to it meanwhile"
			}
		}
		if now.Pinned || now.State != v.State || now.State == catalog.Published {
			why = "it was changed meanwhile"
		}
		if why != "" {
			return nil
		}
		was := now.State
		now.State = catalog.Deleting
		*v = now
		return e.Store.UpdateVersion(ctx, now, was)
	})
	return why, err
}

// spare puts a version back that has to stay. One whose own image is gone already cannot come back: it stays on its
// way out.
func (e *Engine) spare(ctx context.Context, v catalog.Version, was catalog.VersionState, d *catalog.Verdict) error {
	if _, err := e.Glance.Image(ctx, v.ImageID); errs.Is(err, errs.NotFound) {
		d.Fate = catalog.Leaving
		return nil
	}
	v.State = was
	return e.Store.UpdateVersion(ctx, v, catalog.Deleting)
}

func (e *Engine) buried(ctx context.Context, by job.By, v catalog.Version) error {
	v.State = catalog.Deleted
	return e.Store.InTx(ctx, func(ctx context.Context) error {
		if err := e.Store.UpdateVersion(ctx, v, catalog.Deleting); err != nil {
			return err
		}
		for _, id := range v.Images() {
			if err := e.bury(ctx, id, v.ProjectID); err != nil {
				return err
			}
		}
		return e.desk().Tell(ctx, by, "version.deleted", "families/"+string(v.Family)+"/versions/"+v.Name, v.ProjectID, v)
	})
}

func (e *Engine) desk() job.Desk {
	return job.Desk{Jobs: e.Store, Tx: e.Store, Events: e.Store, Now: e.Now, NewID: uuid.NewString}
}

// uses lists who needs the images of a version. Who cannot be asked counts as somebody who does.
func (e *Engine) uses(ctx context.Context, v catalog.Version) []string {
	why := []string{}
	for _, id := range v.Images() {
		names := []string{}
		if g, err := e.Glance.Image(ctx, id); err == nil {
			names = append(names, id, g.Name)
			if g.Protected && g.Properties[catalog.PropProtected] != "true" {
				why = append(why, "somebody protected image "+id+" in Glance")
			}
		} else if !errs.Is(err, errs.NotFound) {
			return append(why, "could not ask Glance: "+err.Error())
		}
		for _, u := range e.Users {
			found, err := u.Find(ctx, id, names...)
			switch {
			case err != nil && u.Optional && strings.HasSuffix(errs.CodeOf(err), ".no_endpoint"):
			case err != nil:
				why = append(why, "could not ask "+u.Service+": "+err.Error())
			case len(found) > 0:
				why = append(why, used(len(found), u.Thing, found[0]))
			}
		}
		why = append(why, e.basedOn(ctx, id)...)
		why = append(why, e.workloads(ctx, id)...)
	}
	return slices.Compact(why)
}

func used(n int, thing, first string) string {
	if n == 1 {
		return fmt.Sprintf("%s %s uses it", thing, first)
	}
	return fmt.Sprintf("%d %ss use it, the first is %s", n, thing, first)
}

// basedOn finds snapshots of servers: Nova writes the image that the server was made from.
func (e *Engine) basedOn(ctx context.Context, id string) []string {
	found, err := e.Glance.Images(ctx, map[string]string{"base_image_ref": id})
	if err != nil {
		return []string{"could not ask Glance: " + err.Error()}
	}
	found = slices.DeleteFunc(found, func(g catalog.GlanceImage) bool { return g.Properties["base_image_ref"] != id })
	if len(found) == 0 {
		return nil
	}
	return []string{used(len(found), "snapshot", found[0].ID)}
}

// workloads finds Kiln's own, also those that no service has yet.
func (e *Engine) workloads(ctx context.Context, id string) []string {
	found, err := listing.Read(ctx, listing.All().Where("image_id", id), e.Store.ListWorkloads, func(w placement.Workload) string { return w.ID })
	if err != nil {
		return []string{"could not ask the database: " + err.Error()}
	}
	found = slices.DeleteFunc(found, func(w placement.Workload) bool {
		return w.State == placement.Deleted || w.State == placement.Errored && w.ExternalID == ""
	})
	if len(found) == 0 {
		return nil
	}
	return []string{used(len(found), "workload", found[0].ID)}
}

// scheduleRetention starts one run a family and window, where something may go. Two engines that do it at once start
// the same job.
func (e *Engine) scheduleRetention(ctx context.Context) error {
	every := e.Life.RetentionEvery
	if every <= 0 {
		return nil
	}
	window := e.Now().UTC().Truncate(every)
	if window.Equal(e.retained) {
		return nil
	}
	for f, err := range listing.Rows(ctx, listing.All(), e.Store.ListFamilies, func(f catalog.Family) string { return f.ID }) {
		if err != nil {
			return err
		}
		_, versions, verdicts, _, err := e.verdicts(ctx, f.ID)
		if err != nil {
			return err
		}
		leaving := slices.ContainsFunc(versions, func(v catalog.Version) bool { return v.State == catalog.Deleting })
		if !leaving && !slices.ContainsFunc(verdicts, func(d catalog.Verdict) bool { return len(d.Why) == 0 }) {
			continue
		}
		_, err = e.desk().Start(ctx, job.By{ProjectID: f.ProjectID}, job.Draft{
			ID:   uuid.NewSHA1(uuid.NameSpaceURL, []byte("retention "+f.ID+" "+window.Format(time.RFC3339))).String(),
			Kind: job.Retain, Queue: job.EngineQueue, ProjectID: f.ProjectID, Resource: "families/" + string(f.Name),
			Payload: catalog.RetainPayload{FamilyID: f.ID},
		})
		if err != nil {
			return err
		}
	}
	e.retained = window
	return nil
}
