package policy_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
)

// question is one case of the differential test, in the words of oslo.policy.
type question struct {
	Rule   string            `json:"rule"`
	Target map[string]string `json:"target"`
	Creds  map[string]any    `json:"creds"`
	caller *identity.Caller
}

const oslo = `
import json, sys, warnings
warnings.simplefilter("ignore")
from oslo_config import cfg
from oslo_policy import opts, policy
given = json.load(sys.stdin)
conf = cfg.ConfigOpts()
conf([], default_config_files=[])
opts._register(conf)
conf.set_override("enforce_scope", True, group="oslo_policy")
enforcer = policy.Enforcer(conf, use_conf=False)
for r in given["rules"]:
    enforcer.register_default(policy.RuleDefault(r["name"], r["check"], scope_types=r["scope"] or None))
enforcer.load_rules()
enforcer.set_rules({**{r["name"]: policy._parser.parse_rule(r["check"]) for r in given["rules"]}}, overwrite=True, use_conf=False)
print(json.dumps([bool(enforcer.enforce(q["rule"], q["target"], dict(q["creds"]))) for q in given["questions"]]))
`

// Every rule for every set of roles, in every scope, on own, foreign and unowned things: about 16 000 answers.
func TestEqualsOsloPolicy(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Debian's python3-oslo.policy")
	}
	type ruleText struct {
		Name  string   `json:"name"`
		Check string   `json:"check"`
		Scope []string `json:"scope"`
	}
	given := struct {
		Rules     []ruleText  `json:"rules"`
		Questions []*question `json:"questions"`
	}{}
	for _, r := range policy.Defaults() {
		given.Rules = append(given.Rules, ruleText{r.Name, r.Check, r.Scope})
		given.Questions = append(given.Questions, questions(r.Name)...)
	}
	input, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", oslo)
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oslo.policy did not answer: %v\n%s", err, stderr.String())
	}
	var want []bool
	if err := json.Unmarshal(out, &want); err != nil || len(want) != len(given.Questions) {
		t.Fatalf("%d answers for %d questions: %v", len(want), len(given.Questions), err)
	}
	e, err := policy.New()
	if err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for i, q := range given.Questions {
		got := e.Enforce(q.caller, q.Rule, q.Target)
		if (got == nil) != want[i] {
			t.Errorf("%s for %v on %v: %v, oslo.policy says %v", q.Rule, q.Creds, q.Target, got, want[i])
		}
		if want[i] {
			allowed++
		}
	}
	t.Logf("%d questions, %d allowed", len(want), allowed)
	if allowed == 0 || allowed == len(want) {
		t.Error("the questions tell nothing")
	}
}

func questions(rule string) []*question {
	names := []string{"reader", "member", "Manager", "admin", "service"}
	callers := []identity.Caller{{UserID: "u", ProjectID: "p"}, {UserID: "u", System: true}, {UserID: "u", DomainID: "d"}}
	targets := []map[string]string{{"project_id": "p", "user_id": "u"}, {"project_id": "q"}, {}}
	var out []*question
	for set := range 1 << len(names) {
		roles := []string{}
		for i, name := range names {
			if set&(1<<i) != 0 {
				roles = append(roles, name)
			}
		}
		for _, c := range callers {
			c.Roles = roles
			creds := map[string]any{"roles": roles, "user_id": "u"}
			switch {
			case c.System:
				creds["system_scope"] = "all"
			case c.DomainID != "":
				creds["domain_id"] = c.DomainID
			default:
				creds["project_id"] = c.ProjectID
			}
			for _, target := range targets {
				out = append(out, &question{Rule: rule, Target: target, Creds: creds, caller: &c})
			}
		}
	}
	return out
}
