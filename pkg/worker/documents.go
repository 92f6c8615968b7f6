package worker

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/version"
)

// document makes what others can check the image by. The caller fills in what went into it; what came out is read here
// from the disk.
func (p *publisher) document(ctx context.Context, r *job.Run, in proof.Input, g catalog.GlanceImage, pub *publication) (err error) {
	r.Progress("documents", 0, 0, "steps")
	in.Image = proof.Artifact{Format: pub.format, ImageID: g.ID}
	if in.Image.Digests, _, err = proof.FileDigests(ctx, pub.path); err != nil {
		return err
	}
	if g.HashValue != "" && g.HashAlgo == "sha512" && g.HashValue != in.Image.Digests["sha512"] {
		return errs.New(errs.Unavailable, "kiln.image.digest", "Glance has other bytes of image %s than this worker", g.ID)
	}
	if p.Manifest != nil {
		if in.Files, err = p.Manifest(ctx, pub.path, pub.format); err != nil {
			return err
		}
	}
	for _, a := range pub.artifacts {
		made := proof.Artifact{Format: a.Format, ImageID: a.ImageID}
		if made.Digests, err = p.digests(ctx, r, a); err != nil {
			return err
		}
		in.Artifacts = append(in.Artifacts, made)
	}
	in.Origin, in.RunID, in.Family, in.Facts, in.Boot, in.InputDigest = pub.origin, pub.originID, pub.family.Name, pub.facts, pub.boot, pub.input
	in.Kiln, in.Worker, in.Finished = version.String(), p.Name, p.Now()
	if r.Job.StartedAt != nil {
		in.Started = *r.Job.StartedAt
	}
	if in.Version, err = p.name(ctx, pub); err != nil {
		return err
	}
	if pub.documents, pub.shown, err = proof.Make(ctx, in, p.Signer); err != nil {
		return err
	}
	if p.Signer == nil {
		r.Warnf("there is no signed statement: [build] signing_key is not set on this worker")
	}
	return nil
}

// digests reads an artifact as Glance gives it out: that is what people will get.
func (p *publisher) digests(ctx context.Context, r *job.Run, a catalog.Artifact) (proof.Digests, error) {
	body, err := p.Glance.Download(ctx, a.ImageID, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // only read
	digests, n, err := proof.DigestsOf(ctx, r.Metered("artifact "+a.Format, body, a.Size))
	if err == nil && n != a.Size {
		err = errs.New(errs.Unavailable, "kiln.image.digest", "artifact %s: %d bytes of image %s were read, Glance says %d", a.Format, n, a.ImageID, a.Size)
	}
	return digests, err
}

// name takes the version's name, once.
func (p *publisher) name(ctx context.Context, pub *publication) (string, error) {
	return p.Store.NameVersion(ctx, pub.family.ID, pub.originID, p.Now())
}

// buildInput is what the statement of a build says of what went in.
func buildInput(b build.Build, in *inputs) (proof.Input, error) {
	said := proof.Input{
		Source:  &proof.SourceRef{Name: in.source.Name, URI: in.source.URL, Commit: in.checkout.Commit},
		Recipe:  &proof.RecipeRef{Name: in.recipe.Name, Path: in.recipe.Path, Digest: in.digest},
		Trigger: b.Trigger, Materials: b.Materials, Steps: b.Steps, Builder: in.builder.Name(), Base: in.baseVersion, Time: in.request.Epoch,
	}
	if in.request.Base != nil {
		said.BaseDigest = in.request.Base.Digest
	}
	if lock := in.request.Lock; lock != nil {
		text, err := lock.Text()
		if err != nil {
			return proof.Input{}, err
		}
		said.Lock, said.LockDigest = []byte(text), lock.Digest()
	}
	return said, nil
}

// upgradeInput is what the statement of an upgrade says of what went in: the version that it began with and the packages.
func upgradeInput(u upgrade.Upgrade, from catalog.Version, original catalog.GlanceImage) proof.Input {
	said := proof.Input{Builder: "offline", Base: &from}
	if original.HashValue != "" {
		said.BaseDigest = original.HashAlgo + ":" + original.HashValue
	}
	if u.Report != nil {
		for _, c := range u.Report.Packages {
			said.Materials = append(said.Materials, build.Material{URI: "pkg:deb/debian/" + c.Name + "@" + c.To})
		}
	}
	return said
}
