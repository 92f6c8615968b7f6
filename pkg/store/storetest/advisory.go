package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// put inspects an image with these packages.
func put(t *testing.T, db *store.DB, id, project string, packages ...catalog.Package) catalog.Image {
	t.Helper()
	i := catalog.Image{ID: id, ProjectID: project, Name: "name-of-" + id, State: catalog.Inspected, CreatedAt: base, UpdatedAt: base, Tags: []string{},
		Facts: &catalog.Facts{OS: catalog.OSRelease{ID: "debian", Codename: "bookworm", VersionID: "12"}, Architecture: "amd64", Packages: packages}}
	must(t, db.PutImage(t.Context(), i))
	return i
}

func pkg(name, version, source string) catalog.Package {
	return catalog.Package{Name: name, Version: version, Architecture: "amd64", Source: source}
}

func ids(hs []advisory.Holding) []string {
	out := []string{}
	for _, h := range hs {
		out = append(out, h.ID)
	}
	return out
}

func testWhoHas(t *testing.T, db *store.DB) {
	ctx := t.Context()
	a := put(t, db, "a", "p1", pkg("openssl", "3.0.9-1", "openssl"), pkg("libssl3", "3.0.9-1", "openssl"), pkg("bad/name", "1", "x"), pkg("openssl", "3.0.9-1", "again"))
	put(t, db, "b", "p1", pkg("openssl", "3.0.17-1~deb12u2", "openssl"), catalog.Package{Name: "linux-image-amd64", Version: "6.1.1-1", Source: "linux-signed-amd64", SourceVersion: "6.1.1+1", Architecture: "amd64"})
	put(t, db, "c", "p2", pkg("openssl", "3.0.17-1", "openssl"))
	put(t, db, "odd", "p2", pkg("openssl", "not a version", "openssl"))
	who := func(q advisory.Question) []string {
		t.Helper()
		hs, err := db.Holdings(ctx, q)
		must(t, err)
		return ids(hs)
	}
	const inA, inB, inC = "a/openssl/amd64/3.0.9-1", "b/openssl/amd64/3.0.17-1~deb12u2", "c/openssl/amd64/3.0.17-1"
	for text, want := range map[string][]string{
		"": {inA, inB, inC}, "lt:3.0.17-1": {inA, inB}, "lte:3.0.17-1": {inA, inB, inC}, "eq:3.0.17-1": {inC}, "gte:3.0.17-1": {inC}, "gt:3.0.10": {inB, inC}, "gt:1:0": {},
	} {
		q := advisory.Question{Name: "openssl", Limit: 10}
		if text != "" {
			var err error
			q.Op, q.Version, err = advisory.ParseVersion(text)
			must(t, err)
		}
		equal(t, who(q), want)
	}
	equal(t, who(advisory.Question{Name: "openssl", ProjectID: "p2", Limit: 10}), []string{inC})
	equal(t, who(advisory.Question{Source: "openssl", ProjectID: "p1", Limit: 10}), []string{"a/libssl3/amd64/3.0.9-1", inA, inB})
	equal(t, who(advisory.Question{Source: "linux-signed-amd64", Op: advisory.GT, Version: "6.1.1-1", Limit: 10}), []string{"b/linux-image-amd64/amd64/6.1.1-1"})
	equal(t, who(advisory.Question{Name: "openssl", Limit: 1}), []string{inA})
	equal(t, who(advisory.Question{Name: "openssl", Limit: 1, Marker: inA}), []string{inB})
	equal(t, who(advisory.Question{Name: "openssl", Limit: 9, Marker: inC}), []string{})
	for _, q := range []advisory.Question{{}, {Name: "a", Source: "b"}, {CVE: "CVE-1"}, {Advisory: "x", Op: advisory.LT, Version: "1"}} {
		if _, err := db.Holdings(ctx, q); !errs.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	_, err := db.Holdings(ctx, advisory.Question{Name: "openssl", Marker: "x"})
	wantErr(t, err, errs.Invalid, "kiln.query.marker")
	_, err = db.Holdings(ctx, advisory.Question{Name: "openssl", Op: advisory.LT, Version: "x y"})
	wantErr(t, err, errs.Invalid, "kiln.advisory.version_malformed")

	a.Facts.Packages = []catalog.Package{pkg("openssl", "3.0.18-1", "openssl")}
	must(t, db.PutImage(ctx, a))
	equal(t, who(advisory.Question{Name: "libssl3"}), []string{})
	equal(t, who(advisory.Question{Name: "openssl", Op: advisory.GT, Version: "3.0.17-1"}), []string{"a/openssl/amd64/3.0.18-1"})
	names, err := db.ListNames(ctx)
	must(t, err)
	equal(t, names, map[string]bool{"openssl": true, "linux-image-amd64": true, "linux-signed-amd64": true})
	a.State = catalog.Gone
	must(t, db.PutImageHead(ctx, a))
	equal(t, who(advisory.Question{Name: "openssl", Op: advisory.GT, Version: "3.0.17-1"}), []string{})
}

func testGaps(t *testing.T, db *store.DB) {
	ctx := t.Context()
	_, err := db.FindChangelog(ctx, "openssl", "1")
	wantErr(t, err, errs.NotFound, "kiln.changelog.not_found")
	c := advisory.Changelog{Source: "openssl", Version: "1", Changes: []advisory.Change{}, Problem: "away", ReadAt: base}
	must(t, db.PutChangelog(ctx, c))
	c.Changes, c.Problem, c.ReadAt = []advisory.Change{{Source: "openssl", Version: "1", Urgency: "high", CVEs: []string{"CVE-2026-1000"}}}, "", at(5)
	must(t, db.PutChangelog(ctx, c))
	got, err := db.FindChangelog(ctx, "openssl", "1")
	must(t, err)
	equal(t, got, c)

	gap := advisory.Gap{ID: "g1", Source: "openssl", From: "1", To: "2", Urgency: "high", CVEs: []advisory.CVE{{ID: "CVE-2026-1000", Urgency: "low"}, {ID: "CVE-2026-1001"}}}
	for range 2 {
		must(t, db.PutGaps(ctx, []advisory.Gap{gap, {ID: "g2"}}))
	}
	put(t, db, "i1", "p1")
	must(t, db.ReplacePending(ctx, "i1", []advisory.Pending{{AdvisoryID: "a1", Package: "openssl", Gap: "g1"}, {AdvisoryID: "a2", Package: "zlib", Gap: "none"}}))
	must(t, db.DropGaps(ctx))
	ps, err := db.ListPending(ctx, "i1")
	must(t, err)
	equal(t, ps, []advisory.Pending{
		{ImageID: "i1", AdvisoryID: "a1", Package: "openssl", Gap: "g1", CVEs: []string{"CVE-2026-1000", "CVE-2026-1001"}},
		{ImageID: "i1", AdvisoryID: "a2", Package: "zlib", Gap: "none", CVEs: []string{}},
	})
	must(t, db.ReplacePending(ctx, "i1", nil))
	must(t, db.DropGaps(ctx))
	must(t, db.ReplacePending(ctx, "i1", []advisory.Pending{{AdvisoryID: "a1", Package: "openssl", Gap: "g1"}}))
	_, err = db.KnownCVE(ctx, "", "CVE-2026-1000")
	wantErr(t, err, errs.NotFound, "kiln.cve.not_found")
}

func testFindings(t *testing.T, db *store.DB) {
	ctx := t.Context()
	put(t, db, "i1", "p1", pkg("openssl", "1", "openssl"))
	put(t, db, "i2", "p1")
	must(t, db.PutImage(ctx, catalog.Image{ID: "waiting", State: catalog.Waiting}))
	systems, err := db.ListSystems(ctx)
	must(t, err)
	if len(systems) != 2 || systems[0].ImageID != "i1" || systems[0].Kind != advisory.Deb || systems[0].Release != "bookworm" || systems[0].Sum == systems[1].Sum || systems[0].Compared != "" {
		t.Fatalf("%+v", systems)
	}
	installed, err := db.ListInstalled(ctx, "i1")
	must(t, err)
	equal(t, installed, []advisory.Installed{{Name: "openssl", Architecture: "amd64", Version: "1", Source: "openssl", SourceVersion: "1"}})

	must(t, db.PutAdvisories(ctx, []advisory.Advisory{{ID: "old", CreatedAt: base}, {ID: "new", CreatedAt: at(50)}}))
	must(t, db.SetRunning(ctx, map[string]int{"i1": 2, "nobody": 9}, map[string]int{"name-of-i1": 1}))
	ps := []advisory.Pending{
		{AdvisoryID: "new", Package: "openssl", Source: "openssl", Urgency: advisory.High}, {AdvisoryID: "old", Package: "libssl3", Source: "openssl", Urgency: advisory.Low},
		{AdvisoryID: "third", Package: "linux", Source: "linux", Urgency: advisory.Critical}, {AdvisoryID: "fourth", Package: "s", Source: "s", Security: true}, {AdvisoryID: "fifth", Package: "u", Source: "u"},
	}
	f := advisory.Finding{ImageID: "i1", Pending: ps, Lacks: advisory.Count(ps), Stamp: "s1", At: at(60)}
	for range 2 {
		must(t, db.PutFindings(ctx, []advisory.Finding{f, {ImageID: "i2", At: at(60)}}))
	}
	i, err := db.FindImage(ctx, "i1")
	must(t, err)
	since := base
	equal(t, i.Lacks, catalog.Urgencies{Critical: 1, High: 1, Medium: 1, Low: 1})
	equal(t, []any{i.PendingUpdates, *i.PendingSince, i.Running, i.Weight, i.Rank}, []any{5, since, 3, 126, 126 * 4})
	must(t, db.SetRunning(ctx, nil, nil))
	must(t, db.PutImage(ctx, catalog.Image{ID: "i1", ProjectID: "p1", Name: "renamed", State: catalog.Inspected, Facts: i.Facts, UpdatedAt: at(70)}))
	i, err = db.FindImage(ctx, "i1")
	must(t, err)
	equal(t, []any{i.Name, i.PendingUpdates, i.Running, i.Rank, i.Lacks.High}, []any{"renamed", 5, 0, 126, 1})
	sorted, err := db.ListImages(ctx, listing.Query{Limit: 10, Sort: []listing.Key{{Field: "rank", Desc: true}}})
	must(t, err)
	if len(sorted) != 3 || sorted[0].ID != "i1" || sorted[1].PendingSince != nil {
		t.Errorf("%+v", sorted)
	}
	if systems, err = db.ListSystems(ctx); err != nil || systems[0].Compared != "s1" {
		t.Errorf("%+v, %v", systems, err)
	}
}

func testWhoLacks(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.PutGaps(ctx, []advisory.Gap{
		{ID: "g1", CVEs: []advisory.CVE{{ID: "CVE-2026-1000", Urgency: "high"}, {ID: "CVE-2026-1001"}}}, {ID: "g2", CVEs: []advisory.CVE{{ID: "CVE-2026-1001", Urgency: "low"}}},
	}))
	for n, project := range []string{"p1", "p1", "p2"} {
		id := fmt.Sprintf("i%d", n)
		put(t, db, id, project, pkg("openssl", "1", "openssl"))
		must(t, db.ReplacePending(ctx, id, []advisory.Pending{
			{AdvisoryID: "a1", Package: "openssl", Architecture: "amd64", Source: "openssl", Installed: "1", Fixed: "2", Suite: "s", Urgency: "high", Gap: []string{"g1", "g1", "g2"}[n]},
			{AdvisoryID: "a2", Package: "libssl3", Architecture: "amd64", Source: "openssl", Installed: "1", Fixed: "2", Suite: "s", Gap: []string{"g1", "none", "none"}[n]},
		}))
	}
	must(t, db.SetRunning(ctx, map[string]int{"i0": 3, "i1": 4, "i2": 50}, nil))
	who := func(q advisory.Question) []string {
		t.Helper()
		q.Limit = 10
		hs, err := db.Holdings(ctx, q)
		must(t, err)
		return ids(hs)
	}
	equal(t, who(advisory.Question{CVE: "CVE-2026-1000"}), []string{"i0/libssl3/amd64/1", "i0/openssl/amd64/1", "i1/openssl/amd64/1"})
	equal(t, who(advisory.Question{CVE: "CVE-2026-1000", Marker: "i0/libssl3/amd64/1"}), []string{"i0/openssl/amd64/1", "i1/openssl/amd64/1"})
	equal(t, who(advisory.Question{CVE: "CVE-2026-1001", ProjectID: "p2"}), []string{"i2/openssl/amd64/1"})
	equal(t, who(advisory.Question{CVE: "CVE-2026-9999"}), []string{})
	equal(t, who(advisory.Question{Advisory: "a1", ProjectID: "p1"}), []string{"i0/openssl/amd64/1", "i1/openssl/amd64/1"})
	hs, err := db.Holdings(ctx, advisory.Question{Advisory: "a1", ProjectID: "p2", Limit: 10})
	must(t, err)
	equal(t, hs, []advisory.Holding{{ID: "i2/openssl/amd64/1", ImageID: "i2", Image: "name-of-i2", ProjectID: "p2", Running: 50, Package: "openssl", Architecture: "amd64", Version: "1",
		Source: "openssl", Kind: "deb", Fixed: "2", Suite: "s", Urgency: "high", Advisory: "a1"}})
	k, err := db.KnownCVE(ctx, "", "CVE-2026-1001")
	must(t, err)
	equal(t, k, advisory.Known{ID: "CVE-2026-1001", Urgency: "low", Images: 3, Running: 57, Fixes: []advisory.Remedy{{Source: "openssl", Fixed: "2", Suite: "s", Images: 3}}})
	k, err = db.KnownCVE(ctx, "p1", "CVE-2026-1000")
	must(t, err)
	equal(t, k, advisory.Known{ID: "CVE-2026-1000", Urgency: "high", Images: 2, Running: 7, Fixes: []advisory.Remedy{{Source: "openssl", Fixed: "2", Suite: "s", Images: 2}}})
	_, err = db.KnownCVE(ctx, "p2", "CVE-2026-1000")
	wantErr(t, err, errs.NotFound, "kiln.cve.not_found")
}

// Fleet fills a database with images of so many packages each, of five generations of versions, and gives how long
// it took. It is for benchmarks.
func Fleet(ctx context.Context, db *store.DB, images, packages int) (time.Duration, error) {
	start := time.Now()
	for n := range images {
		facts := &catalog.Facts{OS: catalog.OSRelease{ID: "debian", Codename: "bookworm", VersionID: "12"}, Architecture: "amd64"}
		for p := range packages {
			name := fmt.Sprintf("package-%03d", p)
			if p == 0 {
				name = "openssl"
			}
			facts.Packages = append(facts.Packages, catalog.Package{Name: name, Version: fmt.Sprintf("3.0.%d-1~deb12u%d", 14+n%5, p%3), Architecture: "amd64", Source: name})
		}
		i := catalog.Image{ID: fmt.Sprintf("image-%05d", n), ProjectID: fmt.Sprintf("project-%d", n%10), Name: fmt.Sprintf("web-%d", n), State: catalog.Inspected, Facts: facts, CreatedAt: base, UpdatedAt: base}
		if err := db.PutImage(ctx, i); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
