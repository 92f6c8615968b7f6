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

// documents makes what proves the image that lies at pub.path and is g in Glance: bills of materials, the list of its files,
// the signed statement. said is what the statement says of what went in (buildInput, upgradeInput). It answers the documents,
// for PutDocuments in the transaction that ends the job, and the Glance properties that name them, for the patch that shows
// the image.
func (p *publisher) documents(ctx context.Context, r *job.Run, g catalog.GlanceImage, v catalog.Version, pub publication, said proof.Input) ([]proof.Document, map[string]string, error) {
	r.Progress("proof", 0, 0, "steps")
	digests, _, err := proof.FileDigests(ctx, pub.path)
	if err != nil {
		return nil, nil, err
	}
	if hash := g.HashValue; hash != "" && g.HashAlgo == "sha512" && hash != digests["sha512"] {
		return nil, nil, errs.New(errs.Unavailable, "kiln.image.digest", "Glance has other bytes of image %s than this worker", g.ID)
	}
	in := said
	in.Origin, in.RunID, in.Family, in.Version, in.InputDigest = pub.origin, pub.originID, v.Family, v.Name, pub.input
	in.Image = proof.Artifact{Format: pub.format, ImageID: g.ID, Digests: digests}
	for _, a := range pub.artifacts {
		in.Artifacts = append(in.Artifacts, proof.Artifact{Format: a.Format, ImageID: a.ImageID, Digests: proof.ParseDigest(a.Digest)})
	}
	in.Facts, in.Boot = pub.facts, pub.boot
	in.Kiln, in.Worker, in.Started, in.Finished = version.String(), p.Name, r.Job.CreatedAt, p.Now()
	if r.Job.StartedAt != nil {
		in.Started = *r.Job.StartedAt
	}
	if p.Manifest != nil {
		if in.Files, err = p.Manifest(ctx, pub.path, pub.format); err != nil {
			return nil, nil, err
		}
	}
	if p.Signer == nil {
		r.Warnf("version %s gets no signed statement: this worker has no [build] signing_key", v.Name)
	}
	return proof.Make(ctx, in, p.Signer)
}

// buildInput is what the statement of a build says of what went in.
func buildInput(b build.Build, src build.Source, in *inputs) (proof.Input, error) {
	said := proof.Input{
		Source:  &proof.SourceRef{Name: src.Name, URI: src.URL, Commit: in.checkout.Commit},
		Recipe:  &proof.RecipeRef{Name: in.recipe.Name, Path: in.recipe.Path},
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
