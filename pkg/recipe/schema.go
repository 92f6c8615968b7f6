package recipe

import (
	"encoding"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
)

// schemaID names the schema; nothing is served there.
const schemaID = "urn:kiln:recipe:1"

// patterns are the texts that a field may hold, as the rules have them. A field of a step is found without "steps[].".
func patterns() map[string]*regexp.Regexp {
	return map[string]*regexp.Regexp{
		"name": recipeName, "family": recipeName, "from.release": releaseName, "from.recipe": recipeName, "from.family": recipeName,
		"packages[]": packageName, "kernel.package": packageName, "kernel.arguments": kernelArgs,
		"users[].name": userName, "users[].groups[]": userName, "files[].mode": octalMode, "files[].owner": ownerName,
		"services.enable[]": unitName, "services.disable[]": unitName, "builder.needs[]": need, "builder.elements[]": elementName,
		"disk.partitions[].label": partitionLabel, "disk.partitions[].mount": mountPoint, "publish.members[]": projectID, "publish.channel": channelName,
	}
}

var sizeText = `^[0-9]+ ?(MiB|GiB|TiB)$`

// Schema is the JSON Schema (2020-12) of a recipe, made from the tags that the parser reads. What needs more than one
// field, another recipe or a file is told by Parse and Load alone.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Recipe](), "", "")
	s["$schema"], s["$id"] = "https://json-schema.org/draft/2020-12/schema", schemaID
	s["title"], s["description"] = "Recipe", "How one image is made."
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

type node = map[string]any

func schemaOf(t reflect.Type, field, enum string) node {
	text := func() node {
		n := node{"type": "string"}
		if known := strings.Fields(enum); len(known) > 0 {
			n["enum"] = known
		} else if strings.HasSuffix(field, "cloud_init.datasources[]") {
			n["enum"] = datasources
		} else if p := patterns()[strings.TrimPrefix(field, "steps[].")]; p != nil {
			n["pattern"] = p.String()
		}
		return n
	}
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return node{"type": "string", "pattern": sizeText}
	case t.Kind() == reflect.Struct:
		return objectOf(t, field)
	case t.Kind() == reflect.Slice:
		n := node{"type": "array", "items": schemaOf(t.Elem(), field+"[]", enum)}
		if enum != "" {
			n["uniqueItems"] = true
		}
		return n
	case t.Kind() == reflect.Map:
		return node{"type": "object", "additionalProperties": node{"type": "string"}}
	case t.Kind() == reflect.Bool:
		return node{"type": "boolean"}
	}
	return text()
}

func objectOf(t reflect.Type, field string) node {
	properties, required := node{}, []string{}
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		p := schemaOf(f.Type, join(field, name), f.Tag.Get("enum"))
		p["description"] = f.Tag.Get("doc")
		properties[name] = p
		if f.Tag.Get("required") == "true" {
			required = append(required, name)
		}
	}
	n := node{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		n["required"] = required
	}
	var one []node
	for _, name := range exactlyOne[t] {
		one = append(one, node{"required": []string{name}})
	}
	if one != nil {
		n["oneOf"] = one
	}
	return n
}
