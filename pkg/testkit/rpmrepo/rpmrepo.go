// Package rpmrepo is a small signed rpm repository for tests. Its packages are made by rpmbuild, signed by a key that is
// made for the test, and served without a request that leaves the process.
package rpmrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Base is where the repository seems to be.
const Base = "http://rpm.example.org/9"

// Repository is one folder of packages with their metadata. It answers requests for what is below Base as a mirror.
type Repository struct {
	Keys    string // file with the public key that signs
	Modules string // the module streams that Publish adds (modulemd); "" for none

	t    testing.TB
	dir  string // what is served
	work string
	gpg  string // home of gpg
	mu   sync.Mutex
	seen []string

	advisories []Advisory
}

// New makes an empty repository with a key of its own.
func New(t testing.TB) *Repository {
	t.Helper()
	r := &Repository{t: t, dir: t.TempDir(), work: t.TempDir()}
	r.Keys = filepath.Join(r.work, "keys.asc")
	r.NewKey()
	keys := r.run("gpg", "--batch", "--export", "--armor")
	if err := os.WriteFile(r.Keys, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// NewKey makes what follows be signed by a key that is not in Keys.
func (r *Repository) NewKey() {
	r.t.Helper()
	// Not t.TempDir: its path is too long for the socket of gpg's agent.
	home, err := os.MkdirTemp("", "kgpg")
	if err != nil {
		r.t.Fatal(err)
	}
	r.gpg = home
	r.t.Cleanup(func() {
		stop := exec.Command("gpgconf", "--homedir", home, "--kill", "all") //nolint:noctx // after the test's context has ended
		if out, err := stop.CombinedOutput(); err != nil {
			r.t.Errorf("gpgconf: %v %s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			r.t.Error(err)
		}
	})
	r.run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "Test <test@example.org>", "rsa2048", "sign", "never")
}

// Add signs a package and puts it into the repository. It is seen after the next Publish.
func (r *Repository) Add(packages ...string) {
	r.t.Helper()
	for _, p := range packages {
		r.AddUnsigned(p)
		r.run("rpmsign", "--define", "__gpg /usr/bin/gpg", "--define", "_gpg_name test@example.org", "--addsign", filepath.Join(r.dir, filepath.Base(p)))
	}
}

// AddUnsigned is Add without a signature.
func (r *Repository) AddUnsigned(p string) {
	r.t.Helper()
	data, err := os.ReadFile(p)
	if err != nil {
		r.t.Fatal(err)
	}
	r.SetFile(filepath.Base(p), data)
}

// Publish makes the metadata anew and signs it.
func (r *Repository) Publish() {
	r.t.Helper()
	r.run("createrepo_c", "--quiet", "--no-database", r.dir)
	if len(r.advisories) > 0 {
		r.run("modifyrepo_c", "--mdtype=updateinfo", r.updateinfo(), filepath.Join(r.dir, "repodata"))
	}
	if r.Modules != "" {
		file := filepath.Join(r.work, "modules.yaml")
		if err := os.WriteFile(file, []byte(r.Modules), 0o600); err != nil {
			r.t.Fatal(err)
		}
		r.run("modifyrepo_c", "--mdtype=modules", file, filepath.Join(r.dir, "repodata"))
	}
	signature := filepath.Join(r.dir, "repodata/repomd.xml.asc")
	if err := os.RemoveAll(signature); err != nil {
		r.t.Fatal(err)
	}
	r.run("gpg", "--batch", "--detach-sign", "--armor", "--output", signature, filepath.Join(r.dir, "repodata/repomd.xml"))
}

// SetFile replaces a file of the repository.
func (r *Repository) SetFile(name string, data []byte) {
	r.t.Helper()
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := errors.Join(root.WriteFile(name, data, 0o644), root.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// Asked are the paths that were asked for so far.
func (r *Repository) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// RoundTrip answers like the mirror.
func (r *Repository) RoundTrip(q *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	name, ok := strings.CutPrefix(q.URL.String(), Base+"/")
	r.mu.Lock()
	r.seen = append(r.seen, name)
	r.mu.Unlock()
	data, err := fs.ReadFile(os.DirFS(r.dir), name)
	if !ok || err != nil {
		http.NotFound(w, q)
	} else {
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
	}
	return w.Result(), nil
}

func (r *Repository) run(args ...string) []byte {
	r.t.Helper()
	return run(r.t, r.work, []string{"GNUPGHOME=" + r.gpg}, args...)
}

// run runs a tool with a home of its own.
func run(t testing.TB, home string, env []string, args ...string) []byte {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + home}, env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, out, said.Bytes())
	}
	return out
}

// Package is a package that rpmbuild makes.
type Package struct {
	Name, Version string // the release is 1
	Fields        string // further lines of the head
	Files         map[string]string
	Modes         map[string]string // octal; default 0644
	Copies        map[string]string // files of this machine by their path in the package; mode 0755
	Links         map[string]string
	Dirs          []string
	Config        []string          // %config(noreplace)
	PlainConfig   []string          // %config
	Scripts       map[string]string // by section: pre, post, preun, postun, posttrans
	Changelog     string
}

// built are the packages that this process made already: rpmbuild takes longer than the rest of a test.
var built sync.Map

// Build makes the package's file.
func (p Package) Build(t testing.TB) string {
	t.Helper()
	key := fmt.Sprintf("%+v", p)
	if have, ok := built.Load(key); ok {
		file := have.(made)
		return file.write(t)
	}
	path := p.build(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	built.Store(key, made{filepath.Base(path), data})
	return path
}

// made is a package's file.
type made struct {
	name string
	data []byte
}

func (m made) write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), m.name)
	if err := os.WriteFile(path, m.data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (p Package) build(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var install, files, scripts strings.Builder
	place := func(name string) string { return `"%{buildroot}` + name + `"` }
	for _, d := range p.Dirs {
		fmt.Fprintf(&install, "mkdir -p %s\n", place(d))
		fmt.Fprintf(&files, "%%dir %s\n", d)
	}
	n := 0
	put := func(name, source, mode string) {
		fmt.Fprintf(&install, "install -D -m %s '%s' %s\n", mode, source, place(name))
		kind := ""
		switch {
		case slices.Contains(p.Config, name):
			kind = "%config(noreplace) "
		case slices.Contains(p.PlainConfig, name):
			kind = "%config "
		}
		fmt.Fprintf(&files, "%s%%attr(%s,root,root) %s\n", kind, mode, name)
	}
	for name, text := range p.Files {
		n++
		source := filepath.Join(dir, fmt.Sprintf("file%d", n))
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		mode := "0644"
		if m, ok := p.Modes[name]; ok {
			mode = m
		}
		put(name, source, mode)
	}
	for name, source := range p.Copies {
		put(name, source, "0755")
	}
	for name, target := range p.Links {
		fmt.Fprintf(&install, "mkdir -p %s\nln -s %s %s\n", place(filepath.Dir(name)), target, place(name))
		fmt.Fprintf(&files, "%s\n", name)
	}
	for section, text := range p.Scripts {
		fmt.Fprintf(&scripts, "%%%s\n%s\n", section, text)
	}
	spec := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: s\nLicense: MIT\nAutoReqProv: no\n%s%%description\nd\n%%install\n%s%s%%files\n%s%%changelog\n%s",
		p.Name, p.Version, p.Fields, install.String(), scripts.String(), files.String(), p.Changelog)
	file := filepath.Join(dir, "p.spec")
	if err := os.WriteFile(file, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, dir, nil, "rpmbuild", "--quiet", "-bb", "--define", "_topdir "+dir, "--define", "debug_package %{nil}", "--define", "__os_install_post %{nil}",
		"--define", "_build_id_links none", file)
	found, err := filepath.Glob(filepath.Join(dir, "RPMS/*/*.rpm"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}

// Upgrade puts packages into a tree in place of what it has of them.
func Upgrade(t testing.TB, tree string, packages ...string) {
	t.Helper()
	run(t, t.TempDir(), nil, append([]string{"rpm", "--root", tree, "--dbpath", "/var/lib/rpm", "--nosignature", "-U"}, packages...)...)
}

// Install makes a tree of packages, whose scripts run in it.
func Install(t testing.TB, tree string, packages ...string) {
	t.Helper()
	run(t, t.TempDir(), nil, append([]string{"rpm", "--root", tree, "--dbpath", "/var/lib/rpm", "--nosignature", "-i"}, packages...)...)
}
