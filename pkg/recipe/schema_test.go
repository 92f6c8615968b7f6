package recipe_test

import (
	"bytes"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/kiln-cloud/kiln/pkg/recipe"
)

const shipped = "../../etc/kiln/recipes"

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := recipe.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("urn:kiln:recipe:1", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:kiln:recipe:1") // also holds it against the meta-schema that it names
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fits(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestSchemaSaysWhatTheParserSays(t *testing.T) {
	t.Parallel()
	s := schema(t)
	files := os.DirFS(shipped)
	seen := 0
	err := fs.WalkDir(files, "recipes", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".yaml") {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		seen++
		if err := fits(t, s, string(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(string(data), "# yaml-language-server: $schema=") {
			t.Errorf("%s does not tell editors its schema", name)
		}
		return nil
	})
	if err != nil || seen < 2 {
		t.Fatal(seen, err)
	}
	if err := fits(t, s, everything); err != nil {
		t.Errorf("a recipe with every field: %v", err)
	}
	for what, text := range map[string]string{
		"nothing":         "{}",
		"unknown field":   "name: a\nfrom: {release: bookworm}\npakages: [x]\n",
		"two bases":       "name: a\nfrom: {release: bookworm, recipe: b}\n",
		"wrong word":      "name: a\nfrom: {release: bookworm}\ndisk: {firmware: efi}\n",
		"wrong size":      "name: a\nfrom: {release: bookworm}\ndisk: {size: big}\n",
		"a number":        "name: a\nfrom: {release: bookworm}\nfiles: [{path: /x, content: x, mode: 644}]\n",
		"no source":       "name: a\nfrom: {release: bookworm}\nfiles: [{path: /x}]\n",
		"empty step":      "name: a\nfrom: {release: bookworm}\nsteps: [{name: x}]\n",
		"output twice":    "name: a\nfrom: {release: bookworm}\noutput: {also: [docker, docker]}\n",
		"no datasource":   "name: a\nfrom: {release: bookworm}\ncloud_init: {datasources: [Cloud]}\n",
		"not a project":   "name: a\nfrom: {release: bookworm}\npublish: {visibility: shared, members: [web team]}\n",
		"wrong need":      "name: a\nfrom: {release: bookworm}\nbuilder: {needs: [\"disk >= 5\"]}\n",
		"true as a text":  "name: a\nfrom: {release: bookworm}\npublish: {protected: \"true\"}\n",
		"step of a step":  "name: a\nfrom: {release: bookworm}\nsteps: [{packages: [\"--x\"]}]\n",
		"urgency unknown": "name: a\nfrom: {release: bookworm}\ntriggers: {advisory: urgent}\n",
	} {
		if fits(t, s, text) == nil {
			t.Errorf("%s: the schema takes it", what)
		}
		if _, err := recipe.Parse("r.yaml", []byte(text)); err == nil {
			t.Errorf("%s: the parser takes it", what)
		}
	}
}

// The sample is what make generate writes.
func TestSchemaSampleIsFresh(t *testing.T) {
	t.Parallel()
	want, err := recipe.Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../etc/kiln/recipe.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("etc/kiln/recipe.schema.json is not what the tags say: run make generate")
	}
}
