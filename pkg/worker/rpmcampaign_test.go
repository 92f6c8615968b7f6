package worker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/testkit/rpmrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
	"github.com/kiln-cloud/kiln/pkg/upgrade/repofiles"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
)

// rpmShop is a shop with the real planner and the real upgrader, for a repository of rpm packages.
func rpmShop(t *testing.T) (*shop, *rpmrepo.Repository) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs dnf in a sandbox as root; not in -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	s, repo := newShop(t), rpmrepo.New(t)
	dir := t.TempDir()
	text := "[fixes]\nbaseurl=" + strings.Replace(rpmrepo.Base, "/9", "/$releasever", 1) + "\ngpgkey=file://" + repo.Keys + "\n"
	err := os.WriteFile(filepath.Join(dir, "example-9.repo"), []byte(text), 0o600)
	set, readErr := repofiles.Read(dir)
	proxy, proxyErr := mirror.New(mirror.Config{Upstreams: set.Upstreams(), Dir: t.TempDir(), Transport: repo})
	if err := errors.Join(err, readErr, proxyErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	planner, err := solve.New(solve.Config{Dir: t.TempDir(), Proxy: proxy, Scripts: &scripts.Library{Mirror: proxy}, Fixes: solve.Advisories{Store: s.db}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := planner.Close(); err != nil {
			t.Error(err)
		}
	})
	s.deps.Planner, s.deps.PackageState, s.deps.Repositories = planner, inspect.PackageState, set.For
	s.deps.Upgrader = offline.New(offline.Config{Proxy: proxy, Timeout: 2 * time.Minute})
	s.deps.Inspect = readFacts
	return s, repo
}

func readFacts(ctx context.Context, path, format string) (*catalog.Facts, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return inspect.Read(ctx, f, info.Size(), format)
}

// uploadDisk uploads a raw disk, and keeps what it has.
func (s *shop) uploadDisk(name, path string) catalog.GlanceImage {
	s.t.Helper()
	ctx, now := s.t.Context(), time.Now()
	f, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	g, err := s.glance.CreateImage(ctx, catalog.NewGlanceImage{ID: uuid.NewString(), Name: name, DiskFormat: "raw", ContainerFormat: "bare"})
	if err == nil {
		err = s.glance.Upload(ctx, g.ID, f, info.Size())
	}
	facts, readErr := readFacts(ctx, path, "raw")
	if err := errors.Join(err, readErr); err != nil {
		s.t.Fatal(err)
	}
	if g, err = s.glance.Image(ctx, g.ID); err != nil {
		s.t.Fatal(err)
	}
	if err := s.db.PutImage(ctx, catalog.Image{ID: g.ID, ProjectID: g.Owner, Name: name, State: catalog.Inspected, Facts: facts, CreatedAt: now, UpdatedAt: now}); err != nil {
		s.t.Fatal(err)
	}
	return g
}

// TestCampaignOverRPMImages: they are planned, share nothing, get what the plan says, and one that has all fixes is not worked on.
func TestCampaignOverRPMImages(t *testing.T) {
	s, repo := rpmShop(t)
	for _, p := range []rpmrepo.Package{rpmrepo.Lib("2"), rpmrepo.Tool("2")} {
		repo.Add(p.Build(t))
	}
	repo.Advise(rpmrepo.Advisory{ID: "EX-1", Type: "security", Severity: "Critical", CVEs: []string{"CVE-2026-4242"}, Packages: []rpmrepo.Package{rpmrepo.Tool("2")}})
	repo.Publish()
	old := rpmrepo.Image(t, nil)
	fresh := rpmrepo.Image(t, func(tree string) { rpmrepo.Upgrade(t, tree, rpmrepo.Lib("2").Build(t), rpmrepo.Tool("2").Build(t)) })
	stranger := rpmrepo.Image(t, func(tree string) {
		if err := os.WriteFile(filepath.Join(tree, "etc/os-release"), []byte("ID=example\nVERSION_ID=7\nPRETTY_NAME=\"Example 7\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	images := map[string]catalog.GlanceImage{}
	var ids []string
	for name, path := range map[string]string{"web": old, "mail": old, "fresh": fresh, "stranger": stranger} {
		images[name] = s.uploadDisk(name, path)
		ids = append(ids, images[name].ID)
	}
	slices.Sort(ids)
	desk := s.builds.Desk
	rounds := &campaign.Rounds{
		Service: &campaign.Service{Desk: desk, Store: s.db, Upgrades: s.db}, Catalog: &catalog.Service{Desk: desk, Store: s.db},
		Upgrade: &upgrade.Service{Desk: desk, Store: s.db}, Chooser: &campaign.Chooser{Store: s.db, Catalog: s.db, Glance: s.glance}, Log: s.deps.Log,
		Planner: &upgrade.Planning{Desk: desk, Plans: s.db},
	}
	c, err := rounds.Create(t.Context(), s.by(), campaign.New{Name: "rpm", MaxParallel: 2, Filter: campaign.Filter{ImageIDs: ids}})
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		if err := rounds.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.drainWithin(2 * time.Minute)
	}
	if c, err = s.db.FindCampaign(t.Context(), c.ID); err != nil || c.State != campaign.Succeeded || c.Counts != (campaign.Counts{Total: 4, Succeeded: 2, Unchanged: 1, Skipped: 1}) {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, b := range c.Batches {
		if len(b.Share) > 0 {
			t.Errorf("rpm images share %+v", b)
		}
	}
	p, err := s.db.FindPlan(t.Context(), images["web"].ID)
	if err != nil || len(p.Changes) != 2 || p.Release != "example-9" || p.PackageKind != "rpm" || !slices.Equal(p.CVEs, []string{"CVE-2026-4242"}) || p.Changes[1].Urgency != "critical" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := s.db.FindPlan(t.Context(), images["stranger"].ID); err != nil || !strings.Contains(p.Refused, "rpm_repositories") {
		t.Errorf("%+v, %v", p, err)
	}
	r, err := rounds.Report(t.Context(), c)
	if err != nil || len(r.Fixed) != 2 || r.Packages[0].Images != 2 || !slices.Contains(r.CVEs, "CVE-2026-4242") {
		t.Errorf("%+v, %v", r, err)
	}
	if all, err := s.db.ListUpgrades(t.Context(), listing.All()); err != nil || len(all) != 2 {
		t.Errorf("upgrades %+v, %v", all, err)
	}
}
