package zun

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// field is the JSON schema of one field: as much of JSON Schema as zun.api.controllers.v1.schemas.parameter_types uses,
// with the sentences of Python's jsonschema, because clients show them.
type field struct {
	types    []string // string, number, integer, boolean, array, object, null
	listed   bool     // Python wrote the types as a list
	enum     []any
	min, max *float64
	float    bool // the bounds are floats in zun.conf
	minLen   int
	maxLen   int
	pattern  string
	required []string // of an object
}

func of(types ...string) field { return field{types: types, listed: len(types) > 1} }

func (f field) length(lowest, highest int) field {
	f.minLen, f.maxLen = lowest, highest
	return f
}

func (f field) between(lowest, highest float64) field {
	f.min, f.max = &lowest, &highest
	return f
}

func (f field) like(pattern string) field {
	f.pattern = pattern
	return f
}

func (f field) oneOf(values ...any) field {
	f.enum = values
	return f
}

var (
	boolean     = of("boolean", "string").oneOf(true, "True", "true", false, "False", "false")
	hostName    = of("string").length(1, 255).like(`^[a-zA-Z0-9-._]*$`)
	text        = of("string", "null")
	dict        = of("object", "null")
	list        = of("array", "null")
	nameField   = of("string", "null").length(2, 255).like(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
	memoryField = of("string", "integer", "null").between(4, 8192).like(`^[0-9]+$`)
	repoField   = of("string").length(2, 255).like(`[a-zA-Z0-9][a-zA-Z0-9_.-]`)
)

func cpuField() field {
	f := of("number", "string", "null").between(0.1, 16).like(`^[0-9]*(\.([0-9]+))?$`).length(1, 0)
	f.float = true
	return f
}

// createSchema is the schema of a creation at a microversion: command was a string below 1.20, host came with 1.39,
// entrypoint with 1.40.
func createSchema(version wire.Microversion) map[string]field {
	schema := map[string]field{
		"name": nameField, "image": repoField, "command": list, "cpu": cpuField(), "memory": memoryField,
		"cpu_policy": of("string").oneOf("dedicated", "shared"), "workdir": text, "auto_remove": of("boolean", "null"),
		"image_pull_policy": of("string", "null").oneOf("never", "always", "ifnotpresent", "Never", "Always", "IfNotPresent", nil),
		"labels":            dict, "environment": dict, "restart_policy": {types: []string{"object", "null"}, listed: true, required: []string{"Name"}},
		"interactive": boolean, "tty": boolean, "image_driver": of("string", "null").oneOf("glance", "docker", nil, "None"),
		"security_groups": list, "hints": dict, "mounts": list, "nets": list, "runtime": text, "hostname": hostName,
		"disk":              of("string", "integer", "null").between(1, 160).like(`^[0-9]+$`),
		"availability_zone": of("string", "null").length(1, 255), "auto_heal": boolean, "privileged": boolean,
		"healthcheck": dict, "exposed_ports": dict, "registry": of("string").length(1, 255),
	}
	if !version.AtLeast(1, 20) {
		schema["command"] = text
	}
	if version.AtLeast(1, 39) {
		schema["host"] = hostName
	}
	if version.AtLeast(1, 40) {
		schema["entrypoint"] = list
	}
	return schema
}

var updateSchema = map[string]field{"cpu": cpuField(), "memory": memoryField, "name": nameField, "auto_heal": boolean}

var imageSchema = map[string]field{
	"image_id": of("string", "null").length(2, 255).like(repoField.pattern), "repo": repoField,
	"tag":  of("string", "null").length(2, 255).like(repoField.pattern),
	"size": of("string", "integer", "null").like(`^[0-9]+[b|B|k|K|m|M|g|G]?$`), "host": repoField,
	"image_pull_policy": of("string", "null"),
}

// readBody reads a JSON object and holds it against a schema. What is not JSON is read as empty, as Zun does.
func readBody(c *call, schema map[string]field, required ...string) (map[string]any, error) {
	body := map[string]any{}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		body = map[string]any{}
	}
	for _, name := range slices.Sorted(maps.Keys(body)) {
		if _, known := schema[name]; !known {
			return nil, schemaError("Additional properties are not allowed ('%s' was unexpected)", name)
		}
	}
	for _, name := range required {
		if _, given := body[name]; !given {
			return nil, schemaError("'%s' is a required property", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(body)) {
		if err := schema[name].check(name, body[name]); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// queryOnly refuses query keys that the route does not know.
func queryOnly(c *call, known ...string) error {
	for _, name := range slices.Sorted(maps.Keys(c.URL.Query())) {
		if !slices.Contains(known, name) {
			return schemaError("Additional properties are not allowed ('%s' was unexpected)", name)
		}
	}
	return nil
}

func (f field) check(name string, value any) error {
	keyword, message := f.fault(value)
	if keyword == "" {
		return nil
	}
	shown := python(value)
	if s, plain := value.(string); plain {
		shown = s
	}
	return schemaError("Invalid input for field '%s'.Value: '%s'. %s\n\nFailed validating '%s' in schema['properties']['%s']:\n    %s\n\nOn instance:\n    %s",
		name, shown, message, keyword, name, strings.ReplaceAll(f.python(), "\n", "\n    "), python(value))
}

// fault names the keyword that a value breaks and says it in jsonschema's words.
func (f field) fault(value any) (keyword, message string) {
	if !slices.ContainsFunc(f.types, func(t string) bool { return isA(t, value) }) {
		quoted := make([]string, len(f.types))
		for n, t := range f.types {
			quoted[n] = "'" + t + "'"
		}
		return "type", fmt.Sprintf("%s is not of type %s", python(value), strings.Join(quoted, ", "))
	}
	if f.enum != nil && !slices.Contains(f.enum, value) {
		return "enum", fmt.Sprintf("%s is not one of %s", python(value), python(f.enum))
	}
	if s, isText := value.(string); isText {
		switch {
		case utf8.RuneCountInString(s) < f.minLen:
			return "minLength", python(value) + " is too short"
		case f.maxLen > 0 && utf8.RuneCountInString(s) > f.maxLen:
			return "maxLength", python(value) + " is too long"
		case f.pattern != "" && !regexp.MustCompile(f.pattern).MatchString(s):
			return "pattern", fmt.Sprintf("%s does not match %s", python(value), python(f.pattern))
		}
	}
	if amount, known := numberOf(value); known {
		switch {
		case f.max != nil && amount > *f.max:
			return "maximum", fmt.Sprintf("%s is greater than the maximum of %s", python(value), f.bound(*f.max))
		case f.min != nil && amount < *f.min:
			return "minimum", fmt.Sprintf("%s is less than the minimum of %s", python(value), f.bound(*f.min))
		}
	}
	if object, isObject := value.(map[string]any); isObject {
		for _, key := range f.required {
			if _, given := object[key]; !given {
				return "required", fmt.Sprintf("'%s' is a required property", key)
			}
		}
	}
	return "", ""
}

func isA(kind string, value any) bool {
	switch v := value.(type) {
	case nil:
		return kind == "null"
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case float64:
		return kind == "number" || kind == "integer" && v == math.Trunc(v)
	case []any:
		return kind == "array"
	}
	return kind == "object"
}

func numberOf(value any) (float64, bool) {
	switch v := value.(type) {
	case float64:
		return v, true
	case string:
		amount, err := strconv.ParseFloat(v, 64)
		return amount, err == nil
	}
	return 0, false
}

func (f field) bound(value float64) string {
	if f.float && value == math.Trunc(value) {
		return strconv.FormatFloat(value, 'f', 1, 64)
	}
	return strconv.FormatFloat(value, 'g', -1, 64)
}

// python is the field's schema as pprint.pformat(width=72) shows it: on one line where it fits, else one key a line.
func (f field) python() string {
	var parts []string
	add := func(key, value string) { parts = append(parts, "'"+key+"': "+value) }
	if f.enum != nil {
		add("enum", python(f.enum))
	}
	if f.maxLen > 0 {
		add("maxLength", strconv.Itoa(f.maxLen))
	}
	if f.max != nil {
		add("maximum", f.bound(*f.max))
	}
	if f.minLen > 0 {
		add("minLength", strconv.Itoa(f.minLen))
	}
	if f.min != nil {
		add("minimum", f.bound(*f.min))
	}
	if f.pattern != "" {
		add("pattern", python(f.pattern))
	}
	if f.listed {
		kinds := make([]any, len(f.types))
		for n, t := range f.types {
			kinds[n] = t
		}
		add("type", python(kinds))
	} else {
		add("type", "'"+f.types[0]+"'")
	}
	if oneLine := "{" + strings.Join(parts, ", ") + "}"; len(oneLine) <= 72 {
		return oneLine
	}
	return "{" + strings.Join(parts, ",\n ") + "}"
}

// python is repr() of a JSON value.
func python(value any) string {
	switch v := value.(type) {
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[v]
	case string:
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`).Replace(v) + "'"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		items := make([]string, len(v))
		for n, item := range v {
			items[n] = python(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(raw)
}
