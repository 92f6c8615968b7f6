package worker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// publisher turns an image file into a version: bytes to Glance, then one transaction that makes it known.
// Until that transaction the Glance image is private and carries no version.
type publisher struct {
	Deps
	images *imageCache
}

// publication is what becomes a version.
type publication struct {
	family      catalog.Family
	parent      *catalog.Version
	origin      string // "build" or "upgrade"
	originID    string
	input       string // input digest
	format      string
	path        string // of the disk on this worker
	base        *catalog.Version
	publish     recipe.Publish
	description string
	packagesAt  time.Time // the lock's time; zero without one
	facts       *catalog.Facts
	boot        *build.BootReport
	artifacts   []catalog.Artifact
	documents   []proof.Document
	shown       map[string]string // properties that are set when the image is shown
	properties  map[string]string
}

// leftover finds what an earlier attempt at the same build or upgrade uploaded: a whole image is used again,
// a half one is removed.
func (p *publisher) leftover(ctx context.Context, originID string) (*catalog.GlanceImage, error) {
	found, err := p.Glance.Images(ctx, map[string]string{catalog.PropOriginID: originID})
	if err != nil {
		return nil, err
	}
	var whole *catalog.GlanceImage
	for i, g := range found {
		if g.Status == "active" && whole == nil {
			whole = &found[i]
			continue
		}
		if err := p.remove(ctx, g.ID); err != nil {
			return nil, err
		}
	}
	return whole, nil
}

// leftoverArtifacts finds the whole artifacts of an image that an earlier attempt uploaded, by their format; half ones
// are removed.
func (p *publisher) leftoverArtifacts(ctx context.Context, imageID string) (map[string]catalog.GlanceImage, error) {
	found, err := p.Glance.Images(ctx, map[string]string{catalog.PropArtifactOf: imageID})
	if err != nil {
		return nil, err
	}
	whole := map[string]catalog.GlanceImage{}
	for _, g := range found {
		format := g.Properties[catalog.PropArtifact]
		if _, twice := whole[format]; g.Status == "active" && !twice {
			whole[format] = g
			continue
		}
		if err := p.remove(ctx, g.ID); err != nil {
			return nil, err
		}
	}
	return whole, nil
}

// discard removes an image that will never be published, with its artifacts, where the reason is final; what may come
// good at the next attempt stays. It answers the reason.
func (p *publisher) discard(ctx context.Context, g catalog.GlanceImage, reason error) error {
	if kind := errs.KindOf(reason); kind != errs.Invalid {
		return reason
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	found, err := p.Glance.Images(clean, map[string]string{catalog.PropArtifactOf: g.ID})
	for _, a := range found {
		err = errors.Join(err, p.remove(clean, a.ID))
	}
	if err = errors.Join(err, p.remove(clean, g.ID)); err != nil {
		p.Log.WithError(err).WithField("image", g.ID).Warning("an image that failed its proof cannot be removed now; the engine's sweep will")
	}
	return reason
}

// remove deletes an image; one that somebody else removed already is no fault.
func (p *publisher) remove(ctx context.Context, id string) error {
	if err := p.Glance.DeleteImage(ctx, id); !errs.Is(err, errs.NotFound) {
		return err
	}
	return nil
}

// upload creates the image record and sends the file. A failure removes the record again; a kill leaves it to
// leftover.
func (p *publisher) upload(ctx context.Context, r *job.Run, path string, pub publication) (g catalog.GlanceImage, err error) {
	props := map[string]string{
		catalog.PropFamily: string(pub.family.Name), catalog.PropOrigin: pub.origin, catalog.PropOriginID: pub.originID,
		catalog.PropInputDigest: pub.input, catalog.PropJob: r.Job.ID,
	}
	maps.Copy(props, p.standard(pub, false))
	if pub.parent != nil {
		props[catalog.PropParent] = pub.parent.ImageID
	}
	maps.Copy(props, pub.properties)
	g, err = p.send(ctx, r, path, catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: string(pub.family.Name), DiskFormat: pub.format, ContainerFormat: "bare",
		Owner: pub.family.ProjectID, Visibility: "private", MinDiskGiB: minDisk(pub.facts), MinRAMMiB: catalog.SCSMinRAM, Tags: catalog.SCSTags(pub.facts), Properties: props,
	})
	if err != nil {
		return g, err
	}
	if err := p.images.put(g, path); err != nil {
		r.Warnf("the image is not kept on this worker: %v", err)
	}
	return g, nil
}

// standard are the properties of the SCS image metadata standard.
func (p *publisher) standard(pub publication, container bool) map[string]string {
	in := catalog.SCSInput{Facts: pub.facts, Container: container, PackagesAt: p.Now(), Description: pub.description}
	if !pub.packagesAt.IsZero() {
		in.PackagesAt = pub.packagesAt
	}
	if keep := pub.family.Retention.KeepCount; keep != nil {
		in.KeepCount = *keep
	}
	return catalog.SCSProperties(in)
}

// uploadArtifact sends a further form of the image g.
func (p *publisher) uploadArtifact(ctx context.Context, r *job.Run, g catalog.GlanceImage, a build.Artifact, pub publication) (catalog.GlanceImage, error) {
	diskFormat, container := glanceFormats(a.Format)
	props := p.standard(pub, container == catalog.DockerFormat)
	maps.Copy(props, map[string]string{
		catalog.PropFamily: string(pub.family.Name), catalog.PropArtifact: a.Format, catalog.PropArtifactOf: g.ID, catalog.PropJob: r.Job.ID,
	})
	return p.send(ctx, r, a.Path, catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: string(pub.family.Name) + "-" + a.Format, DiskFormat: diskFormat, ContainerFormat: container,
		Owner: pub.family.ProjectID, Visibility: "private", Tags: catalog.SCSTags(pub.facts), Properties: props,
	})
}

func (p *publisher) send(ctx context.Context, r *job.Run, path string, n catalog.NewGlanceImage) (g catalog.GlanceImage, err error) {
	f, err := os.Open(path)
	if err != nil {
		return g, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return g, err
	}
	if g, err = p.Glance.CreateImage(ctx, n); err != nil {
		return g, err
	}
	if err := p.Glance.Upload(ctx, g.ID, r.Metered("upload", f, info.Size()), info.Size()); err != nil {
		// The upload may have failed because ctx ended: the record still has to go.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return g, errors.Join(err, p.remove(clean, g.ID))
	}
	return p.Glance.Image(ctx, g.ID)
}

// finish names the version and returns what must be written with the job's end.
func (p *publisher) finish(ctx context.Context, r *job.Run, g catalog.GlanceImage, pub publication) (catalog.Version, func(context.Context) error, error) {
	name, err := p.name(ctx, &pub)
	if err != nil {
		return catalog.Version{}, nil, err
	}
	v := catalog.Version{
		ID: uuid.NewString(), ProjectID: pub.family.ProjectID, FamilyID: pub.family.ID, Family: pub.family.Name,
		Name: name, ImageID: g.ID, Origin: pub.origin, OriginID: pub.originID,
		InputDigest: pub.input, State: catalog.Published, CreatedAt: p.Now(),
	}
	if pub.parent != nil {
		v.ParentVersion = pub.parent.Name
	}
	if pub.base != nil {
		v.Base, v.BaseImageID = string(pub.base.Family)+"/"+pub.base.Name, pub.base.ImageID
	}
	v.Artifacts = pub.artifacts
	if err := p.show(ctx, g.ID, v, pub.publish, pub.shown); err != nil {
		return v, nil, err
	}
	for _, a := range pub.artifacts {
		if err := p.show(ctx, a.ImageID, v, pub.publish, nil); err != nil {
			return v, nil, err
		}
	}
	row := imageRow(g, v.ProjectID, pub.facts, p.Now())
	compared := p.compared(ctx, r, row)
	return v, func(ctx context.Context) error {
		if err := p.Store.PutImage(ctx, row); err != nil {
			return err
		}
		if err := compared.write(ctx, r); err != nil {
			return err
		}
		if err := p.Store.PutDocuments(ctx, g.ID, pub.documents); err != nil {
			return err
		}
		return p.record(ctx, r, v, pub.publish.Channel)
	}, nil
}

// show lets those see the image whom the recipe names. It is the last thing that is done in Glance.
func (p *publisher) show(ctx context.Context, imageID string, v catalog.Version, publish recipe.Publish, properties map[string]string) error {
	patch := catalog.GlancePatch{Properties: map[string]string{catalog.PropVersion: v.Name}}
	maps.Copy(patch.Properties, properties)
	if publish.Visibility != "" {
		patch.Visibility = &publish.Visibility
	}
	if publish.Protected {
		patch.Protected = &publish.Protected
		patch.Properties[catalog.PropProtected] = "true"
	}
	if _, err := p.Glance.PatchImage(ctx, imageID, patch); err != nil {
		return err
	}
	for _, project := range publish.Members {
		if err := p.Glance.AddMember(ctx, imageID, project); err != nil {
			return err
		}
	}
	return nil
}

// record makes the version known: it runs in the transaction that ends the job. Where a build that took its name later
// was faster, the version is superseded from the beginning and moves no channel.
func (p *publisher) record(ctx context.Context, r *job.Run, v catalog.Version, channel string) error {
	if err := p.Store.LockFamily(ctx, v.FamilyID); err != nil {
		return err
	}
	if err := catalog.MayPublish(ctx, p.Store, v); err != nil { // its base was revoked meanwhile
		return err
	}
	versions, err := p.versions(ctx, v.FamilyID, catalog.Published)
	if err != nil {
		return err
	}
	for _, old := range versions {
		if catalog.CompareVersions(old.Name, v.Name) > 0 {
			v.State = catalog.Superseded
			continue
		}
		if err := p.Store.SetVersionState(ctx, old.ID, catalog.Published, catalog.Superseded); err != nil {
			return err
		}
	}
	if err := p.Store.AddVersion(ctx, v); err != nil {
		return err
	}
	if v.State == catalog.Published {
		_, err := p.Store.MoveChannel(ctx, catalog.ChannelMove{
			ID: uuid.NewString(), FamilyID: v.FamilyID, Channel: cmp.Or(channel, catalog.Candidate), Kind: catalog.MovePublish, Version: v.Name,
			UserID: r.Job.UserID, Reason: v.Origin + " " + v.OriginID, At: p.Now().UTC(),
		})
		if err != nil {
			return err
		}
	}
	return p.Store.Record(ctx, event.Event{
		Type: "version.published", Resource: "families/" + string(v.Family) + "/versions/" + v.Name,
		ProjectID: v.ProjectID, RequestID: r.Job.RequestID,
	})
}

// hideSuperseded tells Glance which versions of the family are out of date (catalog.Visible). The engine's sweep does the
// same, so a crash before this call costs time only.
func (p *publisher) hideSuperseded(ctx context.Context, familyID string) error {
	family, err := p.Store.FamilyByID(ctx, familyID)
	if err != nil {
		return err
	}
	versions, err := p.versions(ctx, familyID, "")
	if err != nil {
		return err
	}
	sights := catalog.Visible(versions, family.Channels)
	for _, v := range versions {
		sight, there := sights[v.ID]
		if !there {
			continue
		}
		for _, id := range v.Images() {
			_, perr := p.Glance.PatchImage(ctx, id, catalog.GlancePatch{Hidden: &sight.Hidden})
			if perr != nil && !errs.Is(perr, errs.NotFound) {
				err = errors.Join(err, perr)
			}
		}
	}
	return err
}

// versions are all of a family, or those in one state.
func (d Deps) versions(ctx context.Context, familyID string, state catalog.VersionState) ([]catalog.Version, error) {
	q := listing.All().Where("family_id", familyID)
	if state != "" {
		q = q.Where("state", string(state))
	}
	return listing.Read(ctx, q, d.Store.ListVersions, func(v catalog.Version) string { return v.ID })
}

func imageRow(g catalog.GlanceImage, projectID string, facts *catalog.Facts, now time.Time) catalog.Image {
	row := catalog.ImageOf(g, now)
	row.ProjectID, row.Facts, row.FactsVersion = projectID, facts, catalog.FactsVersion
	if facts != nil {
		row.State = catalog.Inspected
	}
	return row
}

func minDisk(f *catalog.Facts) int {
	if f == nil {
		return 0
	}
	return f.MinDiskGiB
}
