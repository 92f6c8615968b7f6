package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// upgradeHandler makes a new version of an image offline. The image itself is only read.
type upgradeHandler struct {
	Deps
	publisher *publisher
	images    *imageCache
}

func (h *upgradeHandler) Kind() job.Kind { return job.Upgrade }

func (h *upgradeHandler) Run(ctx context.Context, r *job.Run) (res job.Result, err error) {
	u, err := h.Store.FindUpgrade(ctx, r.Job.ResourceID())
	if err != nil {
		return res, err
	}
	from, err := h.Store.VersionByImage(ctx, u.FromImageID)
	if err != nil {
		return res, err
	}
	family, err := h.Store.FamilyByID(ctx, from.FamilyID)
	if err != nil {
		return res, err
	}
	original, err := h.Glance.Image(ctx, u.FromImageID)
	if err != nil {
		return res, err
	}
	u.State, u.UpdatedAt, u.Error = upgrade.Running, h.Now(), ""
	if err := h.Store.UpdateUpgrade(ctx, u); err != nil {
		return res, err
	}
	pub := publication{
		family: family, parent: &from, origin: "upgrade", originID: u.ID, format: original.DiskFormat,
		publish: recipe.Publish{Visibility: original.Visibility, Protected: original.Protected}, properties: inherited(original),
	}
	if original.Visibility == "shared" { // who was offered the old version is offered the new one
		if pub.publish.Members, err = h.Glance.Members(ctx, original.ID); err != nil {
			return res, err
		}
	}
	err = h.work(func(dir string) error {
		g, err := h.construct(ctx, r, &u, original, &pub, dir)
		if err != nil {
			return err
		}
		if g == nil {
			r.Logf("nothing is pending for version %s", from.Name)
			res = h.done(r, u, upgrade.Unchanged, from, nil)
			return nil
		}
		if err := h.prove(ctx, r, u, from, original, *g, &pub, dir); err != nil {
			return h.publisher.discard(ctx, *g, err)
		}
		v, record, err := h.publisher.finish(ctx, r, *g, pub)
		if err != nil {
			return err
		}
		r.Logf("published version %s of %s as image %s", v.Name, v.Family, g.ID)
		res = h.done(r, u, upgrade.Succeeded, v, record)
		return nil
	})
	return res, err
}

// prove boots the new version where its policy says so, makes what its parent had beside it, and writes its documents.
func (h *upgradeHandler) prove(ctx context.Context, r *job.Run, u upgrade.Upgrade, from catalog.Version, original, g catalog.GlanceImage, pub *publication, dir string) error {
	if u.Policy.TestBoot {
		if h.Booter == nil {
			return errs.New(errs.Invalid, "kiln.upgrade.test_boot", "the policy asks for a test boot, and test boots are off on worker %s: set [build] test_boot", h.Name)
		}
		if err := h.publisher.boot(ctx, r, build.BootTest{Key: u.ID, Firmware: pub.facts.Firmware}, g, pub); err != nil {
			return err
		}
	}
	formats := make([]string, len(from.Artifacts))
	for i, a := range from.Artifacts {
		formats[i] = a.Format
	}
	if err := h.publisher.makeArtifacts(ctx, r, formats, &recipe.Recipe{Name: string(from.Family), Family: from.Family}, g, pub, dir); err != nil {
		return err
	}
	return h.publisher.document(ctx, r, upgradeInput(u, from, original), g, pub)
}

// construct returns the uploaded image, or nil where nothing was pending.
func (h *upgradeHandler) construct(ctx context.Context, r *job.Run, u *upgrade.Upgrade, original catalog.GlanceImage, pub *publication, dir string) (*catalog.GlanceImage, error) {
	if g, err := h.publisher.leftover(ctx, u.ID); err != nil || g != nil {
		return g, h.adopt(ctx, r, *u, original, g, pub, err)
	}
	var payload upgrade.JobPayload
	if err := r.Job.Decode(&payload); err != nil {
		return nil, err
	}
	path, err := h.images.get(ctx, r, original)
	if err != nil {
		return nil, err
	}
	before, err := h.Inspect(ctx, path, original.DiskFormat)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "upgraded."+original.DiskFormat)
	suites, repositories := h.sources(before)
	made, err := h.Upgrader.Upgrade(ctx, upgrade.Request{
		Original: path, OriginalFormat: original.DiskFormat, Suites: suites, Repositories: repositories,
		WorkDir: dir, Output: out, OutputFormat: original.DiskFormat, Policy: u.Policy, Shares: payload.Shares, Log: r, Progress: r.Progress,
	})
	if err != nil {
		return nil, disk.NoSpace(err, "the worker's disk")
	}
	u.Report = &made
	if made.Unchanged {
		return nil, nil
	}
	// Kept before the upload: an attempt that finds the image whole has the report too.
	if err := h.Store.UpdateUpgrade(ctx, *u); err != nil {
		return nil, err
	}
	if pub.facts, err = h.Inspect(ctx, out, original.DiskFormat); err != nil {
		return nil, err
	}
	pub.input, pub.path = inputDigest(original, made), out
	uploaded, err := h.publisher.upload(ctx, r, out, *pub)
	return &uploaded, err
}

// sources are where the fixes of an image come from, by the kind of its packages.
func (d Deps) sources(f *catalog.Facts) ([]upgrade.Suite, []upgrade.Repository) {
	if advisory.KindOfFacts(f) != advisory.RPM {
		return d.Suites.For(f.OS.Codename), nil
	}
	if d.Repositories == nil {
		return nil, nil
	}
	return nil, d.Repositories(f)
}

// adopt uses the image that an earlier attempt uploaded whole.
func (h *upgradeHandler) adopt(ctx context.Context, r *job.Run, u upgrade.Upgrade, original catalog.GlanceImage, g *catalog.GlanceImage, pub *publication, err error) error {
	if err != nil {
		return err
	}
	if u.Report == nil {
		return errs.New(errs.Internal, "kiln.upgrade.report", "image %s is of this upgrade, but the upgrade has no report", g.ID)
	}
	r.Logf("image %s was whole when an earlier attempt ended; it is used", g.ID)
	path, err := h.images.get(ctx, r, *g)
	if err != nil {
		return err
	}
	pub.input, pub.path = inputDigest(original, *u.Report), path
	pub.facts, err = h.Inspect(ctx, path, g.DiskFormat)
	return err
}

// inherited are the properties that the new version takes over: all but Kiln's own and Glance's.
func inherited(g catalog.GlanceImage) map[string]string {
	out := map[string]string{}
	for k, v := range g.Properties {
		if !strings.HasPrefix(k, "kiln_") && !strings.HasPrefix(k, "os_hash_") && k != "os_glance_importing_to_stores" && k != "os_glance_failed_import" {
			out[k] = v
		}
	}
	return out
}

// inputDigest names what the new version was made of: the original's bytes and the packages that were changed.
func inputDigest(original catalog.GlanceImage, report upgrade.Report) string {
	h := sha256.New()
	h.Write(fmt.Appendf(nil, "kiln upgrade 1\n%s\n", original.HashValue))
	for _, p := range report.Packages {
		h.Write(fmt.Appendf(nil, "%s %s %s\n", p.Name, p.From, p.To))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (h *upgradeHandler) done(r *job.Run, u upgrade.Upgrade, s upgrade.State, v catalog.Version, record func(context.Context) error) job.Result {
	u.State, u.UpdatedAt = s, h.Now()
	if s == upgrade.Succeeded {
		u.ToVersion, u.ToImageID = v.Name, v.ImageID
	}
	return job.Result{
		Value: map[string]string{"family": string(v.Family), "version": v.Name, "image_id": v.ImageID, "state": string(s)},
		Apply: func(ctx context.Context) error {
			if record != nil {
				if err := record(ctx); err != nil {
					return err
				}
			}
			if err := h.advise(ctx, u); err != nil {
				return err
			}
			if err := h.Store.UpdateUpgrade(ctx, u); err != nil {
				return err
			}
			return h.Store.Record(ctx, event.Event{Type: "upgrade." + string(s), Resource: "upgrades/" + u.ID, ProjectID: u.ProjectID, RequestID: r.Job.RequestID})
		},
		After: func(ctx context.Context) error { return h.publisher.hideSuperseded(ctx, v.FamilyID) },
	}
}

// advise writes what the changelogs said into the advisories that the upgrade closed.
func (h *upgradeHandler) advise(ctx context.Context, u upgrade.Upgrade) error {
	if u.Report == nil {
		return nil
	}
	pending, err := h.Store.ListPending(ctx, u.FromImageID)
	if err != nil {
		return err
	}
	closed := map[string]upgrade.PackageChange{}
	for _, p := range u.Report.Packages {
		closed[p.Name] = p
	}
	var out []advisory.Advisory
	for _, p := range pending {
		change, ok := closed[p.Package]
		if !ok || change.To != p.Fixed || len(change.CVEs) == 0 {
			continue
		}
		a, err := h.Store.FindAdvisory(ctx, p.AdvisoryID)
		if err != nil {
			return err
		}
		a.CVEs, a.UpdatedAt = change.CVEs, h.Now()
		out = append(out, a)
	}
	return h.Store.PutAdvisories(ctx, out)
}

// Failed keeps the reason on the upgrade.
func (h *upgradeHandler) Failed(ctx context.Context, j job.Job, s job.State, f *job.Failure) error {
	u, err := h.Store.FindUpgrade(ctx, j.ResourceID())
	if err != nil {
		return err
	}
	u.State, u.Error, u.UpdatedAt = upgrade.Failed, f.Detail, h.Now()
	if s == job.Cancelled {
		u.State = upgrade.Cancelled
	}
	if err := h.Store.UpdateUpgrade(ctx, u); err != nil {
		return err
	}
	return h.Store.Record(ctx, event.Event{Type: "upgrade." + string(u.State), Resource: "upgrades/" + u.ID, ProjectID: u.ProjectID, RequestID: j.RequestID})
}
