package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	goslo "github.com/databus23/goslo.policy"
	"gopkg.in/yaml.v3"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// override is one line of policy.yaml.
type override struct {
	check string
	where errs.Where
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

func parseFile(path string, data []byte) (map[string]override, error) {
	fault := func(line int, rule, format string, args ...any) error {
		return errs.New(errs.Invalid, "kiln.policy.syntax", format, args...).At(errs.Where{File: path, Line: line, Field: rule})
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		line := 1
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			if n, nerr := strconv.Atoi(m[1]); nerr == nil {
				line = n
			}
		}
		return nil, fault(line, "", "this is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	out := map[string]override{}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" { // a file of comments only, as the sample is
		return out, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fault(root.Line, "", "write one `rule: check` a line")
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if _, twice := out[key.Value]; twice {
			return nil, fault(key.Line, key.Value, "the rule stands in the file twice")
		}
		if value.Kind != yaml.ScalarNode || (value.Tag != "!!str" && value.Tag != "!!null") {
			return nil, fault(value.Line, key.Value, "the check must be a text in quotes")
		}
		check := strings.Join(strings.Fields(value.Value), " ")
		if err := parses(check); err != nil {
			return nil, fault(value.Line, key.Value, "%q is no check of oslo.policy: %v", value.Value, err)
		}
		out[key.Value] = override{check: check, where: errs.Where{File: path, Line: value.Line, Field: key.Value}}
	}
	return out, nil
}

// parses asks goslo about one check alone, because its errors for a whole set name no line.
func parses(check string) (err error) {
	defer func() { // its generated parser was not written for hostile text
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	_, err = goslo.NewEnforcer(map[string]string{"it": check})
	return err
}

// Sample is policy.yaml with every rule, its description, its calls and its scopes, all commented out.
func Sample() string {
	var b strings.Builder
	b.WriteString("# Policy of Kiln. Every rule below is the default; take the # away from a rule to change it.\n" +
		"# Language: https://docs.openstack.org/oslo.policy/latest/\n")
	for _, r := range Defaults() {
		fmt.Fprintf(&b, "\n# %s\n", r.Description)
		for _, o := range r.Operations {
			fmt.Fprintf(&b, "# %s  %s\n", o.Method, o.Path)
		}
		if len(r.Scope) > 0 {
			fmt.Fprintf(&b, "# Scope: %s\n", strings.Join(r.Scope, ", "))
		}
		fmt.Fprintf(&b, "#%q: %q\n", r.Name, r.Check)
	}
	return b.String()
}
