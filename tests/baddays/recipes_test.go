package baddays

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// badRecipes has one recipe for each fault. links are made as symbolic links.
var badRecipes = map[string]string{
	"recipes/good.yaml":    "name: good\nfrom:\n  release: bookworm\n",
	"recipes/unknown.yaml": "name: unknown\nfrom:\n  release: bookworm\npakages: [curl]\n",
	"recipes/type.yaml":    "name: type\nfrom:\n  release: bookworm\npackages: curl\n",
	"recipes/hen.yaml":     "name: hen\nfrom:\n  recipe: egg\n",
	"recipes/egg.yaml":     "name: egg\nfrom:\n  recipe: hen\n",
	"recipes/outside.yaml": "name: outside\nfrom:\n  release: bookworm\nfiles:\n  - path: /etc/motd\n    source: ../../etc/passwd\n",
	"recipes/link.yaml":    "name: link\nfrom:\n  release: bookworm\nfiles:\n  - path: /etc/motd\n    source: files/motd\n",
	"recipes/script.yaml":  "name: script\nfrom:\n  release: bookworm\nscripts:\n  - name: run\n    source: files/deep/script\n",
	"files/motd":           "->/etc/passwd",
	"files/deep":           "->../..",
}

// faults is where each fault must be said to be.
var faults = map[string]errs.Where{
	"unknown": {File: "recipes/unknown.yaml", Line: 4, Field: "pakages"},
	"type":    {File: "recipes/type.yaml", Line: 4, Field: "packages"},
	"hen":     {File: "recipes/hen.yaml", Line: 3, Field: "from.recipe"},
	"egg":     {File: "recipes/egg.yaml", Line: 3, Field: "from.recipe"},
	"outside": {File: "recipes/outside.yaml", Line: 6, Field: "files[0].source"},
	"link":    {File: "recipes/link.yaml", Line: 6, Field: "files[0].source"},
	"script":  {File: "recipes/script.yaml", Line: 6, Field: "scripts[0].source"},
}

// A repository of faulty recipes is read, each fault is told with its place, and nothing of it can be built.
func TestFaultyRecipesAreNotBuilt(t *testing.T) {
	w := newWorld(t)
	w.startAPI()
	w.start("kiln-worker")
	var src build.Source
	if err := w.member.Post(t.Context(), "/v1/sources", build.NewSource{Name: "bad", URL: "file://" + repository(t, badRecipes)}, &src); err != nil {
		t.Fatal(err)
	}
	if j, log := w.ended(src.JobID, 30*time.Second); j.Error != nil {
		t.Fatalf("the sync: %+v\n%v", j.Error, log)
	}
	recipes, err := client.List[build.Recipe](t.Context(), w.member, "recipes", nil)
	if err != nil || len(recipes) != len(faults)+1 {
		t.Fatalf("%d recipes, error %v", len(recipes), err)
	}
	for _, r := range recipes {
		want, bad := faults[r.Name]
		if bad != (len(r.Problems) > 0) || bad && r.Problems[0].Where != want {
			t.Errorf("recipe %s has the problems %+v, want one at %s", r.Name, r.Problems, want)
		}
	}
	for name, want := range faults {
		w.notBuilt(name, want)
	}
	if n := w.count("SELECT COUNT(*) FROM jobs WHERE kind <> 'source.sync'") + w.count("SELECT COUNT(*) FROM builds"); n != 0 || len(w.images()) != 0 {
		t.Errorf("%d jobs and builds, %d images", n, len(w.images()))
	}
	if left := files(t, filepath.Join(w.dir, "state", "work")); len(left) > 0 {
		t.Errorf("the worker left %v", left)
	}
}

func (w *world) notBuilt(name string, want errs.Where) {
	w.t.Helper()
	err := w.member.Post(w.t.Context(), "/v1/builds", map[string]string{"source": "bad", "recipe": name}, nil)
	var e *client.Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest || len(e.Faults) == 0 || e.Faults[0].Where != want || !strings.HasPrefix(e.Faults[0].Code, "kiln.recipe.") {
		w.t.Errorf("building %s: %v", name, err)
	}
}

// repository makes a git repository with one commit; texts that begin with "->" become symbolic links.
func repository(t *testing.T, tree map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	repo, err := git.PlainInit(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range tree {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, link := strings.CutPrefix(text, "->"); link {
			err = errors.Join(err, os.Symlink(target, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	work, err := repo.Worktree()
	if err == nil {
		err = work.AddWithOptions(&git.AddOptions{All: true})
	}
	if err == nil {
		_, err = work.Commit("recipes", &git.CommitOptions{Author: &object.Signature{Name: "test", Email: "test@example.test", When: time.Now()}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
