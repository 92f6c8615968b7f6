package worker

import (
	"context"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// buildHandler runs a recipe: repository → image file → facts → Glance → version.
type buildHandler struct {
	Deps
	publisher *publisher
}

func (h *buildHandler) Kind() job.Kind { return job.Build }

func (h *buildHandler) Run(ctx context.Context, r *job.Run) (res job.Result, err error) {
	b, err := h.Store.BeginBuild(ctx, r.Job.ResourceID(), h.Name, h.Now())
	if err != nil {
		return res, err
	}
	src, err := h.Store.FindSource(ctx, b.SourceID)
	if err != nil {
		return res, err
	}
	err = h.work(func(dir string) error {
		in, err := h.inputs(ctx, r, src, b, dir)
		if err != nil {
			return err
		}
		defer in.checkout.Close() //nolint:errcheck // only read; the folder is removed
		b.Commit, b.InputDigest, b.Builder = in.checkout.Commit, in.input, in.builder.Name()
		if !b.Force {
			same, err := h.unchanged(ctx, in.family, b.InputDigest)
			if err != nil {
				return err
			}
			if same != nil {
				r.Logf("nothing changed since version %s: the same recipe, builder and packages", same.Name)
				res = h.done(r, b, build.Unchanged, *same, nil)
				return nil
			}
		}
		res, err = h.make(ctx, r, b, in)
		return err
	})
	return res, err
}

// unchanged finds the version that the same inputs made, if Glance still has it.
func (h *buildHandler) unchanged(ctx context.Context, f catalog.Family, digest string) (*catalog.Version, error) {
	if f.ID == "" { // a plan for a family that is not there yet
		return nil, nil
	}
	versions, err := h.Store.ListVersions(ctx, listing.All().Where("family_id", f.ID).Where("input_digest", digest))
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if !v.State.Usable() {
			continue
		}
		g, err := h.Glance.Image(ctx, v.ImageID)
		if err == nil && g.Status == "active" {
			return &v, nil
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
	}
	return nil, nil
}

// make builds, uploads, boots and publishes. What an earlier attempt left in Glance whole is used again.
func (h *buildHandler) make(ctx context.Context, r *job.Run, b build.Build, in *inputs) (res job.Result, err error) {
	rec := in.recipe
	pub := publication{
		family: in.family, origin: "build", originID: b.ID, input: b.InputDigest, format: rec.Output.Format, base: in.baseVersion,
		publish: rec.Publish, description: rec.Description, packagesAt: in.request.Epoch, properties: rec.Properties,
	}
	if pub.parent, err = h.newest(ctx, in.family); err != nil {
		return res, err
	}
	g, err := h.publisher.leftover(ctx, b.ID)
	if err != nil {
		return res, err
	}
	if g == nil {
		g, err = h.construct(ctx, r, &b, in, &pub)
	} else {
		r.Logf("image %s was whole when an earlier attempt ended; it is used", g.ID)
		err = h.adopt(ctx, r, *g, &pub)
	}
	if err != nil {
		return res, err
	}
	if err := h.prove(ctx, r, b, in, *g, &pub); err != nil {
		return res, h.publisher.discard(ctx, *g, err)
	}
	v, record, err := h.publisher.finish(ctx, r, *g, pub)
	if err != nil {
		return res, err
	}
	r.Logf("published version %s of %s as image %s", v.Name, v.Family, g.ID)
	return h.done(r, b, build.Succeeded, v, record), nil
}

// construct builds the file, reads its facts and uploads it.
func (h *buildHandler) construct(ctx context.Context, r *job.Run, b *build.Build, in *inputs, pub *publication) (*catalog.GlanceImage, error) {
	req := in.request
	req.WorkDir, req.Output, req.Log, req.Progress = in.dir, filepath.Join(in.dir, "image."+in.recipe.Output.Format), r, r.Progress
	made, err := in.builder.Build(ctx, req)
	if err != nil {
		return nil, disk.NoSpace(err, "the worker's disk")
	}
	h.compareWithEarlier(ctx, r, in, made)
	r.Progress("inspect", 0, 0, "steps")
	if pub.facts, err = h.Inspect(ctx, made.Path, made.Format); err != nil {
		return nil, err
	}
	pub.format, pub.path = made.Format, made.Path
	// Kept before the upload: an attempt that finds the image whole has them too.
	b.Steps, b.Materials = made.Steps, made.Materials
	if err := h.Store.UpdateBuild(ctx, *b); err != nil {
		return nil, err
	}
	g, err := h.publisher.upload(ctx, r, made.Path, *pub)
	return &g, err
}

// adopt reads what an earlier attempt uploaded whole.
func (h *buildHandler) adopt(ctx context.Context, r *job.Run, g catalog.GlanceImage, pub *publication) error {
	path, err := h.publisher.images.get(ctx, r, g)
	if err != nil {
		return err
	}
	pub.path, pub.format = path, g.DiskFormat
	pub.facts, err = h.Inspect(ctx, path, g.DiskFormat)
	return err
}

// prove boots the image where nobody sees it, and makes what is published beside it.
func (h *buildHandler) prove(ctx context.Context, r *job.Run, b build.Build, in *inputs, g catalog.GlanceImage, pub *publication) error {
	if err := h.boot(ctx, r, b, in, g, pub); err != nil {
		return err
	}
	if err := h.publisher.makeArtifacts(ctx, r, in.recipe.Output.Also, in.recipe, g, pub, in.dir); err != nil {
		return err
	}
	said, err := buildInput(b, in)
	if err != nil {
		return err
	}
	return h.publisher.document(ctx, r, said, g, pub)
}

// newest is the version that the new one follows; nil for the first.
func (d Deps) newest(ctx context.Context, f catalog.Family) (*catalog.Version, error) {
	versions, err := d.versions(ctx, f.ID, "")
	if err != nil {
		return nil, err
	}
	newest, found := catalog.Newest(versions)
	if !found {
		return nil, nil
	}
	return &newest, nil
}

func (h *buildHandler) done(r *job.Run, b build.Build, s build.State, v catalog.Version, record func(context.Context) error) job.Result {
	b.State, b.VersionName, b.ImageID, b.Family, b.UpdatedAt = s, v.Name, v.ImageID, v.Family, h.Now()
	return job.Result{
		Value: map[string]string{"family": string(v.Family), "version": v.Name, "image_id": v.ImageID, "state": string(s)},
		Apply: func(ctx context.Context) error {
			if record != nil {
				if err := record(ctx); err != nil {
					return err
				}
			}
			if err := h.ended(ctx, b); err != nil {
				return err
			}
			return h.Store.Record(ctx, event.Event{Type: "build." + string(s), Resource: "builds/" + b.ID, ProjectID: b.ProjectID, RequestID: r.Job.RequestID})
		},
		After: func(ctx context.Context) error { return h.publisher.hideSuperseded(ctx, v.FamilyID) },
	}
}

// ended writes a build that is over, and starts the one that was asked for meanwhile.
func (h *buildHandler) ended(ctx context.Context, b build.Build) error {
	if err := h.Store.UpdateBuild(ctx, b); err != nil {
		return err
	}
	return h.builds().Ended(ctx, b.RecipeID)
}

// Failed keeps the reason on the build.
func (h *buildHandler) Failed(ctx context.Context, j job.Job, s job.State, f *job.Failure) error {
	b, err := h.Store.FindBuild(ctx, j.ResourceID())
	if err != nil {
		return err
	}
	b.State, b.Error, b.UpdatedAt = build.Failed, f.Detail, h.Now()
	if s == job.Cancelled {
		b.State = build.Cancelled
	}
	if err := h.ended(ctx, b); err != nil {
		return err
	}
	return h.Store.Record(ctx, event.Event{Type: "build." + string(b.State), Resource: "builds/" + b.ID, ProjectID: b.ProjectID, RequestID: j.RequestID})
}
