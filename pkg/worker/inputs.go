package worker

import (
	"context"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// inputs is all that goes into a build.
type inputs struct {
	source      build.Source
	recipe      *recipe.Recipe // resolved
	digest      string         // of the recipe and of every file that it names
	checkout    Checkout
	family      catalog.Family
	builder     build.Builder
	baseVersion *catalog.Version // that the recipe stands on; nil for a release
	input       string           // digest of everything
	dir         string           // the build's own folder
	request     build.Request    // without the fields that say where things go
}

// inputs brings the repository, the base and the state of the packages. The caller closes the checkout.
func (h *buildHandler) inputs(ctx context.Context, r *job.Run, src build.Source, b build.Build, dir string) (_ *inputs, err error) {
	r.Progress("inputs", 0, 0, "steps")
	found, err := h.resolve(ctx, src, b.Commit, b.Recipe, filepath.Join(dir, "git"))
	if err != nil {
		return nil, err
	}
	in := &inputs{dir: dir, source: src, recipe: found.recipe, digest: found.digest, checkout: found.checkout}
	defer func() {
		if err != nil {
			in.checkout.Close() //nolint:errcheck // only read; the folder is removed
		}
	}()
	if in.builder, err = h.builder(in.recipe); err != nil {
		return nil, err
	}
	if in.family, err = h.family(ctx, b, in.recipe.Family); err != nil {
		return nil, err
	}
	in.request = build.Request{Recipe: in.recipe, Files: in.checkout.Files, Fresh: b.Force}
	if in.request.Lock, err = found.set.Lock(b.Recipe); err != nil {
		return nil, err
	}
	if in.request.Lock != nil {
		in.request.Epoch = in.request.Lock.Time
	}
	if in.recipe.From.Family != "" {
		if in.request.Base, in.baseVersion, err = h.base(ctx, r, b.ProjectID, in.recipe); err != nil {
			return nil, err
		}
	}
	state, err := in.builder.InputState(ctx, in.request)
	if err != nil {
		return nil, err
	}
	in.input = build.InputDigest(found.digest, in.builder.Name(), state)
	in.request.Seed = in.input
	return in, nil
}

// family is that of the recipe; a plan, which is of no build, makes none and may get an empty one.
func (h *buildHandler) family(ctx context.Context, b build.Build, name catalog.FamilyName) (catalog.Family, error) {
	if b.ID != "" {
		return h.Store.EnsureFamily(ctx, b.ProjectID, name)
	}
	f, err := h.Store.FindFamily(ctx, b.ProjectID, name)
	if errs.Is(err, errs.NotFound) {
		err = nil
	}
	return f, err
}

// builder is who makes the recipe's disk. The job's needs lead it to a worker that has it.
func (d Deps) builder(rec *recipe.Recipe) (build.Builder, error) {
	b, ok := d.Builders[rec.Builder.Name]
	if !ok {
		return nil, errs.New(errs.Unavailable, "kiln.build.builder", "worker %s has no builder %q", d.Name, rec.Builder.Name)
	}
	return b, nil
}

// base brings the image that the recipe stands on. A version that is revoked is refused (catalog.Resolve).
func (h *buildHandler) base(ctx context.Context, r *job.Run, projectID string, rec *recipe.Recipe) (*build.Base, *catalog.Version, error) {
	at := errs.Where{File: rec.Path, Field: "from.family"}
	v, fallback, err := catalog.Resolve(ctx, h.Store, projectID, rec.From.Family, rec.From.Channel)
	if err != nil {
		return nil, nil, errs.Wrap(err, errs.KindOf(err), errs.CodeOf(err), "the base cannot be used").At(at)
	}
	if fallback != "" {
		r.Logf("%s", fallback)
	}
	g, err := h.Glance.Image(ctx, v.ImageID)
	if err != nil {
		return nil, nil, err
	}
	path, err := h.publisher.images.get(ctx, r, g)
	if err != nil {
		return nil, nil, err
	}
	facts, err := h.Inspect(ctx, path, g.DiskFormat) // also refuses a disk that names other files
	if err != nil {
		return nil, nil, err
	}
	r.Logf("the base is version %s of %s, image %s", v.Name, v.Family, v.ImageID)
	return &build.Base{
		Path: path, Format: g.DiskFormat, Digest: g.HashAlgo + ":" + g.HashValue, Family: v.Family, Version: v.Name, ImageID: v.ImageID, Facts: facts,
	}, &v, nil
}
