package locked_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/locked"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
)

const base = aptrepo.Base

// mirror is a small signed mirror.
type mirror struct {
	*aptrepo.Repository
	t *testing.T
}

// add makes a package; its name in the pool is given back.
func (m *mirror) add(name, version, fields string) string {
	m.t.Helper()
	return m.Add("bookworm", aptrepo.Package{Name: name, Version: version, Fields: fields})
}

func (m *mirror) question(names ...string) locked.Question {
	return locked.Question{
		Release: "bookworm", Packages: names, Keyring: m.Keyring, Proxy: m, Dir: m.t.TempDir(), Log: m.t.Output(),
		Suites: []deb.Suite{{Mirror: base, Suite: "bookworm", Components: []string{"main"}, Arch: "amd64"}},
	}
}

// standard is a mirror with two versions of a library, an essential package and one that nobody asks for.
func standard(t *testing.T) *mirror {
	m := &mirror{aptrepo.New(t), t}
	m.add("init", "1", "Essential: yes\n")
	m.add("lib", "1.0", "")
	m.add("lib", "1:0.9-2+b1", "")
	m.add("web", "2.0", "Depends: lib (>= 1:0), mail | post\nRecommends: docs\n")
	m.add("docs", "1", "")
	m.add("post", "1", "Provides: mail\n")
	m.Publish("bookworm", "")
	return m
}

func names(l *deb.Lock) string {
	var out []string
	for _, p := range l.Packages {
		out = append(out, p.Name+"="+p.Version)
	}
	return strings.Join(out, " ")
}

func solve(t *testing.T, m *mirror, names ...string) *deb.Lock {
	t.Helper()
	lock, err := locked.Solve(t.Context(), m.question(names...))
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func needsApt(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs apt-get and dpkg-deb; not in -short")
	}
}

func TestSolveNamesEveryPackageWithItsHash(t *testing.T) {
	needsApt(t)
	m := standard(t)
	lock := solve(t, m, "web")
	if got := names(lock); got != "init=1 lib=1:0.9-2+b1 post=1 web=2.0" {
		t.Errorf("locked %s", got)
	}
	p, _ := lock.Find("lib")
	if data := m.File(p.Filename); p.SHA256 != fmt.Sprintf("%x", sha256.Sum256(data)) || p.Size != int64(len(data)) || p.Architecture != "amd64" {
		t.Errorf("lib is locked as %+v", p)
	}
	want := []deb.LockedSuite{{Suite: "bookworm", SHA256: fmt.Sprintf("%x", sha256.Sum256(m.File("dists/bookworm/InRelease")))}}
	if !slices.Equal(lock.Suites, want) || !lock.Time.Equal(m.Date) {
		t.Errorf("suites %v of %s", lock.Suites, lock.Time)
	}
	for _, name := range m.Asked() {
		if strings.HasSuffix(name, ".deb") {
			t.Errorf("%s was fetched to find out what to lock", name)
		}
	}
	if again := solve(t, m, "web"); again.Digest() != lock.Digest() {
		t.Error("the same mirror, another lock")
	}
}

func TestSolveTellsWhatDoesNotWork(t *testing.T) {
	needsApt(t)
	m := standard(t)
	for name, c := range map[string]struct {
		names []string
		code  string
		kind  errs.Kind
		text  string
	}{
		"no such package": {[]string{"nosuch"}, locked.CodeSolve, errs.Invalid, "nosuch"},
		"no such version": {[]string{"web=9"}, locked.CodeSolve, errs.Invalid, "9"},
	} {
		_, err := locked.Solve(t.Context(), m.question(c.names...))
		if errs.CodeOf(err) != c.code || errs.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.SetFile("dists/bookworm/InRelease", bytes.Replace(m.File("dists/bookworm/InRelease"), []byte("Origin: test"), []byte("Origin: evil"), 1))
	if _, err := locked.Solve(t.Context(), m.question("web")); errs.CodeOf(err) != locked.CodeMirror || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a changed index: %v", err)
	}
}

func open(t *testing.T, m *mirror, lock *deb.Lock, dir string) (*locked.Repository, error) {
	return locked.Open(t.Context(), lock, locked.Archive{Dir: dir, Mirrors: deb.Mirrors{Main: base}, Upstream: m}, nil)
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, base+"/"+path, http.NoBody))
	return w
}

// TestLockedPackagesOutliveTheirMirror: what the lock names is served as a repository that apt takes, also when the
// mirror has newer versions only.
func TestLockedPackagesOutliveTheirMirror(t *testing.T) {
	needsApt(t)
	m := standard(t)
	lock, archive := solve(t, m, "web"), t.TempDir()
	if _, err := open(t, m, lock, archive); err != nil {
		t.Fatal(err)
	}
	m.Forget()
	r, err := open(t, m, lock, archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range lock.Packages {
		if got := get(r, p.Filename); got.Code != http.StatusOK || fmt.Sprintf("%x", sha256.Sum256(got.Body.Bytes())) != p.SHA256 {
			t.Errorf("%s: %d", p.Filename, got.Code)
		}
	}
	for _, other := range []string{"pool/main/docs_1_amd64.deb", "dists/bookworm/InRelease", "../etc/passwd"} {
		if got := get(r, other); got.Code != http.StatusNotFound {
			t.Errorf("%s: %d", other, got.Code)
		}
	}
	if w := httptest.NewRecorder(); true {
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://other.example.org/debian/"+lock.Packages[0].Filename, http.NoBody))
		if w.Code != http.StatusForbidden {
			t.Errorf("another host: %d", w.Code)
		}
	}
	if got := aptWould(t, r, "web"); got != "Inst init (1) Inst lib (1:0.9-2+b1) Inst post (1) Inst web (2.0)" {
		t.Errorf("apt would do: %s", got)
	}
}

// aptWould is what apt installs from the repository on an empty machine.
func aptWould(t *testing.T, r *locked.Repository, name string) string {
	t.Helper()
	server := httptest.NewServer(r)
	defer server.Close()
	dir := t.TempDir()
	for _, d := range []string{"lists/partial", "archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf("Dir::State::lists \"%[1]s/lists\";\nDir::State::status \"%[1]s/status\";\nDir::Cache \"%[1]s\";\nDir::Etc::sourcelist \"%[1]s/list\";\nDir::Etc::sourceparts \"%[1]s/parts\";\n"+
		"APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAPT::Install-Recommends \"false\";\n", dir)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600), os.WriteFile(filepath.Join(dir, "status"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "list"), []byte(r.Source()+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "apt-get", args...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "APT_CONFIG=" + dir + "/conf", "http_proxy=" + server.URL}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("apt-get %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("update")
	var done []string
	for line := range strings.SplitSeq(run("-s", "install", "?essential", name), "\n") {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "Inst" {
			done = append(done, strings.Join(words[:3], " ")+")")
		}
	}
	slices.Sort(done)
	return strings.Join(done, " ")
}

func TestWhatIsNowhereIsNamed(t *testing.T) {
	needsApt(t)
	m := standard(t)
	lock := solve(t, m, "web")
	m.SetFile("pool/main/post_1_amd64.deb", nil)
	_, err := open(t, m, lock, t.TempDir())
	if errs.CodeOf(err) != locked.CodeGone || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "post 1") {
		t.Errorf("a package that is gone: %v", err)
	}
	m.SetFile("pool/main/post_1_amd64.deb", []byte("another file"))
	if _, err = open(t, m, lock, t.TempDir()); errs.KindOf(err) != errs.Unavailable || !strings.Contains(fmt.Sprint(err), "post_1_amd64.deb") {
		t.Errorf("a package that was changed: %v", err)
	}
}

// TestADamagedArchiveIsMended: the hash decides, not the name.
func TestADamagedArchiveIsMended(t *testing.T) {
	needsApt(t)
	m := standard(t)
	lock, dir := solve(t, m, "web"), t.TempDir()
	a := locked.Archive{Dir: dir, Mirrors: deb.Mirrors{Main: base, Security: "http://mirror.example.org/none"}, Upstream: m}
	path, err := a.Bring(t.Context(), lock.Packages[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Bring(t.Context(), lock.Packages[0]); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || fmt.Sprintf("%x", sha256.Sum256(data)) != lock.Packages[0].SHA256 {
		t.Errorf("the archive holds %d other bytes: %v", len(data), err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}
