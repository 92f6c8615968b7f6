package api_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/api"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// gitWorld is an API on a socket with a hosted source, for the real git program.
type gitWorld struct {
	*world
	server *httptest.Server
	url    string // of the repository, without credentials
	source string
}

func newGitWorld(t *testing.T, change ...func(*api.Deps)) *gitWorld {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if testing.Short() {
			t.Skip("needs the program git")
		}
		t.Fatal(err)
	}
	w := &gitWorld{world: newWorld(t, change...)}
	w.server = httptest.NewServer(w.http)
	t.Cleanup(w.server.Close)
	a := w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "images", "hosted": true})
	w.source = a.get(t, "id")
	w.url = w.server.URL + "/v1/git/p/images"
	return w
}

// as is the repository's address with a token in it.
func (w *gitWorld) as(token string) string {
	return strings.Replace(w.url, "http://", "http://token:"+strings.ReplaceAll(token, "@", "%40")+"@", 1)
}

// clone is a folder of one person.
type clone struct {
	t   *testing.T
	dir string
}

func (w *gitWorld) clone(token string, args ...string) clone {
	w.t.Helper()
	c := clone{w.t, filepath.Join(w.t.TempDir(), "clone")}
	if out, err := c.in("", append(append([]string{"clone", "-q"}, args...), w.as(token), c.dir)...); err != nil {
		w.t.Fatalf("git clone: %v\n%s", err, out)
	}
	return c
}

func (c clone) in(dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "HOME="+c.t.TempDir(), "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=init.defaultBranch", "GIT_CONFIG_VALUE_0=main", "GIT_TRACE_CURL_NO_DATA=1",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.test", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.test")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs git in the clone.
func (c clone) must(args ...string) string {
	c.t.Helper()
	out, err := c.in(c.dir, args...)
	if err != nil {
		c.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs git and wants it to fail.
func (c clone) refused(args ...string) string {
	c.t.Helper()
	out, err := c.in(c.dir, args...)
	if _, failed := errors.AsType[*exec.ExitError](err); !failed {
		c.t.Fatalf("git %s: %v, want a failure\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// commit writes files and commits them.
func (c clone) commit(message string, files map[string]string) string {
	c.t.Helper()
	for name, text := range files {
		path := filepath.Join(c.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	c.must("add", "-A")
	c.must("commit", "-q", "-m", message)
	return strings.TrimSpace(c.must("rev-parse", "HEAD"))
}

const (
	baseRecipe = "name: base\nfrom: {release: bookworm}\npackages: [curl]\n"
	webRecipe  = "name: web\nfrom: {recipe: base}\npackages: [nginx]\n"
)

// contains wants all the texts in what git showed.
func contains(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("git did not show %q:\n%s", text, out)
		}
	}
}

func (w *gitWorld) builds() []build.Build {
	w.t.Helper()
	bs, err := w.db.ListBuilds(w.t.Context(), listing.All().Where("source_id", w.source))
	w.must(err)
	return bs
}

func TestGitPushTellsWhatIsBuilt(t *testing.T) {
	w := newGitWorld(t)
	c := w.clone("member@p")
	commit := c.commit("two recipes", map[string]string{"recipes/base.yaml": baseRecipe, "recipes/web.yaml": webRecipe})
	told := w.since()
	out := c.must("push", "-u", "origin", "main")
	contains(t, out, "2 recipes at "+commit[:7], "remote: build of base (family base): "+w.server.URL+"/v1/builds/", "remote: build of web (family web): "+w.server.URL+"/v1/builds/")
	if got := told(); got != "source.pushed build.queued build.queued" {
		t.Errorf("events: %s", got)
	}
	address := regexp.MustCompile(`build of web .*: http://[^/]+(/v1/builds/\S+)`).FindStringSubmatch(out)
	if address == nil {
		t.Fatal("no address of the build")
	}
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, address[1], nil); a.get(t, "commit") != commit || a.get(t, "recipe") != "web" {
		t.Errorf("the build: %s", a.body)
	}
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/sources/"+w.source, nil)
	if a.get(t, "state") != "ready" || a.get(t, "commit") != commit || a.get(t, "ref") != "main" || a.get(t, "url") != "http://example.com/v1/git/p/images" {
		t.Errorf("the source: %s", a.body)
	}
	// Another person's clone has it all; a change of one recipe builds one.
	other := w.clone("reader@p")
	if got := strings.TrimSpace(other.must("rev-parse", "HEAD")); got != commit {
		t.Errorf("the clone is at %s", got)
	}
}

func TestGitPushOfAFaultyRecipeStoresNothing(t *testing.T) {
	w := newGitWorld(t)
	c := w.clone("member@p")
	c.commit("faults", map[string]string{
		"recipes/base.yaml": baseRecipe,
		"recipes/web.yaml":  "name: web\nfrom: {recipe: base}\n\npackages:\n  - nginx\n  - 7\npakages: [x]\n",
	})
	out := c.refused("push", "origin", "main")
	contains(t, out, "remote: recipes/web.yaml:6: packages[1]: expected text", "remote: recipes/web.yaml:7: pakages: unknown field",
		"2 faults in 1 recipe: nothing was stored", "! [remote rejected] main -> main (2 faults in the recipes)")
	repo, err := w.db.FindRepository(t.Context(), w.source, true)
	if err != nil || len(repo.Refs) != 0 || len(repo.Packs) != 0 || repo.Version != 0 {
		t.Errorf("%+v %v", repo, err)
	}
	if len(w.builds()) != 0 {
		t.Error("a refused push was built")
	}
	// The mended recipe passes, on the same terminal.
	c.commit("mended", map[string]string{"recipes/web.yaml": webRecipe})
	contains(t, c.must("push", "origin", "main"), "build of web")
}

func TestGitBuildsOnlyWhatChanged(t *testing.T) {
	w := newGitWorld(t)
	c := w.clone("member@p")
	quiet := "name: quiet\nfrom: {release: bookworm}\ntriggers: {no_push: true}\n"
	c.commit("one", map[string]string{"recipes/base.yaml": baseRecipe, "recipes/quiet.yaml": quiet, "recipes/db.yaml": "name: db\nfrom: {release: bookworm}\n"})
	out := c.must("push", "origin", "main")
	contains(t, out, "no build of quiet: triggers.no_push says so", "build of base", "build of db")
	for _, b := range w.builds() {
		w.must(w.db.UpdateBuild(t.Context(), build.Build{ID: b.ID, ProjectID: "p", State: build.Succeeded, RecipeID: b.RecipeID, SourceID: b.SourceID}))
	}
	c.commit("two", map[string]string{"recipes/base.yaml": strings.Replace(baseRecipe, "curl", "wget", 1), "README.md": "text\n"})
	out = c.must("push", "origin", "main")
	contains(t, out, "no build of db: it did not change", "remote: build of base")
	if n := len(w.builds()); n != 3 {
		t.Errorf("%d builds, want 3", n)
	}
	// A branch that the source does not follow is kept, and not read.
	c.must("checkout", "-q", "-b", "try")
	c.commit("broken, elsewhere", map[string]string{"recipes/base.yaml": "name: 7\n"})
	contains(t, c.must("push", "origin", "try"), "the recipes are read from main, which this push does not move")
	if n := len(w.builds()); n != 3 {
		t.Errorf("%d builds after a push of another branch", n)
	}
}

func TestGitCredentials(t *testing.T) {
	w := newGitWorld(t, func(d *api.Deps) { d.Logins = credentials{} })
	c := w.clone("member@p")
	c.commit("one", map[string]string{"recipes/base.yaml": baseRecipe})
	c.must("push", "-q", "origin", "main")
	try := func(url string, more ...string) (string, error) {
		return c.in(c.dir, append(more, "ls-remote", url)...)
	}
	with := func(user, password string) string {
		return strings.Replace(w.url, "http://", "http://"+user+":"+password+"@", 1)
	}
	for name, good := range map[string]string{
		"application credential": with(strings.Repeat("ab", 16), "s3cret"), "reader's token": w.as("reader@p"), "with .git": w.as("reader@p") + ".git",
	} {
		if out, err := try(good); err != nil || !strings.Contains(out, "refs/heads/main") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	if out, err := try(w.url, "-c", "http.extraHeader=X-Auth-Token: reader@p"); err != nil {
		t.Errorf("X-Auth-Token: %v %s", err, out)
	}
	for name, bad := range map[string]string{
		"nothing": w.url, "wrong secret": with(strings.Repeat("ab", 16), "other"), "forged": w.as("forged"), "other project": w.as("member@q"), "no role": w.as("nobody@p"),
		"no such source": w.as("member@p") + "2",
	} {
		if out, err := try(bad); err == nil || strings.Contains(out, "s3cret") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	c.commit("two", map[string]string{"a": "b"})
	contains(t, c.refused("push", w.as("reader@p"), "main"), "403")
	if a := w.do("", http.MethodGet, "/v1/git/p/images/info/refs?service=git-upload-pack", nil); a.status != http.StatusUnauthorized || a.header.Values("WWW-Authenticate")[0] == "" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// credentials knows one application credential, of a member of p.
type credentials struct{}

func (credentials) Login(_ context.Context, id, secret string) (string, error) {
	if id == strings.Repeat("ab", 16) && secret == "s3cret" {
		return "member@p", nil
	}
	return "", errs.New(errs.Unauthenticated, "kiln.identity.bad_credential", "no such credential")
}

func TestGitHistory(t *testing.T) {
	w := newGitWorld(t)
	c := w.clone("member@p")
	for i := range 6 {
		c.commit("change", map[string]string{"notes/" + strings.Repeat("n", i+1): strings.Repeat("text\n", 500+i)})
		if i%2 == 0 {
			c.must("push", "-q", "origin", "main")
		}
	}
	c.must("tag", "-a", "-m", "first", "v1")
	c.must("push", "-q", "origin", "main", "v1")
	head := strings.TrimSpace(c.must("rev-parse", "HEAD"))

	shallow := w.clone("reader@p", "--depth", "2")
	if n := strings.Count(shallow.must("log", "--oneline"), "\n"); n != 2 {
		t.Errorf("a clone of depth 2 has %d commits", n)
	}
	shallow.must("fetch", "-q", "--depth", "3")
	if n := strings.Count(shallow.must("log", "--oneline"), "\n"); n != 3 {
		t.Errorf("at a depth of 3, it has %d commits", n)
	}
	shallow.must("fetch", "-q", "--unshallow")
	if n := strings.Count(shallow.must("log", "--oneline"), "\n"); n != 6 {
		t.Errorf("the whole history has %d commits", n)
	}
	shallow.must("fsck", "--full", "--strict")

	full := w.clone("reader@p")
	if got := strings.TrimSpace(full.must("rev-parse", "v1^{commit}")); got != head {
		t.Errorf("the tag is at %s", got)
	}
	// A fetch brings what is new, and little else.
	c.commit("later", map[string]string{"later": "x\n"})
	c.must("push", "-q", "origin", "main")
	full.must("pull", "-q", "--ff-only")
	full.must("fsck", "--full", "--strict")

	// The followed branch cannot be removed; others can. History may be rewritten by force, and says so.
	contains(t, c.refused("push", "origin", ":main"), "it cannot be removed")
	c.must("push", "-q", "origin", "main:refs/heads/other")
	c.must("push", "-q", "origin", ":other", ":v1")
	c.must("reset", "-q", "--hard", "HEAD~3")
	c.commit("another way", map[string]string{"other": "x\n"})
	if out := c.refused("push", "origin", "main"); !strings.Contains(out, "rejected") {
		t.Errorf("%s", out)
	}
	contains(t, c.must("push", "--force", "origin", "main"), "remote: refs/heads/main was rewritten")
	contains(t, w.log.String(), "a push rewrote history")

	// A client that was told of the branch before somebody pushed asks for what is an ancestor by now, and gets it. What
	// was rewritten away is nobody's any more.
	ask := func(commit string) answer {
		line := "want " + commit + " ofs-delta\n"
		return w.do("reader@p", http.MethodPost, "/v1/git/p/images/git-upload-pack", fmt.Sprintf("%04x%s00000009done\n", len(line)+4, line),
			"Content-Type", "application/x-git-upload-pack-request")
	}
	if a := ask(strings.TrimSpace(c.must("rev-parse", "HEAD~1"))); a.status != http.StatusOK || !strings.Contains(string(a.body), "PACK") {
		t.Errorf("an ancestor: %d %.200q", a.status, a.body)
	}
	if a := ask(head); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "no ref leads to") {
		t.Errorf("what was rewritten away: %d %.200q", a.status, a.body)
	}
}

func TestGitLimits(t *testing.T) {
	w := newGitWorld(t, func(d *api.Deps) { d.Hosted = packs.Limits{MaxBytes: 64 << 10, MaxFiles: 20} })
	c := w.clone("member@p")
	noise := make([]byte, 80<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	c.commit("large", map[string]string{"large": string(noise)})
	contains(t, c.refused("push", "origin", "main"), "MiB")
	c.must("rm", "-q", "large")
	c.must("commit", "-q", "--amend", "-m", "bomb", "--allow-empty")
	c.commit("bomb", map[string]string{"bomb": strings.Repeat("\x00", 4<<20)})
	contains(t, c.refused("push", "origin", "main"), "MiB unpacked")
	c.must("reset", "-q", "--hard", "HEAD~1")
	files := map[string]string{}
	for i := range 30 {
		files["f"+strings.Repeat("x", i)] = "x"
	}
	c.commit("many", files)
	contains(t, c.refused("push", "origin", "main"), "20 files")
	// Many small pushes are kept as one pack, and history that was pushed away makes room.
	c.must("reset", "-q", "--hard", "HEAD~1")
	for i := range 40 {
		c.commit("small", map[string]string{"small": string(noise[i*1000 : i*1000+1000])})
		c.must("push", "-q", "--force", "origin", "main")
		c.must("reset", "-q", "--hard", "HEAD~1")
	}
	repo, err := w.db.FindRepository(t.Context(), w.source, true)
	if err != nil || len(repo.Packs) > 31 || repo.Bytes > 64<<10 {
		t.Errorf("%d packs, %d bytes, %v", len(repo.Packs), repo.Bytes, err)
	}
	w.clone("reader@p").must("fsck", "--full")
}
