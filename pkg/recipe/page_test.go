package recipe_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// TestPageHoldsEveryField holds docs/recipe.md against the struct tags: each field has a row with its type, its
// text and whether it is needed, and the page has no row of a field that is gone.
func TestPageHoldsEveryField(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/recipe.md")
	if err != nil {
		t.Fatal(err)
	}
	page := map[string]string{}
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(line, "|")
		if len(cells) == 7 && strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			page[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2]) + "|" + strings.TrimSpace(cells[3]) + "|" + strings.TrimSpace(cells[4])
		}
	}
	want := map[string]string{}
	fields(reflect.TypeFor[recipe.Recipe](), "", want)
	for name, row := range want {
		if page[name] != row {
			t.Errorf("docs/recipe.md has for %s\n  %q, the tags say\n  %q", name, page[name], row)
		}
	}
	for name := range page {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/recipe.md has a row for %s, which no recipe has", name)
		}
	}
}

// fields fills rows with "type|needed|text" by the field's path.
func fields(of reflect.Type, prefix string, rows map[string]string) {
	for f := range of.Fields() {
		name := f.Tag.Get("yaml")
		if name == "-" || name == "" {
			continue
		}
		needed := ""
		if f.Tag.Get("required") == "true" {
			needed = "yes"
		}
		kind, inner := kindOf(f.Type)
		rows[prefix+name] = kind + "|" + needed + "|" + f.Tag.Get("doc")
		if inner != nil {
			below := prefix + name + "."
			if kind == "list" {
				below = prefix + name + "[]."
			}
			fields(inner, below, rows)
		}
	}
}

// kindOf is what a reader calls the type, and the struct in it.
func kindOf(of reflect.Type) (string, reflect.Type) {
	switch {
	case of == reflect.TypeFor[recipe.Size]():
		return "size", nil
	case of.Kind() == reflect.Bool:
		return "true or false", nil
	case of.Kind() == reflect.Struct:
		return "map", of
	case of.Kind() == reflect.Map:
		return "map of text", nil
	case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
		return "list", of.Elem()
	case of.Kind() == reflect.Slice:
		return "list of text", nil
	}
	return "text", nil
}
