package worker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

type machineSuites struct{ deb.Mirrors }

func (m machineSuites) For(codename string) []upgrade.Suite {
	return []upgrade.Suite{
		{Mirror: m.Main, Suite: codename, Components: []string{"main"}}, {Mirror: m.Security, Suite: codename + "-security", Components: []string{"main"}},
	}
}

// TestRealRefresh holds an old Debian against the machine's own mirrors: real indexes, real changelogs, real CVEs.
func TestRealRefresh(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the machine's Debian mirror")
	}
	s := newShop(t)
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := mirror.New(mirror.Config{Upstreams: []string{mirrors.Main, mirrors.Security}, Dir: t.TempDir(), Timeout: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	if s.deps.Indexes, err = deb.NewClient(deb.ClientConfig{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	s.deps.Suites, s.deps.Changelogs = machineSuites{mirrors}, proxy
	facts := &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm"}, Architecture: "amd64", Packages: []catalog.Package{
		{Name: "openssl", Version: "3.0.9-1", Architecture: "amd64"}, {Name: "libssl3", Version: "3.0.9-1", Architecture: "amd64", Source: "openssl"},
		{Name: "linux-image-amd64", Version: "6.1.52-1", Architecture: "amd64", Source: "linux-signed-amd64", SourceVersion: "6.1.52+1"},
		{Name: "libxml2", Version: "2.9.14+dfsg-1.3~deb12u1", Architecture: "amd64"}, {Name: "base-files", Version: "99", Architecture: "amd64"},
	}}
	if err := s.db.PutImage(t.Context(), catalog.Image{ID: "old", ProjectID: s.project, Name: "old", State: catalog.Inspected, Facts: facts, CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	j := s.refreshWithin(3 * time.Minute)
	if lines, err := s.db.JobLog(t.Context(), j.ID, 0, 100); err == nil {
		for _, l := range lines {
			t.Log(l.Text)
		}
	}
	if j.State != job.Succeeded || !strings.Contains(string(j.Result), `"changelogs":3`) {
		t.Fatalf("%+v %s", j.Error, j.Result)
	}
	t.Logf("%d MB fetched in %s", proxy.Stats().BytesUpstream>>20, time.Since(start).Round(time.Second))
	pending, err := s.db.ListPending(t.Context(), "old")
	if err != nil || len(pending) != 4 {
		t.Fatalf("%+v, %v", pending, err)
	}
	for _, p := range pending {
		t.Logf("%s %s → %s of %s: %s, %d CVEs", p.Package, p.Installed, p.Fixed, p.Suite, p.Urgency, len(p.CVEs))
		if len(p.CVEs) == 0 || advisory.Level(p.Urgency) == 0 {
			t.Errorf("%s: nothing is known of the fix", p.Package)
		}
		if p.Package == "linux-image-amd64" && len(p.CVEs) < 500 {
			t.Errorf("the kernel of 2023 lacks %d fixes", len(p.CVEs))
		}
		// Debian fixed it in 3.0.14-1~deb12u1.
		if p.Source == "openssl" && !slices.Contains(p.CVEs, "CVE-2024-5535") {
			t.Errorf("%s: no CVE-2024-5535 in %v", p.Package, p.CVEs)
		}
	}
	if got := s.lacks("CVE-2024-5535"); got != "old/libssl3 old/openssl" {
		t.Errorf("who lacks CVE-2024-5535: %s", got)
	}
	start = time.Now()
	if j := s.refresh(); !strings.Contains(string(j.Result), `"compared":0`) {
		t.Errorf("%+v %s", j.Error, j.Result)
	}
	t.Logf("again, with nothing new: %s", time.Since(start).Round(time.Millisecond))
}
