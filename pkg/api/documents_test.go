package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/api"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/diff"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

func TestDocuments(t *testing.T) {
	w := newWorld(t)
	w.seed()
	const text = `{"bomFormat":"CycloneDX"}`
	w.must(w.db.PutDocuments(t.Context(), "image-1", []proof.Document{w.document(proof.KindCycloneDX, text)}))
	var list struct{ Documents []proof.Document }
	w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images/image-1/documents", nil).into(t, &list)
	if len(list.Documents) != 2 || list.Documents[0].Kind != proof.KindCycloneDX || list.Documents[0].Size != int64(len(text)) {
		t.Errorf("%+v", list)
	}
	const path = "/v1/images/image-1/documents/cyclonedx"
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, path, nil)
	tag := `"` + list.Documents[0].SHA256 + `"`
	if string(a.body) != text || a.header.Get("Content-Type") != proof.MediaFiles || a.header.Get("ETag") != tag || a.header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v", a.body, a.header)
	}
	a = w.do("reader@p", http.MethodGet, path, nil, "Accept-Encoding", "br, gzip;q=0.5")
	zip, err := gzip.NewReader(bytes.NewReader(a.body))
	if err != nil || a.header.Get("Content-Encoding") != "gzip" || !slices.Contains(a.header.Values("Vary"), "Accept-Encoding") {
		t.Fatal(err, a.header)
	}
	if plain, err := io.ReadAll(zip); err != nil || string(plain) != text {
		t.Errorf("%s %v", plain, err)
	}
	if a = w.do("reader@p", http.MethodGet, path, nil, "Accept-Encoding", "gzip;q=0"); string(a.body) != text {
		t.Errorf("gzip for one who refuses it: %q", a.body)
	}
	if a = w.do("reader@p", http.MethodGet, path, nil, "If-None-Match", tag); a.status != http.StatusNotModified || len(a.body) != 0 {
		t.Errorf("%d %q", a.status, a.body)
	}
	var f faults
	w.want(http.StatusNotFound, "reader@p", http.MethodGet, "/v1/images/image-1/documents/none", nil).into(t, &f)
	if f.Errors[0].Code != "kiln.document.not_found" {
		t.Errorf("%+v", f)
	}
}

func TestProofKeysNeedNoToken(t *testing.T) {
	_, public, err := proof.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := proof.ParseKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ Keys []proof.Key }
	newWorld(t, func(d *api.Deps) { d.ProofKeys = keys }).want(http.StatusOK, "", http.MethodGet, "/v1/proof/keys", nil).into(t, &out)
	if len(out.Keys) != 1 || out.Keys[0].PEM != string(public) || out.Keys[0].ID != keys[0].ID {
		t.Errorf("%+v", out)
	}
	newWorld(t).want(http.StatusOK, "", http.MethodGet, "/v1/proof/keys", nil).into(t, &out)
	if len(out.Keys) != 0 {
		t.Errorf("%+v", out)
	}
}

// image puts an image with facts and files into project p.
func (w *world) image(id string, facts catalog.Facts, size int64, files ...catalog.File) {
	w.t.Helper()
	w.must(w.db.PutImage(w.t.Context(), catalog.Image{ID: id, ProjectID: "p", Name: id, State: catalog.Inspected, Size: size, Facts: &facts, CreatedAt: noon, UpdatedAt: noon}))
	var text bytes.Buffer
	w.must(catalog.WriteFiles(&text, files))
	w.must(w.db.PutDocuments(w.t.Context(), id, []proof.Document{w.document(proof.KindFiles, text.String())}))
}

func TestDiff(t *testing.T) {
	w := newWorld(t)
	w.seed()
	packages := func(openssl string) []catalog.Package {
		return []catalog.Package{{Name: "openssl", Version: openssl, Architecture: "amd64", Source: "openssl"}}
	}
	w.image("image-1", catalog.Facts{Packages: packages("3.0.1"), Services: []string{"a.service"}, Kernels: []string{}}, 100, catalog.File{Path: "/etc/x", Type: "file", SHA256: "1"})
	w.image("image-2", catalog.Facts{Packages: packages("3.0.2~deb12u1"), Services: []string{"b.service"}}, 300, catalog.File{Path: "/etc/x", Type: "file", SHA256: "2"})
	w.must(w.db.PutAdvisories(t.Context(), []advisory.Advisory{{ID: advisoryID, Package: "openssl", Version: "3.0.2~deb12u1", Urgency: "high"}}))

	var r diff.Report
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/families/debian-12-web/diff?from=candidate&to=20260305.2", nil)
	a.into(t, &r)
	want := []any{
		[]diff.Package{{Name: "openssl", Architecture: "amd64", Source: "openssl", Change: diff.Upgraded, From: "3.0.1", To: "3.0.2~deb12u1"}},
		[]diff.Fix{{Package: "openssl", Urgency: "high", Security: true, CVEs: []string{"CVE-2026-1"}, From: "3.0.1", To: "3.0.2~deb12u1"}},
		diff.Names{Added: []string{"b.service"}, Removed: []string{"a.service"}}, []diff.FileChange{{Path: "/etc/x", Change: diff.Changed, What: []string{"content"}}},
		"debian-12-web 20260305.1", "debian-12-web 20260305.2",
	}
	if d := cmp.Diff(want, []any{r.Packages, r.Fixed, r.Services, r.Files.List, r.From.Label(), r.To.Label()}); d != "" {
		t.Error(d)
	}
	var same diff.Report
	w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images/image-1/diff?to=image-2", nil).into(t, &same)
	if d := cmp.Diff(r, same); d != "" {
		t.Errorf("by image: %s", d)
	}
	for path, code := range map[string]string{
		"/v1/families/debian-12-web/diff":                              "kiln.request.query", // the candidate is the first of its line
		"/v1/families/debian-12-web/diff?from=candidate&to=19990101.1": "kiln.version.not_found",
		"/v1/images/image-1/diff":                                      "kiln.request.query",
		"/v1/images/image-1/diff?to=none":                              "kiln.image.not_found",
	} {
		var f faults
		w.want(http.StatusBadRequest, "reader@p", http.MethodGet, path, nil).into(t, &f)
		if f.Errors[0].Code != code || f.Errors[0].Where.Field == "" {
			t.Errorf("%s: %+v", path, f)
		}
	}
	var f faults
	w.want(http.StatusConflict, "reader@p", http.MethodGet, "/v1/images/image-1/diff?to=in-glance", nil).into(t, &f)
	if f.Errors[0].Code != "kiln.diff.facts" || !strings.Contains(f.Errors[0].Detail, "inspect") {
		t.Errorf("%+v", f)
	}
	var raw map[string]json.RawMessage
	a.into(t, &raw)
	if string(raw["users"]) != `{"added":[],"removed":[]}` {
		t.Errorf("%s", raw["users"])
	}
}
