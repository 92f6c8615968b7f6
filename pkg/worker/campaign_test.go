package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// upload puts an image into Glance as its owner would, and tells Kiln what its disk holds and lacks.
func (s *shop) upload(n catalog.NewGlanceImage, protected bool) catalog.GlanceImage {
	s.t.Helper()
	ctx, now := s.t.Context(), time.Now()
	n.ID, n.DiskFormat, n.ContainerFormat = uuid.NewString(), "raw", "bare"
	g, err := s.glance.CreateImage(ctx, n)
	if err != nil {
		s.t.Fatal(err)
	}
	data := []byte(strings.Repeat(n.Name+" ", 100))
	if err := s.glance.Upload(ctx, g.ID, bytes.NewReader(data), int64(len(data))); err != nil {
		s.t.Fatal(err)
	}
	if g, err = s.glance.PatchImage(ctx, g.ID, catalog.GlancePatch{Protected: &protected}); err != nil {
		s.t.Fatal(err)
	}
	facts, err := s.deps.Inspect(ctx, "", "")
	if err == nil {
		err = s.db.PutImage(ctx, catalog.Image{ID: g.ID, ProjectID: g.Owner, Name: g.Name, State: catalog.Inspected, Facts: facts, CreatedAt: now, UpdatedAt: now})
	}
	if err == nil {
		err = s.db.PutAdvisories(ctx, []advisory.Advisory{{ID: "a1", Package: "openssl", Version: "3.0.2", CVEs: []string{}, Security: true, CreatedAt: now, UpdatedAt: now}})
	}
	if err == nil {
		err = s.db.ReplacePending(ctx, g.ID, []advisory.Pending{{ImageID: g.ID, AdvisoryID: "a1", Package: "openssl", Installed: "3.0.1", Fixed: "3.0.2", Security: true, Urgency: "high"}})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// Eight uploaded images of two projects, one of them public and protected, one that cannot be upgraded: one campaign of an
// administrator adopts them, upgrades them by a worker that runs two at a time, and touches no original.
func TestCampaignFromUploadToReport(t *testing.T) {
	s := newShop(t)
	s.parallel = 2
	s.deps.Upgrader = picky{}
	other := "0123456789abcdef0123456789abcdef"
	var originals []catalog.GlanceImage
	for n := range 8 {
		image := catalog.NewGlanceImage{Name: fmt.Sprintf("Team Image %d", n), Owner: s.project, Visibility: "private", Properties: map[string]string{"hw_disk_bus": "scsi"}}
		switch n {
		case 5:
			image.Owner, image.Visibility = other, "public"
		case 6:
			image.Name = "broken"
		case 7:
			image.Name = "Team Image 0" // the same name: another family
		}
		originals = append(originals, s.upload(image, n == 5))
	}
	desk := s.builds.Desk
	engine := func() *campaign.Rounds {
		return &campaign.Rounds{
			Service: &campaign.Service{Desk: desk, Store: s.db, Upgrades: s.db}, Catalog: &catalog.Service{Desk: desk, Store: s.db},
			Upgrade: &upgrade.Service{Desk: desk, Store: s.db}, Chooser: &campaign.Chooser{Store: s.db, Catalog: s.db, Glance: s.glance}, Log: s.deps.Log,
		}
	}
	c, err := engine().Create(t.Context(), s.by(), campaign.New{Name: "all", MaxParallel: 3, Filter: campaign.Filter{AllProjects: true}})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := engine().Round(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		s.drain()
	}
	if c, err = s.db.FindCampaign(t.Context(), c.ID); err != nil || c.State != campaign.Succeeded || c.Counts != (campaign.Counts{Total: 8, Succeeded: 7, Failed: 1}) {
		t.Fatalf("%+v, %v", c, err)
	}
	families := map[catalog.FamilyName]bool{}
	for n, g := range originals {
		after, err := s.glance.Image(t.Context(), g.ID)
		if err != nil || after.HashValue != g.HashValue || after.Visibility != g.Visibility || after.Protected != g.Protected || after.Hidden != (n != 6) {
			t.Errorf("the original %d is %+v, %v", n, after, err)
		}
		v, err := s.db.VersionByImage(t.Context(), g.ID)
		if err != nil {
			t.Fatal(err)
		}
		families[v.Family] = true
		all, err := s.db.ListVersions(t.Context(), listing.All().Where("family_id", v.FamilyID).Where("origin", "upgrade"))
		if n == 6 {
			if err != nil || len(all) != 0 {
				t.Errorf("what failed was published: %+v, %v", all, err)
			}
			continue
		}
		if err != nil || len(all) != 1 {
			t.Fatalf("%d new versions of image %d, %v", len(all), n, err)
		}
		made, err := s.glance.Image(t.Context(), all[0].ImageID)
		if err != nil || made.Owner != g.Owner || made.Visibility != g.Visibility || made.Protected != g.Protected || made.Hidden || made.Properties[catalog.PropParent] != g.ID ||
			made.Properties["hw_disk_bus"] != "scsi" || all[0].ParentVersion != v.Name || made.HashValue == g.HashValue {
			t.Errorf("the new version of image %d is %+v, %v", n, made, err)
		}
		f, err := s.db.FamilyByID(t.Context(), v.FamilyID)
		if err != nil || f.Channels[catalog.Candidate] != all[0].Name || f.ProjectID != g.Owner {
			t.Errorf("family %+v, %v", f, err)
		}
	}
	if len(families) != 8 || !families["team-image-0"] || !families["team-image-0-2"] {
		t.Errorf("families %v", families)
	}
	r, err := engine().Report(t.Context(), c)
	if err != nil || len(r.Fixed) != 7 || len(r.Remaining) != 1 || !strings.Contains(r.Remaining[0].Reason, "this one is broken") || r.Packages[0].Images != 7 || len(r.CVEs) != 1 {
		t.Errorf("report %+v, %v", r, err)
	}
}

// picky refuses images whose bytes say that they are broken.
type picky struct{ fakeUpgrader }

func (p picky) Upgrade(ctx context.Context, req upgrade.Request) (upgrade.Report, error) {
	r, err := p.fakeUpgrader.Upgrade(ctx, req)
	if err != nil {
		return r, err
	}
	if data, rerr := os.ReadFile(req.Original); rerr == nil && strings.Contains(string(data), "broken") {
		return r, errs.New(errs.Invalid, "kiln.test.broken", "this one is broken")
	}
	return r, nil
}
