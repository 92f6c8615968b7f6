package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

func testFamilies(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var wg sync.WaitGroup
	ids := make([]string, 6)
	for i := range ids {
		wg.Go(func() {
			f, err := db.EnsureFamily(ctx, "p1", "debian-12")
			if err != nil {
				t.Error(err)
			}
			ids[i] = f.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("families made at the same time: %v", ids)
		}
	}
	want := catalog.Family{ID: "f2", ProjectID: "p2", Name: "debian-12", Description: "web", Channels: map[string]string{}, CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateFamily(ctx, want))
	wantErr(t, db.CreateFamily(ctx, want), errs.Conflict, "kiln.family.exists")
	got, err := db.FamilyByID(ctx, "f2")
	must(t, err)
	equal(t, got, want)
	_, err = db.FindFamily(ctx, "p3", "debian-12")
	wantErr(t, err, errs.NotFound, "kiln.family.not_found")
	wantErr(t, db.SetChannel(ctx, "f2", catalog.Stable, "20260101.1"), errs.NotFound, "kiln.version.not_found")
	wantErr(t, db.SetChannel(ctx, "f9", catalog.Stable, "20260101.1"), errs.NotFound, "kiln.family.not_found")
	for _, v := range []string{"20260101.1", "20260102.1"} {
		must(t, db.AddVersion(ctx, catalog.Version{ID: "v" + v, FamilyID: "f2", Name: v}))
		for range 2 {
			must(t, db.SetChannel(ctx, "f2", catalog.Candidate, v))
		}
	}
	must(t, db.SetChannel(ctx, "f2", catalog.Stable, "20260101.1"))
	fs, err := db.ListFamilies(ctx, listing.Query{ProjectID: "p2"})
	if err != nil || len(fs) != 1 {
		t.Fatal(fs, err)
	}
	equal(t, fs[0].Channels, map[string]string{"candidate": "20260102.1", "stable": "20260101.1"})
	v, fallback, err := catalog.Resolve(ctx, db, "p2", "debian-12", "")
	if err != nil || v.Name != "20260101.1" || fallback != "" {
		t.Fatal(v, fallback, err)
	}
}

// Many owners name their versions at the same moment: every name is taken once, without a gap, and an owner that asks
// again gets its own.
func testVersionNames(t *testing.T, db *store.DB) {
	f, err := db.EnsureFamily(t.Context(), "p1", "web")
	must(t, err)
	must(t, db.AddVersion(t.Context(), catalog.Version{ID: "old", ProjectID: "p1", FamilyID: f.ID, Family: "web", Name: "20260101.3", CreatedAt: base}))
	names := make([]string, 12)
	var all sync.WaitGroup
	for i := range names {
		all.Go(func() {
			name, err := db.NameVersion(t.Context(), f.ID, fmt.Sprintf("origin-%d", i%6), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
			if err != nil {
				t.Error(err)
			}
			names[i] = name
		})
	}
	all.Wait()
	for i := range 6 {
		if names[i] != names[i+6] {
			t.Errorf("origin %d got %s and %s", i, names[i], names[i+6])
		}
	}
	slices.Sort(names)
	if got := slices.Compact(names); !slices.Equal(got, []string{"20260101.4", "20260101.5", "20260101.6", "20260101.7", "20260101.8", "20260101.9"}) {
		t.Errorf("names %v", got)
	}
	if name, err := db.NameVersion(t.Context(), f.ID, "back", time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)); err != nil || name != "20260101.10" {
		t.Errorf("after the clock went back: %s, %v", name, err)
	}
	_, err = db.NameVersion(t.Context(), "none", "o", base)
	wantErr(t, err, errs.NotFound, "kiln.family.not_found")
}

func testVersions(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v := catalog.Version{
		ID: "v1", ProjectID: "p1", FamilyID: "f1", Family: "web", Name: "20260329.1", ImageID: "i1", ParentVersion: "20260328.2",
		Origin: "build", OriginID: "b1", InputDigest: "sha256:00", State: catalog.Published, CreatedAt: base,
		Artifacts: []catalog.Artifact{{Format: "docker", ImageID: "i1d", Size: 5, Digest: "sha512:00"}}, Base: "debian-12/20260328.1", BaseImageID: "i0",
	}
	must(t, db.AddVersion(ctx, v))
	for range 2 {
		must(t, db.SetVersionNote(ctx, "v1", true, "the customer's contract"))
	}
	v.Pinned, v.Note = true, "the customer's contract"
	wantErr(t, db.SetVersionNote(ctx, "none", true, ""), errs.NotFound, "kiln.version.not_found")
	same := v
	same.ID = "v2"
	wantErr(t, db.AddVersion(ctx, same), errs.Conflict, "kiln.version.exists")
	got, err := db.VersionByImage(ctx, "i1")
	must(t, err)
	equal(t, got, v)
	got, err = db.FindVersion(ctx, "f1", v.Name)
	must(t, err)
	equal(t, got, v)
	must(t, db.SetVersionState(ctx, "v1", catalog.Published, catalog.Superseded))
	wantErr(t, db.SetVersionState(ctx, "v1", catalog.Published, catalog.Superseded), errs.Conflict, "kiln.version.state")
	wantErr(t, db.SetVersionState(ctx, "v9", catalog.Published, catalog.Superseded), errs.NotFound, "kiln.version.not_found")
	vs, err := db.ListVersions(ctx, listing.Query{Filter: map[string]string{"family_id": "f1", "state": "superseded", "input_digest": "sha256:00"}})
	if err != nil || len(vs) != 1 {
		t.Fatal(vs, err)
	}
}

func testImages(t *testing.T, db *store.DB) {
	ctx := t.Context()
	facts := &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12"}, VirtualSize: 2 << 30, Kernels: []string{"6.1.0-1"}, Initrds: []string{}, Packages: []catalog.Package{}}
	for i := range 5000 { // more than 64 KiB of JSON
		facts.Packages = append(facts.Packages, catalog.Package{Name: fmt.Sprintf("package-%d", i), Version: "1:2.3~deb12u1", Architecture: "amd64", Source: "source"})
	}
	want := catalog.Image{ID: "i1", ProjectID: "p1", Name: "web", State: catalog.Waiting, Size: 1 << 40, Tags: []string{}, CreatedAt: base, UpdatedAt: base}
	must(t, db.PutImage(ctx, want))
	got, err := db.FindImage(ctx, "i1")
	must(t, err)
	equal(t, got, want)
	want.State, want.Facts, want.UpdatedAt = catalog.Inspected, facts, at(9)
	for range 2 {
		must(t, db.PutImage(ctx, want))
	}
	is, err := db.ListImages(ctx, listing.Query{Filter: map[string]string{"state": "inspected"}})
	must(t, err)
	equal(t, is, []catalog.Image{want})
	_, err = db.FindImage(ctx, "i2")
	wantErr(t, err, errs.NotFound, "kiln.image.not_found")
}

func testSources(t *testing.T, db *store.DB) {
	ctx := t.Context()
	src := build.Source{ID: "s1", ProjectID: "p1", Name: "recipes", URL: "https://git.example.org/r.git", State: "new", CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateSource(ctx, src))
	same := src
	same.ID = "s2"
	wantErr(t, db.CreateSource(ctx, same), errs.Conflict, "kiln.source.exists")
	when := at(3)
	src.State, src.Commit, src.SyncedAt, src.UpdatedAt = "ready", "c0ffee", &when, when
	for range 2 { // the second changes nothing and is no error
		must(t, db.UpdateSource(ctx, src))
	}
	got, err := db.FindSource(ctx, "s1")
	must(t, err)
	equal(t, got, src)
	wantErr(t, db.UpdateSource(ctx, build.Source{ID: "s9"}), errs.NotFound, "kiln.source.not_found")

	spec := &recipe.Recipe{Name: "web", Family: "web", From: recipe.From{Release: "bookworm"}, Packages: []string{"nginx"}, Disk: recipe.Disk{Size: recipe.DefaultSize}, Path: "web.yaml"}
	rs := []build.Recipe{
		{ID: "r1", ProjectID: "p1", Name: "web", Path: "web.yaml", Commit: "c1", Spec: spec, Problems: []build.Problem{}, UpdatedAt: base},
		{ID: "r2", ProjectID: "p1", Name: "db", Path: "db.yaml", Commit: "c1", Problems: []build.Problem{{Code: "kiln.recipe.unknown_field", Where: errs.Where{File: "db.yaml", Line: 3}}}, UpdatedAt: base},
	}
	for range 2 {
		must(t, db.ReplaceRecipes(ctx, "s1", rs))
	}
	list, err := db.ListRecipes(ctx, listing.Query{ProjectID: "p1", Filter: map[string]string{"source_id": "s1"}})
	must(t, err)
	rs[0].SourceID, rs[1].SourceID = "s1", "s1"
	equal(t, list, []build.Recipe{rs[1], rs[0]})
	// The same path keeps its id, a path that is gone goes, a new one comes.
	must(t, db.ReplaceRecipes(ctx, "s1", []build.Recipe{
		{ID: "new", ProjectID: "p1", Name: "web2", Path: "web.yaml", Commit: "c2", UpdatedAt: at(1)},
		{ID: "r3", ProjectID: "p1", Name: "mail", Path: "mail.yaml", Commit: "c2", UpdatedAt: at(1)},
	}))
	r, err := db.FindRecipe(ctx, "r1")
	if err != nil || r.Name != "web2" || r.Commit != "c2" {
		t.Fatal(r, err)
	}
	_, err = db.FindRecipe(ctx, "r2")
	wantErr(t, err, errs.NotFound, "kiln.recipe.not_found")
	must(t, db.DeleteSource(ctx, "s1"))
	wantErr(t, db.DeleteSource(ctx, "s1"), errs.NotFound, "kiln.source.not_found")
	wantErr(t, db.ReplaceRecipes(ctx, "s1", rs), errs.NotFound, "kiln.source.not_found")
	if list, err := db.ListRecipes(ctx, listing.All()); err != nil || len(list) != 0 {
		t.Fatalf("recipes of a deleted source: %v %v", list, err)
	}
}

func testBuildsAndUpgrades(t *testing.T, db *store.DB) {
	ctx := t.Context()
	b := build.Build{ID: "b1", ProjectID: "p1", SourceID: "s1", RecipeID: "r1", Recipe: "web", Family: "web", State: build.Queued, Force: true, Needs: []string{"gpu"}, Trigger: build.ByPush, Reason: "push of 1a2b3c", UserID: "u1", JobID: "j1", Steps: []build.Step{}, Materials: []build.Material{{URI: "pkg:deb/debian/nginx@1", Digest: "sha256:00"}}, CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateBuild(ctx, b))
	wantErr(t, db.CreateBuild(ctx, b), errs.Conflict, "kiln.build.exists")
	b.State, b.Steps, b.VersionName, b.UpdatedAt = build.Succeeded, []build.Step{{Name: "bootstrap", Seconds: 1.25}}, "20260329.1", at(2)
	later := b
	later.CreatedAt = at(500) // not written
	must(t, db.UpdateBuild(ctx, later))
	got, err := db.FindBuild(ctx, "b1")
	must(t, err)
	equal(t, got, b)
	bs, err := db.ListBuilds(ctx, listing.Query{Filter: map[string]string{"force": "true", "version": "20260329.1"}})
	if err != nil || len(bs) != 1 {
		t.Fatal(bs, err)
	}
	wantErr(t, db.UpdateBuild(ctx, build.Build{ID: "b9"}), errs.NotFound, "kiln.build.not_found")

	u := upgrade.Upgrade{ID: "u1", ProjectID: "p1", Family: "web", FromVersion: "20260329.1", FromImageID: "i1", State: upgrade.Running, CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateUpgrade(ctx, u))
	u.State, u.Report = upgrade.Succeeded, &upgrade.Report{Packages: []upgrade.PackageChange{{Name: "openssl", From: "1", To: "2", CVEs: []string{"CVE-2026-1"}}}, Downloaded: 7}
	must(t, db.UpdateUpgrade(ctx, u))
	gotU, err := db.FindUpgrade(ctx, "u1")
	must(t, err)
	equal(t, gotU, u)
	if us, err := db.ListUpgrades(ctx, listing.Query{ProjectID: "p2"}); err != nil || len(us) != 0 {
		t.Fatalf("another project's upgrades: %v %v", us, err)
	}
}

func testAdvisories(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var as []advisory.Advisory
	for i := range 230 {
		id := fmt.Sprintf("bookworm-security/pkg%d/1.%d/amd64", i, i)
		as = append(as, advisory.Advisory{ID: id, Package: fmt.Sprintf("pkg%d", i), Suite: "bookworm-security", Security: true, CVEs: []string{}, CreatedAt: base, UpdatedAt: base})
	}
	for range 2 {
		must(t, db.PutAdvisories(ctx, as))
	}
	must(t, db.PutAdvisories(ctx, nil))
	known := as[7]
	known.CVEs, known.Urgency = []string{"CVE-2026-7"}, "high"
	must(t, db.PutAdvisories(ctx, []advisory.Advisory{known}))
	again := as[7]
	again.CVEs, again.UpdatedAt = nil, at(5)
	must(t, db.PutAdvisories(ctx, []advisory.Advisory{again}))
	got, err := db.FindAdvisory(ctx, known.ID)
	must(t, err)
	known.UpdatedAt = at(5)
	equal(t, got, known)
	ids := []string{known.ID, "none"}
	for _, a := range as {
		ids = append(ids, a.ID)
	}
	those, err := db.KnownAdvisories(ctx, ids)
	if err != nil || len(those) != 230 {
		t.Fatal(len(those), err)
	}
	equal(t, those[known.ID], known)
	list, err := db.ListAdvisories(ctx, listing.Query{Limit: 1000, Filter: map[string]string{"security": "true"}})
	if err != nil || len(list) != 230 {
		t.Fatal(len(list), err)
	}
	ps := []advisory.Pending{
		{ImageID: "i1", AdvisoryID: as[1].ID, Package: "pkg1", Installed: "1", Fixed: "2", Suite: "s", Security: true, Urgency: "high", CVEs: []string{}},
		{ImageID: "i1", AdvisoryID: as[2].ID, Package: "pkg2", Installed: "1", Fixed: "2", Suite: "s", CVEs: []string{}},
	}
	for range 2 {
		must(t, db.ReplacePending(ctx, "i1", append(ps, ps[0])))
	}
	must(t, db.ReplacePending(ctx, "i2", ps[:1]))
	gotP, err := db.ListPending(ctx, "i1")
	must(t, err)
	equal(t, gotP, ps)
	must(t, db.ReplacePending(ctx, "i1", nil))
	if gotP, err = db.ListPending(ctx, "i1"); err != nil || len(gotP) != 0 {
		t.Fatal(gotP, err)
	}
	if gotP, err = db.ListPending(ctx, "i2"); err != nil || len(gotP) != 1 {
		t.Fatal(gotP, err)
	}
}

// testBadText: an error text quotes the output of a command, which is any bytes.
func testBadText(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.CreateBuild(ctx, build.Build{ID: "b1", Error: "before \xff\xfe after", CreatedAt: base, UpdatedAt: base}))
	got, err := db.FindBuild(ctx, "b1")
	if err != nil || !strings.HasPrefix(got.Error, "before ") || !strings.HasSuffix(got.Error, " after") {
		t.Fatalf("%q %v", got.Error, err)
	}
}
