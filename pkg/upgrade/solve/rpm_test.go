package solve_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/rpmrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
)

// rpmWorld is a repository of rpm packages, a planner and an executor of upgrades.
type rpmWorld struct {
	t     *testing.T
	repo  *rpmrepo.Repository
	proxy *mirror.Proxy
	now   time.Time
	plans *solve.Planner
}

// agrees upgrades an image: what that does is what the plan says.
func (w *rpmWorld) agrees(image string, policy upgrade.Policy, p upgrade.Plan) upgrade.Report {
	w.t.Helper()
	r, err := w.upgraded(image, policy)
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(short(p), done(r)); diff != "" {
		w.t.Error("the upgrade does something else: " + diff)
	}
	return r
}

func newRPMWorld(t *testing.T) *rpmWorld {
	t.Helper()
	if testing.Short() {
		t.Skip("runs dnf in a sandbox as root; not in -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	w := &rpmWorld{t: t, repo: rpmrepo.New(t), now: time.Now()}
	var err error
	if w.proxy, err = mirror.New(mirror.Config{Upstreams: []string{rpmrepo.Base}, Dir: t.TempDir(), Transport: w.repo}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.proxy.Close)
	w.plans, err = solve.New(solve.Config{Dir: t.TempDir(), Proxy: w.proxy, Scripts: &scripts.Library{Mirror: w.proxy}, Output: t.Output(), Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.plans.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *rpmWorld) add(packages ...rpmrepo.Package) {
	w.t.Helper()
	for _, p := range packages {
		w.repo.Add(p.Build(w.t))
	}
}

// question is about an image, whose bytes are read and nothing else.
func (w *rpmWorld) question(image string, policy upgrade.Policy) upgrade.Question {
	w.t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := inspect.PackageState(w.t.Context(), bytes.NewReader(data), int64(len(data)), "raw")
	if err != nil {
		w.t.Fatal(err)
	}
	return upgrade.Question{
		ImageID: "image", Release: "9", Architecture: "amd64", State: state, Policy: policy, WorkDir: w.t.TempDir(), Log: w.t.Output(), Repositories: w.repositories(),
	}
}

func (w *rpmWorld) repositories() []upgrade.Repository {
	return []upgrade.Repository{{ID: "own-fixes", BaseURL: rpmrepo.Base, Keys: w.repo.Keys}}
}

func (w *rpmWorld) plan(image string, policy upgrade.Policy) upgrade.Plan {
	w.t.Helper()
	p, err := w.plans.Plan(w.t.Context(), w.question(image, policy))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// upgraded is what the executor makes of the image.
func (w *rpmWorld) upgraded(image string, policy upgrade.Policy) (upgrade.Report, error) {
	w.t.Helper()
	return offline.New(offline.Config{Proxy: w.proxy, Timeout: 2 * time.Minute}).Upgrade(w.t.Context(), upgrade.Request{
		Original: image, OriginalFormat: "raw", WorkDir: w.t.TempDir(), Output: filepath.Join(w.t.TempDir(), "new.raw"), OutputFormat: "raw",
		Repositories: w.repositories(), Policy: policy, Log: w.t.Output(),
	})
}

// short are the changes of a plan as a report of an upgrade has them.
func short(p upgrade.Plan) []string {
	out := []string{}
	for _, c := range p.Changes {
		out = append(out, c.Name+" "+c.From+" > "+c.To)
	}
	return out
}

func done(r upgrade.Report) []string {
	out := []string{}
	for _, c := range r.Packages {
		out = append(out, c.Name+" "+c.From+" > "+c.To)
	}
	return out
}

func kernel(version string) rpmrepo.Package {
	return rpmrepo.Package{
		Name: "kernel-core", Version: version, Fields: "Provides: installonlypkg(kernel)\n", Files: map[string]string{"/boot/vmlinuz-" + version: "kernel " + version},
		Scripts: map[string]string{"posttrans": "echo ram >/boot/initramfs-" + version + ".img"},
	}
}

// TestPlanOfRPM is a plan with everything in it; the upgrade does just that.
func TestPlanOfRPM(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	image := rpmrepo.Image(t, func(tree string) {
		conf := filepath.Join(tree, "etc/dnf/dnf.conf")
		if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{conf: "[main]\nexclude=oth*\n proxy\n", filepath.Join(tree, "boot/initramfs-6.1.img"): "ram"} {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}, kernel("6.1"), rpmrepo.Package{Name: "other", Version: "1"}, rpmrepo.Package{Name: "needy", Version: "1"}, rpmrepo.Package{Name: "grubby", Version: "1", Files: map[string]string{"/usr/share/grubby": "old"}})
	w.add(rpmrepo.Lib("2"), rpmrepo.Tool("2"), kernel("6.2"), rpmrepo.Package{Name: "other", Version: "2"},
		rpmrepo.Package{Name: "needy", Version: "2", Fields: "Requires: nowhere\n"},
		rpmrepo.Package{Name: "sdubby", Version: "1", Fields: "Obsoletes: grubby\nProvides: grubby\n"})
	w.repo.Advise(rpmrepo.Advisory{ID: "EX-1", Type: "security", Severity: "Important", CVEs: []string{"CVE-2026-4242", "CVE-2026-4243"}, Packages: []rpmrepo.Package{rpmrepo.Tool("2")}})
	w.repo.Advise(rpmrepo.Advisory{ID: "EX-0", Type: "security", Severity: "Critical", CVEs: []string{"CVE-2025-1111"}, Packages: []rpmrepo.Package{rpmrepo.Tool("1")}})
	w.repo.Advise(rpmrepo.Advisory{ID: "EX-2", Type: "bugfix", CVEs: []string{"CVE-2026-1"}, Packages: []rpmrepo.Package{rpmrepo.Lib("2")}})
	w.repo.Advise(rpmrepo.Advisory{ID: "EX-3", Type: "security", CVEs: []string{"CVE-2026-2"}, Packages: []rpmrepo.Package{rpmrepo.Lib("3")}})
	w.repo.Publish()
	p := w.plan(image, upgrade.Policy{})
	if diff := cmp.Diff([]string{"grubby 1-1 > ", "kernel-core  > 6.2-1", "lib 1:1-1 > 1:2-1", "sdubby  > 1-1", "tool 1-1 > 2-1"}, short(p)); diff != "" {
		t.Fatal(diff)
	}
	tool := p.Changes[4]
	if diff := cmp.Diff([]string{"CVE-2026-1", "CVE-2026-4242", "CVE-2026-4243"}, p.CVEs); diff != "" || tool.Urgency != "high" || !tool.Security || tool.Suite != "own-fixes" || tool.Source != "tool" ||
		p.Changes[2].Security || tool.Script != upgrade.ScriptNone || p.Changes[1].Script != upgrade.ScriptSafe {
		t.Errorf("%s %+v", diff, tool)
	}
	file, err := w.proxy.Have(t.Context(), tool.URI)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil || info.Size() != tool.Bytes || len(tool.SHA256) != 64 || file.Close() != nil {
		t.Errorf("%v of %+v", info, tool)
	}
	var sum int64
	for _, c := range p.Changes {
		sum += c.Bytes
	}
	if p.Download != sum || p.Grows <= 0 || !p.Kernel || !p.BootLoader || p.PackageKind != "rpm" || p.Group == "" || p.ImageID != "image" {
		t.Errorf("%+v", p)
	}
	if len(p.Held) != 2 || p.Held[0].Name != "needy" || !strings.Contains(p.Held[0].Reason, "nowhere") ||
		p.Held[1] != (upgrade.Held{Name: "other", Version: "1-1", To: "2-1", Reason: "excluded by the image's owner"}) {
		t.Errorf("%+v", p.Held)
	}
	r := w.agrees(image, upgrade.Policy{}, p)
	if diff := cmp.Diff([]string{"needy", "other"}, r.Held); diff != "" {
		t.Error(diff)
	}
}

// pendingFixes is what was found pending for an image.
type pendingFixes []advisory.Pending

func (p pendingFixes) ListPending(context.Context, string) ([]advisory.Pending, error) { return p, nil }

// TestPendingFixesOfRPM: versions are compared by rpm's rules.
func TestPendingFixesOfRPM(t *testing.T) {
	changes := []upgrade.PlannedChange{{PackageRef: upgrade.PackageRef{Name: "tool", Architecture: "x86_64", From: "1.0-1", To: "1.0^git2-1"}, CVEs: []string{"CVE-2026-1"}}}
	fixes := solve.Advisories{Store: pendingFixes{
		{Package: "tool", Fixed: "1.0^git1-1", Architecture: "x86_64", CVEs: []string{"CVE-2026-2", "CVE-2026-1"}, Urgency: "high"},
		{Package: "tool", Fixed: "1.1-1", Architecture: "x86_64", CVEs: []string{"CVE-2026-3"}, Urgency: "critical"},
	}}
	if err := fixes.Fill(t.Context(), "image", advisory.RPM, changes); err != nil {
		t.Fatal(err)
	}
	if c := changes[0]; !slices.Equal(c.CVEs, []string{"CVE-2026-1", "CVE-2026-2"}) || c.Urgency != "high" {
		t.Errorf("%+v", c)
	}
}

// TestPlansOfRPMShareLists: the metadata is fetched once for plans of its age, and an equal question is not solved twice.
func TestPlansOfRPMShareLists(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	image := rpmrepo.Image(t, nil)
	w.add(rpmrepo.Lib("2"))
	w.repo.Publish()
	if got := short(w.plan(image, upgrade.Policy{})); !cmp.Equal(got, []string{"lib 1:1-1 > 1:2-1"}) {
		t.Fatal(got)
	}
	fetched := len(w.repo.Asked())
	w.add(rpmrepo.Lib("3"))
	w.repo.Publish()
	other := rpmrepo.Image(t, nil, rpmrepo.Package{Name: "more", Version: "1"})
	if got := short(w.plan(other, upgrade.Policy{})); !cmp.Equal(got, []string{"lib 1:1-1 > 1:2-1"}) || len(w.repo.Asked()) != fetched {
		t.Errorf("%v after %v", got, w.repo.Asked()[fetched:])
	}
	w.now = w.now.Add(11 * time.Minute)
	if got := short(w.plan(image, upgrade.Policy{})); !cmp.Equal(got, []string{"lib 1:1-1 > 1:3-1"}) {
		t.Errorf("of old metadata: %v", got)
	}
}

// TestSecurityOfRPM: only what the repository's advisories call security fixes.
func TestSecurityOfRPM(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	image := rpmrepo.Image(t, nil, rpmrepo.Package{Name: "dull", Version: "1"})
	w.add(rpmrepo.Lib("2"), rpmrepo.Tool("2"), rpmrepo.Package{Name: "dull", Version: "2"})
	w.repo.Publish()
	only := upgrade.Policy{Security: true}
	if _, err := w.plans.Plan(t.Context(), w.question(image, only)); errs.CodeOf(err) != solve.CodeSecurity || !errs.Is(err, errs.Invalid) {
		t.Errorf("without advisories: %v", err)
	}
	if _, err := w.upgraded(image, only); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "updateinfo") {
		t.Errorf("without advisories: %v", err)
	}
	w.repo.Advise(rpmrepo.Advisory{ID: "EX-1", Type: "security", Severity: "Low", CVEs: []string{"CVE-2026-4242"}, Packages: []rpmrepo.Package{rpmrepo.Tool("2")}})
	w.repo.Advise(rpmrepo.Advisory{ID: "EX-2", Type: "bugfix", Packages: []rpmrepo.Package{{Name: "dull", Version: "2"}}})
	w.repo.Publish()
	w.now = w.now.Add(time.Hour)
	p := w.plan(image, only)
	// The fix needs the library, which no advisory is about.
	if diff := cmp.Diff([]string{"lib 1:1-1 > 1:2-1", "tool 1-1 > 2-1"}, short(p)); diff != "" || len(p.Held) > 0 {
		t.Errorf("%s %v", diff, p.Held)
	}
	w.agrees(image, only, p)
}

// TestRunningOfRPM: packages whose scriptlets need a running system are held, with what needs their new version.
func TestRunningOfRPM(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	base, needs := rpmrepo.Package{Name: "base-data", Version: "1"}, rpmrepo.Package{Name: "reports", Version: "1"}
	image := rpmrepo.Image(t, nil, base, needs)
	base.Version, base.Scripts = "2", map[string]string{"post": "if [ $1 -gt 1 ]; then\npsql -f /usr/share/base.sql\nfi"}
	needs.Version, needs.Fields = "2", "Requires: base-data >= 2\n"
	lib := rpmrepo.Lib("2")
	lib.Scripts = map[string]string{"posttrans": "systemctl daemon-reload || :"}
	w.add(base, needs, lib)
	w.repo.Publish()
	p := w.plan(image, upgrade.Policy{})
	if diff := cmp.Diff([]string{"lib 1:1-1 > 1:2-1"}, short(p)); diff != "" || p.Changes[0].Script != upgrade.ScriptDivert || !strings.HasPrefix(p.Changes[0].Why, "posttrans line 1: systemctl") {
		t.Errorf("%s %+v", diff, p)
	}
	if len(p.Held) != 2 || p.Held[0].Reason != "needs a running system: post line 2: psql -f /usr/share/base.sql" || !strings.HasPrefix(p.Held[1].Reason, "its dependencies cannot be met: ") {
		t.Errorf("%+v", p.Held)
	}
	r := w.agrees(image, upgrade.Policy{}, p)
	ran := []upgrade.Ran{
		{Package: "base-data", Script: upgrade.ScriptRunning, Why: "post line 2: psql -f /usr/share/base.sql"}, {Package: "lib", Script: upgrade.ScriptDivert, Why: p.Changes[0].Why},
	}
	if diff := cmp.Diff(ran, r.Scripts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"base-data", "reports"}, r.Held); diff != "" {
		t.Error(diff)
	}
	boot := upgrade.Policy{Running: upgrade.RunningBoot}
	if _, err := w.plans.Plan(t.Context(), w.question(image, boot)); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "base-data") {
		t.Errorf("a plan with a boot: %v", err)
	}
	if _, err := w.upgraded(image, boot); errs.CodeOf(err) != offline.CodeRunning || !strings.Contains(err.Error(), "base-data") {
		t.Errorf("an upgrade with a boot: %v", err)
	}
}

const streams = `---
document: modulemd
version: 2
data:
  name: tools
  stream: "1"
  version: 1
  context: c1
  arch: x86_64
  summary: s
  description: d
  license: {module: [MIT]}
  artifacts: {rpms: ["tool-0:2-1.x86_64"]}
...
---
document: modulemd
version: 2
data:
  name: tools
  stream: "2"
  version: 1
  context: c2
  arch: x86_64
  summary: s
  description: d
  license: {module: [MIT]}
  artifacts: {rpms: ["tool-0:3-1.x86_64"]}
...
`

// TestModulesOfRPM: what comes of a module is what the image's enabled stream has.
func TestModulesOfRPM(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	image := rpmrepo.Image(t, func(tree string) {
		dir := filepath.Join(tree, "etc/dnf/modules.d")
		err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "tools.module"), []byte("[tools]\nname=tools\nstream=1\nprofiles=\nstate=enabled\n"), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	})
	w.add(rpmrepo.Tool("2"), rpmrepo.Tool("3"), rpmrepo.Lib("3"))
	w.repo.Modules = strings.ReplaceAll(streams, "x86_64", w.repo.Arch())
	w.repo.Publish()
	p := w.plan(image, upgrade.Policy{})
	if diff := cmp.Diff([]string{"lib 1:1-1 > 1:3-1", "tool 1-1 > 2-1"}, short(p)); diff != "" {
		t.Error(diff)
	}
	w.agrees(image, upgrade.Policy{}, p)
}

// TestDamagedDatabaseOfRPM: rpm passes over headers that are damaged. Whatever is, an image with fixes pending is not called good.
func TestDamagedDatabaseOfRPM(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	w.add(rpmrepo.Lib("2"))
	w.repo.Publish()
	for seed := range uint64(3) {
		image := rpmrepo.Image(t, func(tree string) {
			name := filepath.Join(tree, "var/lib/rpm/rpmdb.sqlite")
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewPCG(1, seed))
			for range 20 {
				data[100+random.IntN(len(data)-100)] ^= byte(1 << random.IntN(8))
			}
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		})
		p, err := w.plans.Plan(t.Context(), w.question(image, upgrade.Policy{}))
		if err != nil && !errs.Is(err, errs.Invalid) || err == nil && len(p.Changes) == 0 {
			t.Errorf("%d: %+v %v", seed, p, err)
		}
		r, err := w.upgraded(image, upgrade.Policy{})
		if err != nil && !errs.Is(err, errs.Invalid) || err == nil && r.Unchanged {
			t.Errorf("%d: %+v %v", seed, r, err)
		}
	}
}

// TestNoPlanOfRPM: what cannot be planned, and what the reason is.
func TestNoPlanOfRPM(t *testing.T) {
	t.Parallel()
	w := newRPMWorld(t)
	image := rpmrepo.Image(t, nil)
	w.add(rpmrepo.Lib("2"))
	w.repo.Publish()
	for name, c := range map[string]struct {
		change     func(*upgrade.Question)
		code, says string
		kind       errs.Kind
	}{
		"no repository":       {func(q *upgrade.Question) { q.Repositories = nil }, solve.CodeRequest, "repository", errs.Invalid},
		"another repository":  {func(q *upgrade.Question) { q.Repositories[0].BaseURL = rpmrepo.Base + "/nowhere" }, solve.CodeMirror, "metadata", errs.Unavailable},
		"another machine's":   {func(q *upgrade.Question) { q.Architecture = "riscv64" }, upgrade.CodeNoPlanner, "riscv64", errs.Unavailable},
		"no release":          {func(q *upgrade.Question) { q.Release = "--help" }, solve.CodeRequest, "release", errs.Invalid},
		"a damaged database":  {func(q *upgrade.Question) { q.State.RPM.Database = q.State.RPM.Database[:5000] }, solve.CodeState, "database", errs.Invalid},
		"another place":       {func(q *upgrade.Question) { q.State.RPM.Path = "/etc/../rpmdb.sqlite" }, solve.CodeState, "place", errs.Invalid},
		"options for a shell": {func(q *upgrade.Question) { q.State.RPM.Owner = []byte("[main]\nexclude=$(reboot)\n") }, solve.CodeState, "reboot", errs.Invalid},
	} {
		q := w.question(image, upgrade.Policy{})
		c.change(&q)
		if _, err := w.plans.Plan(t.Context(), q); errs.CodeOf(err) != c.code || !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := newRPMWorld(t)
	stranger.repo.NewKey()
	stranger.add(rpmrepo.Lib("2"))
	stranger.repo.Publish()
	if _, err := stranger.plans.Plan(t.Context(), stranger.question(image, upgrade.Policy{})); errs.CodeOf(err) != solve.CodeMirror || !strings.Contains(err.Error(), "signed") {
		t.Errorf("signed by somebody else: %v", err)
	}
}
