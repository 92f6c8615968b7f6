package recipe_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/recipe"
)

const base = `name: base
from:
  release: bookworm
packages: [openssl]
disk:
  size: 1GiB
kernel:
  arguments: quiet
`

func TestParseNamesEveryFault(t *testing.T) {
	_, err := recipe.Parse("recipes/web.yaml", []byte(`name: Web!
from:
  release: bookworm
  recipe: base
pakages: [nginx]
packages:
  - nginx
  - 7
  - "--allow"
files:
  - path: etc/motd
    content: hello
    mode: 0644
  - path: /etc/x
    source: ../../etc/passwd
disk:
  size: big
output:
  format: vmdk
users: root
scripts:
  - run: "true"
`))
	var problems recipe.ParseErrors
	if !errors.As(err, &problems) {
		t.Fatalf("error %v", err)
	}
	got := err.Error()
	for _, want := range []string{
		`recipes/web.yaml:1: name: "Web!"`,
		"recipes/web.yaml:2: from: give exactly one of release, recipe and family",
		`recipes/web.yaml:5: pakages: unknown field "pakages"; known here: name, family`,
		"recipes/web.yaml:8: packages[1]: expected text, found a number",
		`recipes/web.yaml:9: packages[2]: "--allow" is not a Debian package name`,
		`recipes/web.yaml:11: files[0].path: "etc/motd": give an absolute path`,
		`recipes/web.yaml:13: files[0].mode: expected text, found a number: put it in quotes: "0644"`,
		`recipes/web.yaml:15: files[1].source: "../../etc/passwd" leaves the repository`,
		`recipes/web.yaml:17: disk.size: "big" is not a size`,
		`recipes/web.yaml:19: output.format: "vmdk"`,
		"recipes/web.yaml:20: users: expected a list, found text",
		`recipes/web.yaml:22: scripts[0].name: field "name" is missing`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in:\n%s", want, got)
		}
	}
	if len(problems) != 12 {
		t.Errorf("%d faults:\n%s", len(problems), got)
	}
}

func TestParseRefusesWhatIsNoRecipe(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "list": "- a", "broken": "name: [", "tab": "name:\n\t- x",
		"alias": "name: &a x\nfamily: *a\nfrom: {release: bookworm}",
		"huge":  strings.Repeat("#", recipe.MaxBytes+1),
	} {
		if _, err := recipe.Parse("r.yaml", []byte(data)); err == nil || !strings.Contains(err.Error(), "r.yaml") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestResolveLaysRecipesOverEachOther(t *testing.T) {
	files := fstest.MapFS{
		"recipes/base.yaml": {Data: []byte(base)},
		"recipes/web.yaml": {Data: []byte("name: web\nfamily: web-family\nfrom: {recipe: base}\npackages: [nginx, openssl]\n" +
			"files: [{path: /etc/motd, source: files/motd}]\nkernel: {arguments: console=ttyS0}\n")},
		"files/motd": {Data: []byte("hello")},
	}
	set, err := recipe.Load(files)
	if err != nil || len(set.Faults) > 0 {
		t.Fatal(err, set.Faults)
	}
	r, err := set.Resolve("web")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.Packages, " "); got != "openssl nginx" || r.From.Release != "bookworm" || r.Family != "web-family" {
		t.Errorf("packages %q, from %+v, family %s", got, r.From, r.Family)
	}
	if r.Disk.Size != 1<<30 || r.Kernel.Package != recipe.DefaultKernel || r.Kernel.Arguments != "quiet console=ttyS0" {
		t.Errorf("disk %s, kernel %+v", r.Disk.Size, r.Kernel)
	}
	before, err := set.Digest(r)
	if err != nil {
		t.Fatal(err)
	}
	files["files/motd"].Data = []byte("other")
	after, err := set.Digest(r)
	if err != nil || before == after {
		t.Errorf("the digest does not see a changed file: %s %s %v", before, after, err)
	}
}

func TestFromThatGoesRoundIsRefused(t *testing.T) {
	set, err := recipe.Load(fstest.MapFS{
		"recipes/a.yaml": {Data: []byte("name: a\nfrom:\n  recipe: b\n")},
		"recipes/b.yaml": {Data: []byte("name: b\nfrom:\n  recipe: a\n")},
		"recipes/c.yaml": {Data: []byte("name: c\nfrom:\n  recipe: nobody\n")},
		"recipes/d.yaml": {Data: []byte(base)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"recipes/a.yaml": "recipes/a.yaml:3: from.recipe: the recipe stands on itself: a → b → a",
		"recipes/b.yaml": "recipes/b.yaml:3: from.recipe: the recipe stands on itself: b → a → b",
		"recipes/c.yaml": `recipes/c.yaml:3: from.recipe: there is no valid recipe "nobody"`,
	} {
		if got := set.Faults[file].Error(); !strings.Contains(got, want) {
			t.Errorf("%s: %q", file, got)
		}
	}
	if len(set.Recipes) != 1 || set.Recipes["base"] == nil {
		t.Errorf("valid recipes: %v", set.Recipes)
	}
}

// A symbolic link in the repository must not reach files of the worker.
func TestLinkThatLeavesTheRepositoryIsRefused(t *testing.T) {
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "motd")); err != nil {
		t.Fatal(err)
	}
	text := base + "files:\n  - path: /etc/motd\n    source: motd\n"
	if err := os.WriteFile(filepath.Join(dir, "base.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	set, err := recipe.Load(root.FS())
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Faults["base.yaml"].Error(); !strings.Contains(got, "base.yaml:11: files[0].source") || !strings.Contains(got, "leaves the repository") {
		t.Errorf("faults: %q", got)
	}
}
