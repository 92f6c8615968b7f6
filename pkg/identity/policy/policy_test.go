package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
)

func caller(project string, roles ...string) *identity.Caller {
	return &identity.Caller{UserID: "u", ProjectID: project, Roles: roles}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRolesOfTheDefaults(t *testing.T) {
	e, err := policy.New()
	if err != nil {
		t.Fatal(err)
	}
	own, foreign := map[string]string{"project_id": "p"}, map[string]string{"project_id": "q"}
	for _, c := range []struct {
		rule   string
		caller *identity.Caller
		target map[string]string
		want   bool
	}{
		{"provisioning:builds:show", caller("p", "reader"), own, true},
		{"provisioning:builds:show", caller("p", "reader"), foreign, false},
		{"provisioning:builds:create", caller("p", "reader"), own, false},
		{"provisioning:builds:create", caller("p", "member"), own, true},
		{"provisioning:builds:create", caller("p", "Member"), own, true}, // oslo compares roles without case
		{"provisioning:channels:promote", caller("p", "member"), own, false},
		{"provisioning:channels:promote", caller("p", "manager"), own, true},
		{"provisioning:channels:promote", caller("p", "manager"), foreign, false},
		{"provisioning:clusters:create", caller("p", "manager"), own, false},
		{"provisioning:clusters:create", caller("p", "admin"), nil, true},
		{"provisioning:builds:show", caller("s", "service"), foreign, true},
		{"provisioning:builds:create", caller("s", "service"), foreign, false},
		{"provisioning:builds:show", caller("p"), own, false},
		{"provisioning:builds:show", caller("", "reader"), map[string]string{"project_id": ""}, false},
		{"provisioning:builds:show", &identity.Caller{UserID: "u", System: true, Roles: []string{"admin"}}, foreign, true},
		{"provisioning:builds:create", &identity.Caller{UserID: "u", System: true, Roles: []string{"admin"}}, own, false},
		{"provisioning:builds:show", &identity.Caller{UserID: "u", DomainID: "d", Roles: []string{"admin"}}, own, false},
		{"provisioning:no:such", caller("p", "admin"), own, false},
	} {
		err := e.Enforce(c.caller, c.rule, c.target)
		if (err == nil) != c.want || (err != nil && !errs.Is(err, errs.Forbidden)) {
			t.Errorf("%s for %v on %v: %v, want allowed=%v", c.rule, c.caller.Roles, c.target, err, c.want)
		}
	}
}

func TestAFileOverridesOneRule(t *testing.T) {
	path := write(t, "# ours\n\"provisioning:builds:create\": >-\n  role:builder\n  and project_id:%(project_id)s\n\"my_rule\": \"role:x\"\n\"provisioning:jobs:list\": \"rule:my_rule\"\n\"provisioning:bilds:list\": \"@\"\n")
	e, warnings, err := policy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]string{"project_id": "p"}
	if err := e.Enforce(caller("p", "builder"), "provisioning:builds:create", own); err != nil {
		t.Error(err)
	}
	if err := e.Enforce(caller("p", "member"), "provisioning:builds:create", own); err == nil {
		t.Error("the default stayed in force beside the override")
	}
	if err := e.Enforce(caller("p", "member"), "provisioning:sources:create", own); err != nil {
		t.Errorf("another rule changed: %v", err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "bilds") || !strings.Contains(warnings[0], path+":7") {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestFaultsNameFileAndLine(t *testing.T) {
	for name, c := range map[string]struct {
		text, code string
		line       int
	}{
		"yaml":      {"\"a\": \"@\"\n\"b\": \"unclosed\n", "kiln.policy.syntax", 2},
		"check":     {"\n\n\"provisioning:jobs:list\": \"role:admin or\"\n", "kiln.policy.syntax", 3},
		"parens":    {"\"provisioning:jobs:list\": \"(role:admin\"\n", "kiln.policy.syntax", 1},
		"list":      {"- a\n- b\n", "kiln.policy.syntax", 1},
		"no text":   {"\"provisioning:jobs:list\": [\"role:admin\"]\n", "kiln.policy.syntax", 1},
		"twice":     {"\"a\": \"@\"\n\"a\": \"!\"\n", "kiln.policy.syntax", 2},
		"reference": {"\"x\": \"@\"\n\"provisioning:jobs:list\": \"rule:nosuch\"\n", "kiln.policy.reference", 2},
		"cycle":     {"\"a\": \"rule:b\"\n\"b\": \"rule:a\"\n", "kiln.policy.cycle", 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.text)
			_, _, err := policy.Load(path)
			var e *errs.Error
			if !errors.As(err, &e) || e.Code != c.code || e.Where.File != path || e.Where.Line != c.line {
				t.Errorf("got %v (%+v), want %s at line %d", err, e, c.code, c.line)
			}
		})
	}
}

func TestNoFileMeansTheDefaults(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "missing.yaml")} {
		if _, warnings, err := policy.Load(path); err != nil || len(warnings) > 0 {
			t.Errorf("%q: %v %v", path, warnings, err)
		}
	}
}

func TestTheSampleIsAFileOfComments(t *testing.T) {
	sample := policy.Sample()
	if _, warnings, err := policy.Load(write(t, sample)); err != nil || len(warnings) > 0 {
		t.Fatalf("the sample as it is: %v %v", warnings, err)
	}
	live := regexp.MustCompile(`(?m)^#"`).ReplaceAllString(sample, `"`)
	if _, warnings, err := policy.Load(write(t, live)); err != nil || len(warnings) > 0 {
		t.Fatalf("the sample with every rule live: %v %v", warnings, err)
	}
	for _, r := range policy.Defaults() {
		if !strings.Contains(sample, r.Name) || !strings.Contains(sample, r.Description) {
			t.Errorf("the sample lacks %s", r.Name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(`"a": "role:x and not (rule:b or project_id:%(project_id)s)"`)
	f.Add("\"a\": \"'x':%(y)s or @ or !\"")
	f.Fuzz(func(t *testing.T, text string) {
		e, _, err := policy.Load(write(t, text))
		if err == nil {
			_ = e.Enforce(caller("p", "member"), "provisioning:jobs:list", nil)
			_ = e.Enforce(caller("p", "member"), "a", nil)
		}
	})
}
