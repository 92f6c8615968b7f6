package api_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/identity/policy"
)

// least is the least role that each call needs in its own project; everything above it may, too.
// "any" is any role; services may do what a reader or an admin may only look at.
var least = map[string]string{
	"sources:list": "reader", "sources:create": "member", "sources:show": "reader", "sources:delete": "member", "sources:sync": "member",
	"sources:secret": "member", "sources:fetch": "reader", "sources:push": "member",
	"recipes:list": "reader", "recipes:show": "reader", "recipes:validate": "reader", "recipes:schema": "reader", "recipes:plan": "member", "recipes:lock": "member",
	"builds:list": "reader", "builds:create": "member", "builds:show": "reader", "builds:log": "reader",
	"families:list": "reader", "families:create": "member", "families:show": "reader",
	"versions:list": "reader", "versions:show": "reader", "versions:revoke": "manager", "channels:promote": "manager",
	"families:update": "member", "families:retention": "manager", "versions:unrevoke": "manager", "versions:pin": "member", "versions:unpin": "member",
	"channels:rollback": "manager", "channels:history": "reader", "images:lint": "reader",
	"images:list": "reader", "images:show": "reader", "images:inspect": "member", "images:advisories": "reader",
	"images:documents": "reader", "images:document": "reader", "images:diff": "reader", "versions:diff": "reader",
	"advisories:list": "reader", "advisories:show": "reader", "advisories:refresh": "manager", "packages:list": "reader", "cves:show": "reader",
	"images:adopt": "member", "campaigns:list": "reader", "campaigns:create": "member", "campaigns:show": "reader", "campaigns:items": "reader", "campaigns:report": "reader",
	"campaigns:approve": "manager", "campaigns:pause": "member", "campaigns:resume": "member", "campaigns:cancel": "member",
	"upgrade_policies:list": "reader", "upgrade_policies:create": "member", "upgrade_policies:show": "reader", "upgrade_policies:update": "member", "upgrade_policies:delete": "member",
	"upgrades:list": "reader", "upgrades:create": "member", "upgrades:show": "reader",
	"upgrades:plan": "member", "upgrades:plans": "reader", "images:plan": "reader",
	"clusters:list": "admin", "clusters:create": "admin", "clusters:show": "admin", "clusters:update": "admin", "clusters:delete": "admin",
	"copies:list": "reader", "copies:create": "member", "copies:show": "reader", "copies:delete": "member",
	"nodes:list": "admin", "nodes:show": "admin", "workers:list": "admin", "workers:show": "admin", "ledger:list": "admin",
	"workloads:list": "reader", "workloads:create": "member", "workloads:show": "reader", "workloads:delete": "member",
	"jobs:list": "reader", "jobs:show": "reader", "jobs:log": "reader", "jobs:cancel": "member", "logs:search": "reader", "events:follow": "reader",
}

var ladder = []string{"nobody", "reader", "member", "manager", "admin"}

func TestEachRouteForEachRole(t *testing.T) {
	shared := newWorld(t)
	ids := shared.seed()
	for _, rule := range policy.Defaults() {
		if len(rule.Operations) == 0 {
			continue
		}
		name := strings.TrimPrefix(rule.Name, "provisioning:")
		t.Run(name, func(t *testing.T) {
			need, ok := least[name]
			if !ok {
				t.Fatalf("the table of this test does not know %s", name)
			}
			for i, role := range ladder {
				shared.check(t, ids, rule.Operations[0], role, i >= slices.Index(ladder, need))
			}
			looks := rule.Operations[0].Method == http.MethodGet || name == "recipes:validate"
			shared.check(t, ids, rule.Operations[0], "service", looks)
		})
	}
}

// check makes the call; one that is allowed to change things is made in a world of its own.
func (w *world) check(t *testing.T, ids seeded, op policy.Operation, role string, allowed bool) {
	t.Helper()
	if allowed && op.Method != http.MethodGet {
		w = newWorld(t)
		w.seed()
	}
	w.t = t
	path := ids.fill(op.Path)
	if op.Path == "/v1/events" {
		path += "?after=x" // refused behind policy, and no endless answer
	}
	var body any
	if op.Method == http.MethodPost || op.Method == http.MethodPut || op.Method == http.MethodPatch {
		body = map[string]any{}
	}
	a := w.do(role+"@p", op.Method, path, body)
	denied := a.status == http.StatusForbidden || a.status == http.StatusUnauthorized || a.status == http.StatusNotFound
	if allowed == denied {
		t.Errorf("%s %s for %s: %d, want allowed=%v: %s", op.Method, op.Path, role, a.status, allowed, a.body)
	}
	if !allowed && a.status != http.StatusForbidden {
		t.Errorf("%s %s for %s: %d, want 403", op.Method, op.Path, role, a.status)
	}
	if a := w.do("", op.Method, path, body); a.status != http.StatusUnauthorized {
		t.Errorf("%s %s without a token: %d", op.Method, op.Path, a.status)
	}
}

// Things of another project and things that do not exist give one answer, but for the id that was asked for.
func TestNobodyLearnsWhatOthersHave(t *testing.T) {
	unnamed := regexp.MustCompile(`req-[0-9a-f-]+`)
	w := newWorld(t)
	ids := w.seed()
	for _, rule := range policy.Defaults() {
		if len(rule.Operations) == 0 || !strings.Contains(rule.Operations[0].Path, "{") {
			continue
		}
		op := rule.Operations[0]
		need := least[strings.TrimPrefix(rule.Name, "provisioning:")]
		if need == "admin" || strings.HasPrefix(op.Path, "/v1/advisories") { // the cloud's, not a project's
			continue
		}
		t.Run(rule.Name, func(t *testing.T) {
			w.t = t
			var body any
			switch op.Method {
			case http.MethodPut:
				body = map[string]any{"version": "20260305.1"}
			case http.MethodPatch, http.MethodPost:
				body = map[string]any{}
			}
			there, missing := ids.fill(op.Path), ids.missing(op.Path)
			told := w.since()
			foreign, none := w.do("manager@q", op.Method, there, body), w.do("manager@q", op.Method, missing, body)
			if foreign.status != http.StatusNotFound || none.status != http.StatusNotFound {
				t.Fatalf("%s: foreign %d, missing %d, want 404 for both: %s", op.Method, foreign.status, none.status, foreign.body)
			}
			same := func(a answer, path string) string {
				text := unnamed.ReplaceAllString(string(a.body), "req")
				for part := range strings.SplitSeq(path, "/") {
					if len(part) > 3 && !strings.Contains(op.Path, part) {
						text = strings.ReplaceAll(text, part, "ID")
						if plain, err := url.PathUnescape(part); err == nil {
							text = strings.ReplaceAll(text, plain, "ID")
						}
					}
				}
				return text
			}
			if a, b := same(foreign, there), same(none, missing); a != b {
				t.Errorf("the answers differ:\n%s\n%s", a, b)
			}
			if told() != "" {
				t.Errorf("something happened: %s", told())
			}
			if own := w.do("reader@q", op.Method, there, body); need != "reader" && own.status != http.StatusForbidden {
				t.Errorf("a reader of another project: %d, want 403 whether the thing exists or not", own.status)
			}
		})
	}
}

func TestListsShowTheOwnProject(t *testing.T) {
	w := newWorld(t)
	w.seed()
	for _, plural := range []string{"sources", "recipes", "builds", "families", "images", "upgrades", "workloads", "jobs"} {
		count := func(token, query string) int {
			t.Helper()
			var all map[string][]map[string]any
			w.want(http.StatusOK, token, http.MethodGet, "/v1/"+plural+query, nil).into(t, &all)
			return len(all[plural])
		}
		if own, other := count("reader@p", ""), count("manager@q", ""); own == 0 || other != 0 {
			t.Errorf("%s: the own project shows %d, another one %d", plural, own, other)
		}
		if count("admin@q", "") != 0 || count("admin@q", "?all_projects=true") == 0 || count("system", "") == 0 || count("service@s", "?all_projects=true") == 0 {
			t.Errorf("%s: all_projects does not decide what an admin sees", plural)
		}
		if a := w.do("manager@q", http.MethodGet, "/v1/"+plural+"?all_projects=true", nil); a.status != http.StatusForbidden {
			t.Errorf("%s: all_projects for a manager: %d", plural, a.status)
		}
	}
}
