package recipe_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// seeds are the recipes that ship with Kiln and some that are known to be bad.
func seeds(f *testing.F) []string {
	f.Helper()
	out := []string{
		base, everything, "", "- a", "name: [", "name: &a [*a]", "name: a\nfrom: {release: bookworm}\ntriggers: {schedule: \"TZ=\"}\n",
		"name: a\nfrom: {recipe: a}\n", "name: a\nfrom: {release: x}\n---\nname: b", "? {a: b}\n: c", "<<: {a: b}", "name: !!binary aGk=",
		"name: a\nfrom: {release: x}\nfiles: [{path: /a, source: ../../secret}]\n", "name: a\nfrom: {release: x}\nfiles: [{path: /a, source: link}]\n",
		"name: a\nfrom: {release: x}\nfiles: [{path: /a, content: \"{{range 99999999999}}{{end}}\", template: true}]\n",
		"name: a\nfrom: {release: x}\nsteps: [{users: [{name: a, sudo: true}]}, {packages: [\"\"]}]\n",
		"name: a\nfrom: {release: x}\ndisk: {size: 4611686018427387904GiB, partitions: [{label: a, size: 9223372036854775807MiB}]}\n",
	}
	files, err := filepath.Glob(shipped + "/recipes/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, string(data))
	}
	return out
}

// placed holds that every fault names its file and a line that the file has.
func placed(t *testing.T, err error, file string, lines int) {
	t.Helper()
	var faults recipe.ParseErrors
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("not a list of faults: %v", err)
	}
	for _, e := range faults {
		if e.Where.File != file || e.Where.Line < 1 || e.Where.Line > lines+1 || e.Code == "" || e.Detail == "" {
			t.Errorf("a fault without its place in %d lines: %+v", lines, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := recipe.Parse("f.yaml", data)
		if (r == nil) == (err == nil) {
			t.Fatalf("recipe %v, error %v", r, err)
		}
		if err != nil {
			placed(t, err, "f.yaml", lineCount(data))
			return
		}
		if r.Name == "" || r.Family == "" {
			t.Errorf("a valid recipe without a name: %+v", r)
		}
		for _, s := range r.Plan {
			if s.Kind == "" || s.Where.Line < 1 || s.Where.File != "f.yaml" {
				t.Errorf("a step without its place: %+v", s)
			}
		}
	})
}

// lineCount counts as YAML 1.1 does, which also ends a line at a carriage return and three characters of Unicode.
func lineCount(data []byte) int {
	return strings.Count(strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(string(data)), "\n") + 1
}

// FuzzLoad lays two recipes, a file and a template into a repository beside a secret that no recipe may read. A link in the
// repository leads to it.
func FuzzLoad(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add([]byte(s), []byte("name: top\nfrom: {recipe: base}\nfiles: [{path: /x, source: x, template: true}]\n"), "{{.Values.site}}")
	}
	const secret = "name: secret\nfrom: {release: bookworm}\n"
	f.Fuzz(func(t *testing.T, one, two []byte, text string) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "repository")
		for name, data := range map[string]string{
			"secret.yaml": secret, "repository/recipes/one.yaml": string(one), "repository/recipes/two.yml": string(two), "repository/x": text,
		} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(outer, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(outer, name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, link := range []string{"link", "recipes/link.yaml"} {
			if err := os.Symlink(filepath.Join(outer, "secret.yaml"), filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		before := listing(t, outer)
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		set, err := recipe.Load(root.FS())
		if err != nil {
			t.Fatal(err)
		}
		lines := map[string]int{"recipes/one.yaml": lineCount(one), "recipes/two.yml": lineCount(two)}
		for file, faults := range set.Faults {
			placed(t, faults, file, lines[file])
		}
		for name := range set.Recipes {
			r, err := set.Resolve(name)
			if err != nil {
				t.Fatalf("a valid recipe does not resolve: %v", err)
			}
			if _, err := set.Digest(r); err != nil {
				t.Errorf("a valid recipe has no digest: %v", err)
			}
			for _, s := range r.Plan {
				for _, file := range s.Files {
					if strings.HasPrefix(file.Source, "link") || strings.Contains(file.Source, "..") {
						t.Errorf("%s reads %s", name, file.Source)
					}
					if file.Template && len(file.Content) < 1<<16 {
						_, _ = recipe.Render("f", file.Content, recipe.TemplateData{Values: s.Values}) // it ends, and does not panic
					}
				}
			}
			if set.Recipes[name].Path == "recipes/link.yaml" {
				t.Error("a link to a recipe outside was followed")
			}
		}
		if after := listing(t, outer); after != before {
			t.Errorf("files before\n%s\nafter\n%s", before, after)
		}
	})
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out.WriteString(name + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
