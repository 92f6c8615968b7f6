package gitsource_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/gitsource"
)

// repository has two commits: main with files, a link inside and one that leaves, and the tag v1 on the first.
type repository struct {
	dir           string
	first, second plumbing.Hash
	repo          *git.Repository
}

var author = &object.Signature{Name: "Kiln", Email: "kiln@example.test", When: time.Unix(1_700_000_000, 0)}

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{dir: filepath.Join(t.TempDir(), "repo")}
	var err error
	if r.repo, err = git.PlainInitWithOptions(r.dir, &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: "refs/heads/main"}}); err != nil {
		t.Fatal(err)
	}
	work, err := r.repo.Worktree()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	commit := func() plumbing.Hash {
		if err := work.AddGlob("."); err != nil {
			t.Fatal(err)
		}
		hash, err := work.Commit("change", &git.CommitOptions{Author: author})
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	write("recipes/web.yaml", "name: web\n")
	r.first = commit()
	if _, err := r.repo.CreateTag("v1", r.first, &git.CreateTagOptions{Tagger: author, Message: "one"}); err != nil {
		t.Fatal(err)
	}
	write("recipes/web.yaml", "name: web-2\n")
	write("scripts/run.sh", "#!/bin/sh\n")
	for name, target := range map[string]string{"inside": "recipes/web.yaml", "outside": "/etc/passwd", "up": "../../secret"} {
		if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.second = commit()
	return r
}

// serve gives the repository by git's smart HTTP; a request without the password gets 401.
func serve(t *testing.T, dir, password string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if testing.Short() {
			t.Skip("needs git to serve a repository by HTTP")
		}
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given, _ := r.BasicAuth(); password != "" && given != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		args := []string{"-c", "safe.directory=*", "upload-pack", "--stateless-rpc"}
		switch r.URL.Path {
		case "/repo/info/refs":
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000")
			args = append(args, "--advertise-refs")
		case "/repo/git-upload-pack":
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		default:
			http.NotFound(w, r)
			return
		}
		cmd := exec.CommandContext(r.Context(), "git", append(args, dir)...)
		cmd.Stdin, cmd.Stdout = r.Body, w
		if err := cmd.Run(); err != nil && r.Context().Err() == nil {
			t.Logf("git upload-pack: %v", err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/repo"
}

func fetch(t *testing.T, f gitsource.Fetcher, url, ref string) (gitsource.Checkout, error) {
	t.Helper()
	co, err := f.Fetch(t.Context(), url, ref, t.TempDir())
	t.Cleanup(func() {
		if err := co.Close(); err != nil {
			t.Error(err)
		}
	})
	return co, err
}

func TestFetch(t *testing.T) {
	r := newRepository(t)
	for way, url := range map[string]string{"file": "file://" + r.dir, "path": r.dir, "http": serve(t, r.dir, "")} {
		f := gitsource.Fetcher{AllowLocal: true}
		for ref, want := range map[string]plumbing.Hash{
			"": r.second, "main": r.second, "refs/heads/main": r.second, "v1": r.first, "refs/tags/v1": r.first, r.second.String(): r.second,
		} {
			co, err := fetch(t, f, url, ref)
			if err != nil || co.Commit != want.String() {
				t.Errorf("%s, ref %q: commit %s instead of %s, %v", way, ref, co.Commit, want, err)
				continue
			}
			text, err := fs.ReadFile(co.Files, "recipes/web.yaml")
			if want == r.first && string(text) != "name: web\n" || want == r.second && string(text) != "name: web-2\n" || err != nil {
				t.Errorf("%s, ref %q: web.yaml is %q, %v", way, ref, text, err)
			}
		}
	}
}

func TestLinks(t *testing.T) {
	r := newRepository(t)
	co, err := fetch(t, gitsource.Fetcher{AllowLocal: true}, r.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := fs.ReadFile(co.Files, "inside"); err != nil || string(text) != "name: web-2\n" {
		t.Errorf("a link inside: %q, %v", text, err)
	}
	for _, name := range []string{"outside", "up", "../objects", "/etc/passwd"} {
		if text, err := fs.ReadFile(co.Files, name); err == nil {
			t.Errorf("%s gave %q", name, text)
		}
	}
	if info, err := fs.Stat(co.Files, "scripts/run.sh"); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
}

func TestRefusals(t *testing.T) {
	r := newRepository(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if _, err := git.PlainInit(empty, true); err != nil {
		t.Fatal(err)
	}
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	local := gitsource.Fetcher{AllowLocal: true}
	http := serve(t, r.dir, "hush-hush")
	for _, c := range []struct {
		name     string
		f        gitsource.Fetcher
		url, ref string
		kind     errs.Kind
		code     string
		field    string
	}{
		{"no such branch", local, r.dir, "none", errs.Invalid, "kiln.source.ref", "ref"},
		{"no such commit", local, r.dir, strings.Repeat("ab", 20), errs.Invalid, "kiln.source.ref", "ref"},
		{"a ref that is none", local, r.dir, "../../x", errs.Invalid, "kiln.source.ref", "ref"},
		{"no repository", local, t.TempDir(), "", errs.Invalid, "kiln.source.not_found", "url"},
		{"no commit", local, empty, "", errs.Invalid, "kiln.source.empty", "url"},
		{"local not allowed", gitsource.Fetcher{}, "file://" + r.dir, "", errs.Invalid, "kiln.source.local", "url"},
		{"path not allowed", gitsource.Fetcher{}, r.dir, "", errs.Invalid, "kiln.source.local", "url"},
		{"other protocol", gitsource.Fetcher{}, "git://example.test/x", "", errs.Invalid, "kiln.source.url", "url"},
		{"no URL", gitsource.Fetcher{}, "", "", errs.Invalid, "kiln.source.url", "url"},
		{"nobody there", gitsource.Fetcher{}, "http://me:hush-hush@" + address + "/x", "", errs.Unavailable, "kiln.source.away", ""},
		{"wrong password", gitsource.Fetcher{}, strings.Replace(http, "://", "://me:hush-hash@", 1), "", errs.Invalid, "kiln.source.denied", "url"},
		{"not there", gitsource.Fetcher{}, strings.Replace(http, "://", "://me:hush-hush@", 1) + "2", "", errs.Invalid, "kiln.source.not_found", "url"},
		{"no such branch by http", gitsource.Fetcher{}, strings.Replace(http, "://", "://me:hush-hush@", 1), "none", errs.Invalid, "kiln.source.ref", "ref"},
		{"too large", gitsource.Fetcher{AllowLocal: true, MaxBytes: 20}, r.dir, "", errs.TooLarge, "kiln.source.too_large", ""},
		{"too many", gitsource.Fetcher{AllowLocal: true, MaxFiles: 2}, r.dir, "", errs.TooLarge, "kiln.source.too_large", ""},
	} {
		_, err := fetch(t, c.f, c.url, c.ref)
		if !errs.Is(err, c.kind) || errs.CodeOf(err) != c.code {
			t.Errorf("%s: %v (%s)", c.name, err, errs.CodeOf(err))
			continue
		}
		if strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "me:") {
			t.Errorf("%s: the password is in %q", c.name, err)
		}
		if c.field != "" && !strings.HasPrefix(err.Error(), c.field+": ") {
			t.Errorf("%s: %q does not name the field %s", c.name, err, c.field)
		}
	}
	co, err := fetch(t, gitsource.Fetcher{}, strings.Replace(http, "://", "://me:hush-hush@", 1), "main")
	if err != nil || co.Commit != r.second.String() {
		t.Errorf("the right password: %s, %v", co.Commit, err)
	}
}

// TestHostileTree has what git itself would not check out.
func TestHostileTree(t *testing.T) {
	for name, entries := range map[string][]object.TreeEntry{
		"git folder": {{Name: ".GIT", Mode: filemode.Regular}},
		"upwards":    {{Name: "..", Mode: filemode.Regular}},
		"slash":      {{Name: "a/../../b", Mode: filemode.Regular}},
	} {
		r := newRepository(t)
		blob := store(t, r.repo, plumbing.BlobObject, []byte("x"))
		for i := range entries {
			entries[i].Hash = blob
		}
		tree := &object.Tree{Entries: entries}
		commit := &object.Commit{Author: *author, Committer: *author, Message: "x", TreeHash: encode(t, r.repo, tree)}
		head := plumbing.NewHashReference("refs/heads/main", encode(t, r.repo, commit))
		if err := r.repo.Storer.SetReference(head); err != nil {
			t.Fatal(err)
		}
		if _, err := fetch(t, gitsource.Fetcher{AllowLocal: true}, r.dir, "main"); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func store(t *testing.T, repo *git.Repository, kind plumbing.ObjectType, data []byte) plumbing.Hash {
	t.Helper()
	o := repo.Storer.NewEncodedObject()
	o.SetType(kind)
	w, err := o.Writer()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(w, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	hash, err := repo.Storer.SetEncodedObject(o)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func encode(t *testing.T, repo *git.Repository, thing interface {
	Encode(plumbing.EncodedObject) error
}) plumbing.Hash {
	t.Helper()
	o := repo.Storer.NewEncodedObject()
	if err := thing.Encode(o); err != nil {
		t.Fatal(err)
	}
	hash, err := repo.Storer.SetEncodedObject(o)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestTimeAndCancel(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer slow.Close()
	defer close(release)
	if _, err := fetch(t, gitsource.Fetcher{Timeout: 200 * time.Millisecond}, slow.URL+"/x", ""); errs.CodeOf(err) != "kiln.source.timeout" {
		t.Errorf("slow: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := (gitsource.Fetcher{}).Fetch(ctx, slow.URL+"/x", "", t.TempDir()); !errs.Is(err, errs.Cancelled) {
		t.Errorf("cancelled: %v", err)
	}
}
