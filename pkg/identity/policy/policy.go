// Package policy decides what a caller may do, in oslo.policy's language: defaults in one Go table, and a
// policy.yaml that overrides their checks. It is held against Debian's python3-oslo.policy by a test.
package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	goslo "github.com/databus23/goslo.policy"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity"
)

// Enforcer answers for one set of rules. It is safe for use by many goroutines.
type Enforcer struct {
	engine *goslo.Enforcer
	scopes map[string][]string
}

// New is an Enforcer of the defaults alone.
func New() (*Enforcer, error) { return build(nil) }

// Load reads policy.yaml over the defaults; path "" and a missing file mean the defaults alone. The error names
// file and line of the first fault: YAML that cannot be read, a check that is not in oslo.policy's language,
// a rule that stands on itself or on one that does not exist. Warnings name rules that Kiln does not know and
// that no other rule uses: most often a misspelling, which would leave the default in force.
func Load(path string) (e *Enforcer, warnings []string, err error) {
	overrides := map[string]override{}
	if path != "" {
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, nil, errs.Wrap(err, errs.Invalid, "kiln.policy.file", "the policy file cannot be read").At(errs.Where{File: path})
		default:
			if overrides, err = parseFile(path, data); err != nil {
				return nil, nil, err
			}
		}
	}
	if e, err = build(overrides); err != nil {
		return nil, nil, err
	}
	return e, unknown(overrides), nil
}

func build(overrides map[string]override) (*Enforcer, error) {
	checks := map[string]string{}
	e := &Enforcer{scopes: map[string][]string{}}
	for _, r := range Defaults() {
		checks[r.Name] = r.Check
		e.scopes[r.Name] = r.Scope
	}
	for name, o := range overrides {
		checks[name] = o.check
	}
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		where := overrides[name].where
		if err := references(checks, name); err != nil {
			return nil, err.At(where)
		}
	}
	engine, err := goslo.NewEnforcer(checks)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.policy.syntax", "the policy cannot be used")
	}
	// oslo.policy compares roles without regard to case (oslo_policy/_checks.py, RoleCheck); goslo does not.
	engine.AddCheck("role", func(c goslo.Context, _, match string) bool {
		return slices.ContainsFunc(c.Roles, func(role string) bool { return strings.EqualFold(role, match) })
	})
	e.engine = engine
	return e, nil
}

var reference = regexp.MustCompile(`\brule:([^\s()]+)`)

// references refuses rules that stand on a missing rule, which would deny silently, or on themselves, which
// would never end.
func references(checks map[string]string, name string) *errs.Error {
	var walk func(name string, above []string) *errs.Error
	walk = func(name string, above []string) *errs.Error {
		if slices.Contains(above, name) {
			return errs.New(errs.Invalid, "kiln.policy.cycle", "the rule stands on itself: %s", strings.Join(append(above, name), " → "))
		}
		above = append(slices.Clone(above), name)
		for _, m := range reference.FindAllStringSubmatch(checks[name], -1) {
			if _, ok := checks[m[1]]; !ok {
				return errs.New(errs.Invalid, "kiln.policy.reference", "rule %q uses rule:%s, which does not exist", name, m[1])
			}
			if err := walk(m[1], above); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(name, nil)
}

func unknown(overrides map[string]override) []string {
	known, used := map[string]bool{}, map[string]bool{}
	for _, r := range Defaults() {
		known[r.Name] = true
	}
	for _, o := range overrides {
		for _, m := range reference.FindAllStringSubmatch(o.check, -1) {
			used[m[1]] = true
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		if !known[name] && !used[name] {
			out = append(out, fmt.Sprintf("%s: there is no rule %q in Kiln's policy", overrides[name].where, name))
		}
	}
	return out
}

// Enforce is nil where the rule lets the caller act on the target, and errs.Forbidden where it does not.
// A rule that does not exist denies. target holds project_id and user_id of the thing, as far as it has them.
func (e *Enforcer) Enforce(caller *identity.Caller, rule string, target map[string]string) error {
	if scope := scopeOf(caller); len(e.scopes[rule]) > 0 && !slices.Contains(e.scopes[rule], scope) {
		return errs.New(errs.Forbidden, "kiln.policy.scope", "this needs a token of scope %s, yours is of scope %s (policy rule %s)",
			strings.Join(e.scopes[rule], " or "), scope, rule)
	}
	if !e.engine.Enforce(rule, goslo.Context{Auth: credentials(caller), Roles: caller.Roles, Request: target}) {
		return errs.New(errs.Forbidden, "kiln.policy.denied", "your roles do not let you do this (policy rule %s)", rule)
	}
	return nil
}

// scopeOf follows oslo_policy/policy.py, Enforcer._enforce_scope.
func scopeOf(c *identity.Caller) string {
	switch {
	case c.System:
		return "system"
	case c.ProjectID == "" && c.DomainID != "":
		return "domain"
	}
	return "project"
}

// credentials leaves out what the token does not have, so that an empty value never equals an empty target.
func credentials(c *identity.Caller) map[string]string {
	auth := map[string]string{"user_id": c.UserID, "project_id": c.ProjectID}
	switch scopeOf(c) {
	case "system":
		auth["system_scope"] = "all"
	case "domain":
		auth["domain_id"] = c.DomainID
	}
	maps.DeleteFunc(auth, func(_, v string) bool { return v == "" })
	return auth
}
