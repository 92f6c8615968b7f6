package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/kiln-cloud/kiln/pkg/identity/policy"
)

// The specification, the route table and the policy table name the same calls.
func TestRoutesSpecificationAndPolicyAreOne(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(Specification)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := &api{}
	routes := map[string]route{}
	for _, r := range append(a.public(), a.routes()...) {
		routes[r.Method+" "+r.Path] = r
	}
	specified := map[string]*openapi3.Operation{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			specified[method+" "+path] = op
			if _, ok := routes[method+" "+path]; !ok {
				t.Errorf("%s %s is in openapi.yaml and not in the route table", method, path)
			}
		}
	}
	for call, r := range routes {
		op, ok := specified[call]
		if !ok {
			t.Errorf("%s is in the route table and not in openapi.yaml", call)
			continue
		}
		checkQuery(t, call, r, op)
		if r.Rule != "" && !strings.Contains(op.Description, r.Rule) {
			t.Errorf("%s: openapi.yaml does not name its rule %s", call, r.Rule)
		}
	}
	ruled := map[string]string{}
	for _, rule := range policy.Defaults() {
		for _, o := range rule.Operations {
			ruled[o.Method+" "+o.Path] = rule.Name
		}
	}
	for _, r := range a.routes() {
		call := r.Method + " " + r.Path
		if ruled[call] != r.Rule {
			t.Errorf("%s is ruled by %s, the policy table says %q", call, r.Rule, ruled[call])
		}
		delete(ruled, call)
	}
	for call, rule := range ruled {
		t.Errorf("policy rule %s is about %s, which is no route", rule, call)
	}
}

func checkQuery(t *testing.T, call string, r route, op *openapi3.Operation) {
	t.Helper()
	want := slices.Clone(r.query)
	if r.sorts != nil {
		want = append(want, listKeys...)
		if !r.cloud {
			want = append(want, "all_projects")
		}
	}
	var got []string
	for _, p := range op.Parameters {
		if p.Value.In == "query" {
			got = append(got, p.Value.Name)
		}
		if p.Value.Name == "sort" {
			for _, key := range r.sorts {
				if !strings.Contains(p.Value.Description, key) {
					t.Errorf("%s: openapi.yaml does not name the sort key %s", call, key)
				}
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%s takes the query keys %v, openapi.yaml says %v", call, want, got)
	}
}
