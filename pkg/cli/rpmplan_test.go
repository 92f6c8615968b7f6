package cli_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/testkit/rpmrepo"
)

// rpmMirror serves a repository on loopback, and gives the folder of repositories that names it.
func rpmMirror(t *testing.T, repo *rpmrepo.Repository) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := http.NewRequestWithContext(r.Context(), r.Method, rpmrepo.Base+strings.TrimPrefix(r.URL.Path, "/9"), nil)
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := repo.RoundTrip(q)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		if _, err := io.Copy(w, answer.Body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	text := "[fixes]\nbaseurl=" + server.URL + "/$releasever\ngpgkey=file://" + repo.Keys + "\n"
	if err := os.WriteFile(filepath.Join(dir, "example-9.repo"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// An uploaded image of an rpm system is planned by a worker and printed.
func TestPlanOfAnRPMImageOnTheCommandLine(t *testing.T) {
	if testing.Short() {
		t.Skip("runs dnf in a sandbox as root; not in -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	repo, base := rpmrepo.New(t), rpmrepo.Package{Name: "base-data", Version: "1"}
	path := rpmrepo.Image(t, nil, base)
	base.Version, base.Scripts = "2", map[string]string{"post": "psql -f /usr/share/base.sql"}
	for _, p := range []rpmrepo.Package{rpmrepo.Lib("2"), rpmrepo.Tool("2"), base} {
		repo.Add(p.Build(t))
	}
	repo.Advise(rpmrepo.Advisory{ID: "EX-1", Type: "security", Severity: "Important", CVEs: []string{"CVE-2026-4242"}, Packages: []rpmrepo.Package{rpmrepo.Tool("2")}})
	repo.Publish()
	dir := rpmMirror(t, repo)
	k := start(t, func(c *config.Config) {
		c.Upgrade.RPM, c.Worker.WorkDir, c.Worker.CacheDir = dir, t.TempDir(), t.TempDir()
	})
	work, err := k.parts.Worker()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var family catalog.Family
	if err := json.Unmarshal([]byte(k.run("family", "create", "--name", "example", "-f", "json")), &family); err != nil {
		t.Fatal(err)
	}
	id := k.uploadDisk(path, family.ProjectID)
	out := k.run("upgrade", "plan", "--image-id", id)
	t.Log("\n" + out)
	for _, want := range []string{
		"tool:" + repo.Arch(), "2-1", "fixes", "CVE-2026-4242", "1:2-1", "held: base-data stays 1-1 although 2-1 is published: needs a running system: post line 1: psql -f /usr/share/base.sql", "example-9",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if out := k.run("upgrade", "plan", "--image-id", id, "--security"); !strings.Contains(out, "changes: 2;") || strings.Contains(out, "held: base-data") {
		t.Errorf("security fixes:\n%s", out)
	}
}

// uploadDisk uploads a raw disk to a project, and keeps what it has.
func (k kiln) uploadDisk(path, project string) string {
	k.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		k.t.Fatal(err)
	}
	facts, err := inspect.Read(k.t.Context(), f, info.Size(), "raw")
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		k.t.Fatal(err)
	}
	g, err := k.parts.Glance.CreateImage(k.t.Context(), catalog.NewGlanceImage{ID: uuid.NewString(), Name: "example", DiskFormat: "raw", ContainerFormat: "bare", Owner: project})
	if err == nil {
		err = k.parts.Glance.Upload(k.t.Context(), g.ID, f, info.Size())
	}
	now := time.Now()
	if err == nil {
		err = k.parts.DB.PutImage(k.t.Context(), catalog.Image{ID: g.ID, ProjectID: g.Owner, Name: g.Name, State: catalog.Inspected, Facts: facts, CreatedAt: now, UpdatedAt: now})
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return g.ID
}
