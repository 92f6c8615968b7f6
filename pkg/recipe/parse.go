package recipe

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// MaxBytes is the largest recipe file that is read.
const MaxBytes = 1 << 20

// ParseErrors is every fault of a recipe file, in the order of its lines.
type ParseErrors []*errs.Error

// Error is all faults, one a line.
func (p ParseErrors) Error() string {
	lines := make([]string, len(p))
	for i, e := range p {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each fault to errors.As.
func (p ParseErrors) Unwrap() []error {
	out := make([]error, len(p))
	for i, e := range p {
		out[i] = e
	}
	return out
}

// Parse reads one recipe. The error is ParseErrors: every fault with its file, line and field.
func Parse(file string, data []byte) (*Recipe, error) {
	p := &parser{file: file}
	if len(data) > MaxBytes {
		p.fault(1, "", "kiln.recipe.too_large", "a recipe may have %d bytes at most, this has %d", MaxBytes, len(data))
		return nil, p.problems
	}
	doc := p.document(data)
	if doc == nil {
		return nil, p.problems
	}
	r := &Recipe{Path: file}
	p.decode(doc, reflect.ValueOf(r).Elem(), "")
	r.Plan = r.own(p.line) // the rules look at it; it is made again with the defaults
	p.rules(r)
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b *errs.Error) int { return a.Where.Line - b.Where.Line })
		return nil, p.problems
	}
	r.defaults()
	r.Plan = r.own(p.line)
	return r, nil
}

// document reads the one YAML document of the file; nil where that is a fault.
func (p *parser) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF), err == nil && len(doc.Content) == 0:
		p.fault(1, "", "kiln.recipe.empty", "the file is empty: write at least name and from")
		return nil
	case err != nil:
		p.syntax(err)
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			p.syntax(err)
			return nil
		}
		p.fault(max(more.Line, 1), "", "kiln.recipe.several", "a file is one recipe: put what follows the line --- into a file of its own")
		return nil
	}
	return doc.Content[0]
}

// parser walks the YAML tree beside the Go type, because yaml's own strict mode names no field path.
type parser struct {
	file     string
	problems ParseErrors
	lines    map[string]int // field path to line
}

func (p *parser) fault(line int, field, code, format string, args ...any) {
	p.problems = append(p.problems, errs.New(errs.Invalid, code, format, args...).At(errs.Where{File: p.file, Line: line, Field: field}))
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

func (p *parser) syntax(err error) {
	line := 1
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = max(n, 1)
		}
	}
	p.fault(line, "", "kiln.recipe.syntax", "not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
}

func (p *parser) decode(n *yaml.Node, v reflect.Value, field string) {
	if p.lines == nil {
		p.lines = map[string]int{}
	}
	if _, known := p.lines[field]; !known {
		p.lines[field] = n.Line
	}
	if n.Kind == yaml.AliasNode {
		// Anchors make recipes hard to read and allow documents that grow without bound.
		p.fault(n.Line, field, "kiln.recipe.alias", "anchors and aliases are not allowed in a recipe")
		return
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		if n.Kind != yaml.ScalarNode {
			p.wrongType(n, field, "text")
		} else if err := u.UnmarshalText([]byte(n.Value)); err != nil {
			p.fault(n.Line, field, "kiln.recipe.value", "%s", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		p.mapping(n, v, field)
	case reflect.Slice:
		p.sequence(n, v, field)
	case reflect.Map:
		p.textMap(n, v, field)
	case reflect.Int64:
		p.whole(n, v, field)
	case reflect.Bool:
		p.truth(n, v, field)
	default:
		p.text(n, v, field)
	}
}

func (p *parser) truth(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		p.wrongType(n, field, "true or false")
		return
	}
	v.SetBool(strings.EqualFold(n.Value, "true"))
}

func (p *parser) mapping(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		p.wrongType(n, field, "a mapping")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := join(field, key.Value)
		index, known := fieldIndex(v.Type(), key.Value)
		switch {
		case key.Kind != yaml.ScalarNode:
			p.fault(key.Line, field, "kiln.recipe.wrong_type", "the name of a field is plain text, not %s", nodeName(key))
		case !known:
			p.fault(key.Line, path, "kiln.recipe.unknown_field", "unknown field %q; known here: %s", key.Value, strings.Join(fieldNames(v.Type()), ", "))
		case seen[key.Value]:
			p.fault(key.Line, path, "kiln.recipe.duplicate_field", "field %q is given twice", key.Value)
		default:
			p.lines[path] = key.Line
			p.decode(value, v.Field(index), path)
			p.oneOfWords(v.Type().Field(index).Tag.Get("enum"), v.Field(index), path)
		}
		seen[key.Value] = true
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if name := f.Tag.Get("yaml"); f.Tag.Get("required") == "true" && !seen[name] {
			p.fault(n.Line, join(field, name), "kiln.recipe.missing_field", "field %q is missing", name)
		}
	}
	p.exactlyOne(v, field, seen)
}

// exactlyOne are the types of which exactly one part is given. A File's content may be empty, no other part may.
var exactlyOne = map[reflect.Type][]string{
	reflect.TypeFor[From]():   {"release", "recipe", "family"},
	reflect.TypeFor[File]():   {"content", "source"},
	reflect.TypeFor[Script](): {"run", "source"},
	reflect.TypeFor[Test]():   {"run", "source"},
	reflect.TypeFor[Step]():   {"packages", "users", "files", "run", "source", "services"},
}

func (p *parser) exactlyOne(v reflect.Value, field string, seen map[string]bool) {
	parts := exactlyOne[v.Type()]
	var given []string
	for _, name := range parts {
		if seen[name] {
			given = append(given, name)
		}
	}
	if len(parts) > 0 && len(given) != 1 {
		p.fault(p.line(field), field, "kiln.recipe.value", "give exactly one of %s", words(parts, "and"))
		return
	}
	for _, name := range given {
		index, _ := fieldIndex(v.Type(), name)
		if f := v.Field(index); name != "content" && (f.IsZero() || f.Kind() == reflect.Slice && f.Len() == 0 || emptyServices(f)) {
			p.value(join(field, name), "%s is empty", name)
		}
	}
}

func emptyServices(v reflect.Value) bool {
	s, ok := reflect.TypeAssert[Services](v)
	return ok && s.empty()
}

// oneOfWords holds a text, or each of a list, against the words that its field may have.
func (p *parser) oneOfWords(enum string, v reflect.Value, field string) {
	known := strings.Fields(enum)
	check := func(v reflect.Value, field string) {
		if len(known) > 0 && v.String() != "" && !slices.Contains(known, v.String()) {
			p.value(field, "%q: give %s", v.String(), words(known, "or"))
		}
	}
	switch v.Kind() {
	case reflect.String:
		check(v, field)
	case reflect.Slice:
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.String {
				check(v.Index(i), fmt.Sprintf("%s[%d]", field, i))
			}
		}
	}
}

// words joins a, b and c.
func words(list []string, last string) string {
	if len(list) == 1 {
		return list[0]
	}
	return strings.Join(list[:len(list)-1], ", ") + " " + last + " " + list[len(list)-1]
}

func (p *parser) sequence(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.SequenceNode {
		p.wrongType(n, field, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		p.decode(item, out.Index(i), fmt.Sprintf("%s[%d]", field, i))
	}
	v.Set(out)
}

func (p *parser) textMap(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		p.wrongType(n, field, "a mapping of names to texts")
		return
	}
	out := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, elem := n.Content[i], reflect.New(v.Type().Elem()).Elem()
		path := join(field, key.Value)
		switch {
		case key.Kind != yaml.ScalarNode:
			p.fault(key.Line, field, "kiln.recipe.wrong_type", "a name is plain text, not %s", nodeName(key))
			continue
		case out.MapIndex(reflect.ValueOf(key.Value)).IsValid():
			p.fault(key.Line, path, "kiln.recipe.duplicate_field", "%q is given twice", key.Value)
			continue
		}
		p.decode(n.Content[i+1], elem, path)
		out.SetMapIndex(reflect.ValueOf(key.Value), elem)
	}
	v.Set(out)
}

func (p *parser) text(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.wrongType(n, field, "text")
		return
	}
	// A number or a boolean where text belongs is the most common slip (mode: 0644, version: 1.10).
	if n.Tag != "!!str" {
		p.fault(n.Line, field, "kiln.recipe.wrong_type", "expected text, found %s: put it in quotes: %q", tagName(n.Tag), n.Value)
		return
	}
	if strings.ContainsRune(n.Value, 0) {
		p.fault(n.Line, field, "kiln.recipe.value", "a text has no zero bytes")
		return
	}
	v.SetString(n.Value)
}

func (p *parser) wrongType(n *yaml.Node, field, want string) {
	p.fault(n.Line, field, "kiln.recipe.wrong_type", "expected %s, found %s", want, nodeName(n))
}

func nodeName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return tagName(n.Tag)
}

func tagName(tag string) string {
	names := map[string]string{"!!int": "a number", "!!float": "a number", "!!bool": "true or false", "!!null": "nothing", "!!str": "text", "!!timestamp": "a date"}
	if name, ok := names[tag]; ok {
		return name
	}
	return "the type " + tag
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

func fieldIndex(t reflect.Type, name string) (int, bool) {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("yaml") == name && name != "-" {
			return i, true
		}
	}
	return 0, false
}

func fieldNames(t reflect.Type) []string {
	var out []string
	for field := range t.Fields() {
		if name := field.Tag.Get("yaml"); name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

// FirstOf returns the first fault of a ParseErrors error, for callers that can show only one.
func FirstOf(err error) *errs.Error {
	var p ParseErrors
	if errors.As(err, &p) && len(p) > 0 {
		return p[0]
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	return errs.Wrap(err, errs.Invalid, "kiln.recipe.invalid", "the recipe is not valid")
}

// line is that of a field, or of the nearest thing around it that the file has.
func (p *parser) line(field string) int {
	line := p.lines[field]
	for at := field; line == 0 && at != ""; line = p.lines[at] {
		at = at[:max(strings.LastIndexAny(at, ".["), 0)]
	}
	return max(line, 1)
}

// lineOf finds the line of a field in a file that was parsed before.
func lineOf(file string, data []byte, field string) int {
	p := &parser{file: file}
	doc := p.document(data)
	if doc == nil {
		return 1
	}
	p.decode(doc, reflect.ValueOf(&Recipe{}).Elem(), "")
	return p.line(field)
}
