package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/daemon/manage"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// makeKey makes a key as an operator does.
func makeKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proof.pem")
	cmd := manage.New(&bytes.Buffer{})
	cmd.SetArgs([]string{"proof", "key", path})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return path
}

// proven is a version that a worker published: its bytes in Glance, its documents in the store.
type proven struct {
	kiln
	image, version, disk string
	docs                 []proof.Document
}

func (k kiln) publish(key, version string, facts catalog.Facts, files []catalog.File, bytesOf string) proven {
	k.t.Helper()
	ctx, now := k.t.Context(), time.Now().UTC()
	must := func(err error) {
		k.t.Helper()
		if err != nil {
			k.t.Fatal(err)
		}
	}
	k.try("family", "create", "--name", "web")
	var f catalog.Family
	must(json.Unmarshal([]byte(k.run("family", "show", "web", "-f", "json")), &f))
	g, err := k.parts.Glance.CreateImage(ctx, catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "web", DiskFormat: "raw", ContainerFormat: "bare", Owner: f.ProjectID, Visibility: "private",
		Properties: map[string]string{catalog.PropFamily: "web"},
	})
	must(err)
	must(k.parts.Glance.Upload(ctx, g.ID, strings.NewReader(bytesOf), int64(len(bytesOf))))
	p := proven{kiln: k, image: g.ID, version: version, disk: filepath.Join(k.t.TempDir(), "disk")}
	must(os.WriteFile(p.disk, []byte(bytesOf), 0o600))
	signer, err := proof.LoadSigner(key)
	must(err)
	digests, _, err := proof.FileDigests(ctx, p.disk)
	must(err)
	docs, properties, err := proof.Make(ctx, proof.Input{
		Origin: "build", RunID: "b1", Family: "web", Version: version, Image: proof.Artifact{Format: "raw", ImageID: g.ID, Digests: digests}, Facts: &facts, Files: files,
		Source:  &proof.SourceRef{URI: "https://git.example.org/recipes.git", Commit: "c0ffee"},
		Builder: "native", Kiln: "1.2.3", Started: now, Finished: now,
	}, signer)
	must(err)
	p.docs = docs
	_, err = k.parts.Glance.PatchImage(ctx, g.ID, catalog.GlancePatch{Properties: properties})
	must(err)
	must(k.parts.DB.PutImage(ctx, catalog.Image{ID: g.ID, ProjectID: f.ProjectID, Name: "web", State: catalog.Inspected, Size: int64(len(bytesOf)) << 20, Facts: &facts, CreatedAt: now, UpdatedAt: now}))
	must(k.parts.DB.AddVersion(ctx, catalog.Version{ID: uuid.NewString(), ProjectID: f.ProjectID, FamilyID: f.ID, Family: "web", Name: version, ImageID: g.ID, State: catalog.Published, CreatedAt: now}))
	must(k.parts.DB.SetChannel(ctx, f.ID, catalog.Candidate, version))
	must(k.parts.DB.PutDocuments(ctx, g.ID, docs))
	return p
}

func debian(openssl string, services ...string) catalog.Facts {
	return catalog.Facts{
		OS: catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm"}, VirtualSize: 2 << 30, UsedBytes: 600 << 20, Services: services, Kernels: []string{"6.1.0-30-amd64"},
		Packages: []catalog.Package{{Name: "openssl", Version: openssl, Architecture: "amd64", Source: "openssl"}},
	}
}

func TestVerifyOnTheCommandLine(t *testing.T) {
	key := makeKey(t)
	k := start(t, func(c *config.Config) { c.Build.SigningKey = key })
	p := k.publish(key, "20260305.1", debian("3.0.15"), []catalog.File{{Path: "/", Type: "dir", Mode: "0755"}}, "the bytes of a disk")
	for _, args := range [][]string{
		{p.image}, {"web"}, {"web/20260305.1"}, {"web/candidate", "--file", p.disk}, {"web", "--key", key + ".pub"},
	} {
		out := p.run(append([]string{"image", "verify"}, args...)...)
		if strings.Contains(out, "FAILED") || !strings.Contains(out, "commit c0ffee of https://git.example.org/recipes.git") || strings.Count(out, "ok  ") < 10 {
			t.Errorf("%v:\n%s", args, out)
		}
	}
	var report struct {
		Holds    bool
		Findings []proof.Finding
	}
	if err := json.Unmarshal([]byte(p.run("image", "verify", "web", "-f", "json")), &report); err != nil || !report.Holds || len(report.Findings) == 0 {
		t.Errorf("%+v %v", report, err)
	}
	var bom struct{ BOMFormat string }
	if err := json.Unmarshal([]byte(p.run("image", "sbom", "web")), &bom); err != nil || bom.BOMFormat != "CycloneDX" {
		t.Errorf("%+v %v", bom, err)
	}
	if out := p.run("image", "sbom", "web", "--format", "spdx"); !strings.Contains(out, "SPDX-2.3") {
		t.Error(out)
	}
	var st proof.Statement
	if err := json.Unmarshal([]byte(p.run("image", "provenance", "web")), &st); err != nil || st.Type != proof.StatementType {
		t.Errorf("%+v %v", st, err)
	}
	if out := p.run("image", "documents", "web"); !strings.Contains(out, "provenance") || !strings.Contains(out, "files") {
		t.Error(out)
	}
	if out := p.run("image", "documents", "web", "files"); !strings.HasPrefix(out, `{"path":"/"`) {
		t.Error(out)
	}
	p.tamper(t, key)
}

// tamper changes one byte of each thing in turn; each time verify must name it, and must not when it is as before.
func (p proven) tamper(t *testing.T, key string) {
	t.Helper()
	put := func(d proof.Document) {
		t.Helper()
		if err := p.parts.DB.PutDocuments(t.Context(), p.image, []proof.Document{d}); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(want string, args ...string) {
		t.Helper()
		out, err := p.try(append([]string{"image", "verify", "web"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(out, "FAILED") {
			t.Errorf("%s: %v\n%s", want, err, out)
		}
	}
	for _, d := range p.docs {
		text, err := d.Text()
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		changed, err := proof.NewDocument(d.Kind, d.MediaType, text, d.CreatedAt)
		if err != nil {
			t.Fatal(err)
		}
		put(changed)
		want := "document " + d.Kind
		if d.Kind == proof.KindProvenance {
			want = "signature"
		}
		fails(want)
		put(d)
		p.run("image", "verify", "web")
	}
	disk := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(disk, []byte("the bytes of a dist"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails("image sha256, image sha512", "--file", disk)
	fails("signature", "--key", makeKey(t)+".pub")
	if _, err := p.parts.Glance.PatchImage(t.Context(), p.image, catalog.GlancePatch{Properties: map[string]string{catalog.PropSBOM: "sha256:00"}}); err != nil {
		t.Fatal(err)
	}
	fails("Glance property kiln_sbom")
	if err := p.parts.DB.DeleteDocuments(t.Context(), p.image); err != nil {
		t.Fatal(err)
	}
	fails("signature")
}

func TestDiffOnTheCommandLine(t *testing.T) {
	key := makeKey(t)
	k := start(t)
	old := k.publish(key, "20260305.1", debian("3.0.15", "ssh.service"), []catalog.File{{Path: "/etc/motd", Type: "file", SHA256: "1"}}, "12345678")
	pending := []advisory.Pending{{AdvisoryID: "a", Package: "openssl", Installed: "3.0.15", Fixed: "3.0.16", Security: true}}
	if err := k.parts.DB.ReplacePending(t.Context(), old.image, pending); err != nil {
		t.Fatal(err)
	}
	if err := k.parts.DB.PutAdvisories(t.Context(), []advisory.Advisory{{ID: "a", Package: "openssl", Version: "3.0.16", Urgency: "high", CVEs: []string{"CVE-2026-1", "CVE-2026-2"}}}); err != nil {
		t.Fatal(err)
	}
	fresh := k.publish(key, "20260306.1", debian("3.0.16", "nginx.service", "ssh.service"), []catalog.File{{Path: "/etc/motd", Type: "file", SHA256: "2"}}, "123456789")
	out := k.run("image", "diff", "web", "20260305.1", "candidate")
	for _, want := range []string{
		"web 20260305.1 → 20260306.1\n", "2 CVEs fixed, 1 package differs (1 upgraded), 1 file differs", "CVE-2026-1, CVE-2026-2", "3.0.15 → 3.0.16", "+  nginx.service", "~  /etc/motd", "image file",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out := k.run("image", "diff", "web", "20260305.1", "candidate", "--format", "markdown"); !strings.HasPrefix(out, "## web 20260305.1 → 20260306.1\n") || !strings.Contains(out, "- `openssl` high 3.0.15 → 3.0.16 CVE-2026-1, CVE-2026-2\n") {
		t.Error(out)
	}
	if out := k.run("image", "diff", old.image, fresh.image, "-f", "json"); !strings.Contains(out, `"cves": [`) {
		t.Error(out)
	}
	if _, err := k.try("image", "diff", "web", "20260305.1", "20990101.1"); err == nil || !strings.Contains(err.Error(), "20990101.1") {
		t.Errorf("a version that is not there: %v", err)
	}
}
