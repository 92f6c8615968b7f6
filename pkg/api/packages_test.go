package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
)

type holdings struct {
	Packages []advisory.Holding
	Links    []struct{ Href string } `json:"packages_links"`
}

func TestWhoHasAndWhoLacks(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.must(w.db.PutImage(t.Context(), catalog.Image{ID: "foreign", ProjectID: "q", Name: "theirs", State: catalog.Inspected, CreatedAt: noon, UpdatedAt: noon,
		Facts: &catalog.Facts{OS: catalog.OSRelease{ID: "debian"}, Packages: []catalog.Package{{Name: "openssl", Version: "3.0.0", Architecture: "amd64"}}}}))
	w.must(w.db.SetRunning(t.Context(), map[string]int{"image-1": 7}, nil))
	ask := func(token, query string) (out []string) {
		t.Helper()
		var page holdings
		w.want(http.StatusOK, token, http.MethodGet, "/v1/packages?"+query, nil).into(t, &page)
		for _, h := range page.Packages {
			out = append(out, h.ImageID+" "+h.Version)
		}
		return out
	}
	for _, c := range []struct{ token, query, want string }{
		{"reader@p", "name=openssl", "[image-1 3.0.1 image-2 3.0.1]"},
		{"reader@p", "name=openssl&version=lt:3.0.1", "[]"},
		{"reader@p", "name=openssl&version=lte:3.0.1", "[image-1 3.0.1 image-2 3.0.1]"},
		{"reader@p", "source=openssl&version=gt:3.0.1~rc1", "[image-1 3.0.1 image-2 3.0.1]"},
		{"reader@q", "name=openssl&version=3.0.0", "[foreign 3.0.0]"},
		{"admin@q", "name=openssl&version=lt:3.1&all_projects=true", "[foreign 3.0.0 image-1 3.0.1 image-2 3.0.1]"},
		{"reader@p", "cve=CVE-2026-1000", "[image-1 3.0.1]"},
		{"reader@q", "cve=CVE-2026-1000", "[]"},
		{"reader@p", "advisory=" + url.QueryEscape(advisoryID), "[image-1 3.0.1]"},
	} {
		if got := fmt.Sprint(ask(c.token, c.query)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.token, c.query, got, c.want)
		}
	}
	var first, second holdings
	w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/packages?name=openssl&limit=1", nil).into(t, &first)
	if len(first.Packages) != 1 || len(first.Links) != 1 {
		t.Fatalf("%+v", first)
	}
	next, err := url.Parse(first.Links[0].Href)
	w.must(err)
	w.want(http.StatusOK, "reader@p", http.MethodGet, next.RequestURI(), nil).into(t, &second)
	if len(second.Packages) != 1 || second.Packages[0].ImageID != "image-2" || len(second.Links) != 0 {
		t.Errorf("%+v", second)
	}
	for query, code := range map[string]string{
		"": "kiln.packages.question", "name=a&source=b": "kiln.packages.question", "cve=CVE-1": "kiln.cve.malformed", "cve=CVE-2026-1000&version=lt:1": "kiln.packages.question",
		"name=openssl&version=like:1": "kiln.packages.operator", "name=openssl&version=lt:": "kiln.packages.version", "name=openssl&marker=x": "kiln.query.marker", "color=red": "kiln.request.unknown_query",
		"name=openssl&version=lt:_": "kiln.advisory.version_malformed",
	} {
		if a := w.want(http.StatusBadRequest, "reader@p", http.MethodGet, "/v1/packages?"+query, nil); !strings.Contains(string(a.body), code) {
			t.Errorf("%s: %s, want %s", query, a.body, code)
		}
	}
	var k advisory.Known
	w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/cves/CVE-2026-1000", nil).into(t, &k)
	if k.Images != 1 || k.Running != 7 || k.Urgency != "high" || len(k.Fixes) != 1 || k.Fixes[0].Fixed != "3.0.2~deb12u1" {
		t.Errorf("%+v", k)
	}
	w.want(http.StatusNotFound, "reader@q", http.MethodGet, "/v1/cves/CVE-2026-1000", nil)
	w.want(http.StatusForbidden, "reader@q", http.MethodGet, "/v1/cves/CVE-2026-1000?all_projects=true", nil)
	w.want(http.StatusOK, "admin@q", http.MethodGet, "/v1/cves/CVE-2026-1000?all_projects=true", nil)
}

func TestImagesAreRanked(t *testing.T) {
	w := newWorld(t)
	w.seed()
	pending := []advisory.Pending{{AdvisoryID: advisoryID, Package: "openssl", Source: "openssl", Urgency: advisory.Critical, Security: true}}
	w.must(w.db.PutFindings(t.Context(), []advisory.Finding{{ImageID: "image-2", Pending: pending, Lacks: advisory.Count(pending), At: noon}}))
	w.must(w.db.SetRunning(t.Context(), map[string]int{"image-2": 3, "image-1": 50}, nil))
	var all struct{ Images []catalog.Image }
	w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images?sort=rank:desc", nil).into(t, &all)
	worst := all.Images[0]
	if worst.ID != "image-2" || worst.Rank != 400 || worst.Lacks.Critical != 1 || worst.Running != 3 || worst.PendingSince == nil || worst.PendingUpdates != 1 {
		t.Errorf("%+v", all.Images)
	}
	if all.Images[1].Rank != 0 || all.Images[1].Running != 50 {
		t.Errorf("an image that lacks nothing: %+v", all.Images[1])
	}
}
