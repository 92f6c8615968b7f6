package worker

import (
	"context"
	"maps"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/proof"
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
	var properties map[string]string
	if pub.documents, properties, err = proof.Make(ctx, in, p.Signer); err != nil {
		return err
	}
	if p.Signer == nil {
		r.Warnf("there is no signed statement: [build] signing_key is not set on this worker")
	}
	pub.shown = map[string]string{}
	maps.Copy(pub.shown, properties)
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
