package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
)

func TestWhoOnTheCommandLine(t *testing.T) {
	k := start(t)
	k.run("family", "create", "--name", "web")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var f catalog.Family
	must(json.Unmarshal([]byte(k.run("family", "show", "web", "-f", "json")), &f))
	put := func(id, version string) {
		must(k.parts.DB.PutImage(t.Context(), catalog.Image{ID: id, ProjectID: f.ProjectID, Name: "name-" + id, State: catalog.Inspected, CreatedAt: time.Now(), UpdatedAt: time.Now(),
			Facts: &catalog.Facts{OS: catalog.OSRelease{ID: "debian", Codename: "bookworm"}, Packages: []catalog.Package{{Name: "openssl", Version: version, Architecture: "amd64", Source: "openssl"}}}}))
	}
	put("old", "3.0.9-1")
	put("new", "3.0.17-1~deb12u2")
	must(k.parts.DB.PutGaps(t.Context(), []advisory.Gap{{ID: "g", CVEs: []advisory.CVE{{ID: "CVE-2026-1234"}}}}))
	must(k.parts.DB.PutAdvisories(t.Context(), []advisory.Advisory{{ID: "s/openssl/3.0.17-1/amd64", CreatedAt: time.Date(2026, 3, 5, 0, 0, 0, 0, time.UTC)}}))
	pending := []advisory.Pending{{AdvisoryID: "s/openssl/3.0.17-1/amd64", Package: "openssl", Source: "openssl", Installed: "3.0.9-1", Fixed: "3.0.17-1", Suite: "bookworm-security", Urgency: "high", Gap: "g"}}
	must(k.parts.DB.PutFindings(t.Context(), []advisory.Finding{{ImageID: "old", Pending: pending, Lacks: advisory.Count(pending), At: time.Now()}}))
	must(k.parts.DB.SetRunning(t.Context(), map[string]int{"old": 4, "new": 1}, nil))

	says := func(want []string, args ...string) {
		t.Helper()
		out := k.run(args...)
		for _, w := range want {
			if bare, not := strings.CutPrefix(w, "!"); not == strings.Contains(out, bare) {
				t.Errorf("%v: %q in\n%s", args, w, out)
			}
		}
	}
	says([]string{"name-old", "3.0.9-1", "!name-new", "1 image, 4 servers and containers run from it"}, "who", "has", "openssl", "<", "3.0.17-1~deb12u2")
	says([]string{"name-old", "name-new", "2 images, 5 servers"}, "who", "has", "openssl")
	says([]string{"name-new", "!name-old"}, "who", "has", "--source", "openssl", "gt", "3.0.10")
	says([]string{"no image has openssl = 1"}, "who", "has", "openssl", "=", "1")
	says([]string{"name-old", "3.0.17-1", "bookworm-security", "high", "!name-new"}, "who", "lacks", "cve-2026-1234")
	says([]string{"name-old", "1 image"}, "who", "lacks", "s/openssl/3.0.17-1/amd64")
	says([]string{"no image lacks CVE-2026-9999"}, "who", "lacks", "CVE-2026-9999")
	says([]string{`"version": "3.0.9-1"`, "!servers"}, "who", "lacks", "CVE-2026-1234", "-f", "json")
	says([]string{"[]"}, "who", "lacks", "CVE-2026-9999", "-f", "json")
	out := k.run("advisory", "rank")
	if i, j := strings.Index(out, "name-old"), strings.Index(out, "name-new"); i < 0 || j < i || !strings.Contains(out, "100 ") || !strings.Contains(out, "2026-03-05") {
		t.Error(out)
	}
	for _, args := range [][]string{{"who", "has", "openssl", "<"}, {"who", "has", "openssl", "~", "1"}, {"who", "has", "openssl", "<", "1 2"}, {"who", "lacks"}} {
		if _, err := k.try(args...); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
