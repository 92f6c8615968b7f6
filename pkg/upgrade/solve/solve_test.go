package solve_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
)

// world is a repository with two suites, and a planner.
type world struct {
	t     *testing.T
	repo  *aptrepo.Repository
	now   time.Time
	cfg   solve.Config
	plans *solve.Planner
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("runs apt in a mount namespace as root; not in -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	w := &world{t: t, repo: aptrepo.New(t), now: time.Now()}
	w.cfg = solve.Config{Dir: t.TempDir(), Proxy: w.repo, Keyring: w.repo.Keyring, Output: t.Output(), Now: func() time.Time { return w.now }}
	return w
}

// add puts "name version" into a suite with further fields.
func (w *world) add(suite, what, fields string) {
	w.t.Helper()
	name, version, _ := strings.Cut(what, " ")
	w.repo.Add(suite, aptrepo.Package{Name: name, Version: version, Fields: fields})
}

func (w *world) publish() *world {
	w.t.Helper()
	for _, s := range []string{"bookworm", "bookworm-security"} {
		w.repo.Publish(s, "")
	}
	var err error
	if w.plans, err = solve.New(w.cfg); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// installed is a dpkg status of "name version" with further fields behind a colon.
func installed(packages ...string) []byte {
	var b strings.Builder
	for _, p := range packages {
		what, fields, _ := strings.Cut(p, "|")
		w := strings.Fields(what)
		status := "install ok installed"
		if len(w) > 2 {
			status = w[2] + " ok installed"
		}
		fmt.Fprintf(&b, "Package: %s\nStatus: %s\nInstalled-Size: 10\nArchitecture: amd64\nVersion: %s\n%sDescription: test\n of it\n\n", w[0], status, w[1], fields)
	}
	return []byte(b.String())
}

func (w *world) question(status []byte) upgrade.Question {
	return upgrade.Question{
		ImageID: "image", Release: "bookworm", Architecture: "amd64", WorkDir: w.t.TempDir(), Log: w.t.Output(), State: upgrade.PackageState{Status: status},
		Suites: []upgrade.Suite{
			{Mirror: aptrepo.Base, Suite: "bookworm", Components: []string{"main"}}, {Mirror: aptrepo.Base, Suite: "bookworm-security", Components: []string{"main"}},
		},
	}
}

func (w *world) plan(q upgrade.Question) upgrade.Plan {
	w.t.Helper()
	p, err := w.plans.Plan(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// changes are "name from to", held "name: reason".
func changes(p upgrade.Plan) []string {
	out := []string{}
	for _, c := range p.Changes {
		out = append(out, strings.Join([]string{c.Name, c.From + "→" + c.To}, " "))
	}
	return out
}

func held(p upgrade.Plan) []string {
	out := []string{}
	for _, h := range p.Held {
		out = append(out, h.Name+" "+h.Version+"→"+h.To+": "+h.Reason)
	}
	return out
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// fleet is a repository where much is pending.
func fleet(t *testing.T) *world {
	w := newWorld(t)
	w.add("bookworm", "libc 1", "")
	w.add("bookworm", "web 1", "")
	w.add("bookworm-security", "libc 2", "Installed-Size: 30\n")
	w.add("bookworm", "done 2", "Installed-Size: 10\n")
	w.add("bookworm", "web 2", "Depends: libc (>= 2), webdata (= 2)\nInstalled-Size: 12\n")
	w.add("bookworm", "webdata 2", "Installed-Size: 7\n")
	w.add("bookworm", "linux-image-amd64 2", "Depends: linux-image-6.2\n")
	w.add("bookworm", "linux-image-6.2 6.2", "")
	w.add("bookworm", "grub-pc 2", "")
	return w.publish()
}

func TestAPlanTellsWhatWouldChange(t *testing.T) {
	w := fleet(t)
	w.cfg.Fixes = solve.Advisories{Store: pending{{Package: "libc", Architecture: "amd64", Fixed: "2", Urgency: "high", CVEs: []string{"CVE-2026-2", "CVE-2026-1"}}, {Package: "libc", Architecture: "amd64", Fixed: "3", CVEs: []string{"CVE-2026-9"}}}}
	w.publish()
	p := w.plan(w.question(installed("libc 1", "web 1", "linux-image-amd64 1", "other 5")))
	want(t, changes(p), "libc 1→2", "linux-image-6.2 →6.2", "linux-image-amd64 1→2", "web 1→2", "webdata →2")
	c := p.Changes[0]
	if !c.Security || c.Suite != "bookworm-security" || c.Source != "libc" || c.Urgency != "high" || strings.Join(c.CVEs, " ") != "CVE-2026-1 CVE-2026-2" || !strings.HasPrefix(c.URI, aptrepo.Base) || len(c.SHA256) != 64 || c.Bytes == 0 {
		t.Errorf("%+v", c)
	}
	if got := p.Changes[3]; strings.Join(got.Needs, " ") != "libc:amd64 webdata:amd64" || got.Security {
		t.Errorf("web: %+v", got)
	}
	var sum int64
	for _, c := range p.Changes {
		sum += c.Bytes
	}
	if p.Download != sum || p.Grows != (30+12+7-10-10-10)<<10 || !p.Kernel || p.BootLoader || p.Group != upgrade.GroupOf(p.Refs()) || strings.Join(p.CVEs, " ") != "CVE-2026-1 CVE-2026-2" {
		t.Errorf("%+v", p)
	}
	want(t, held(p))
	if p := w.plan(w.question(installed("grub-pc 1"))); !p.BootLoader || p.Kernel {
		t.Errorf("a boot loader: %+v", p)
	}
	if p := w.plan(w.question(installed("done 2"))); len(p.Changes) != 0 || p.Changes == nil {
		t.Errorf("nothing pending: %+v", p)
	}
	for _, name := range w.repo.Asked() {
		if strings.HasSuffix(name, ".deb") {
			t.Errorf("%s was fetched for a plan", name)
		}
	}
}

type pending []advisory.Pending

func (p pending) ListPending(context.Context, string) ([]advisory.Pending, error) { return p, nil }

// Under the plan's own preferences, and nothing else that was asked for, the same comes out.
func TestPreferencesMakeThePlanAgain(t *testing.T) {
	w := fleet(t)
	q := w.question(installed("libc 1", "web 1", "linux-image-amd64 1"))
	q.Policy.Security = true
	p := w.plan(q)
	want(t, changes(p), "libc 1→2")
	again := w.question(q.State.Status)
	again.State.Preferences = map[string][]byte{"preferences": p.Preferences()}
	if got := w.plan(again); cmp.Diff(p.Refs(), got.Refs()) != "" {
		t.Errorf("%v, again %v", changes(p), changes(got))
	}
}

func TestSecurityFixesOnly(t *testing.T) {
	w := newWorld(t)
	w.add("bookworm", "web 2", "")
	w.add("bookworm", "libnew 1", "")
	w.add("bookworm", "libold 2", "")
	w.add("bookworm-security", "ssl 2", "Depends: libnew\n")
	w.add("bookworm-security", "mail 2", "Depends: libold (>= 2)\n")
	w.publish()
	q := w.question(installed("web 1", "ssl 1", "mail 1", "libold 1"))
	q.Policy.Security = true
	p := w.plan(q)
	want(t, changes(p), "libnew →1", "libold 1→2", "mail 1→2", "ssl 1→2")
	want(t, held(p))
}

func TestWhatStaysIsNamedWithItsReason(t *testing.T) {
	w := newWorld(t)
	w.add("bookworm", "web 2", "")
	w.add("bookworm", "mail 2", "Depends: nowhere (>= 7)\n")
	w.add("bookworm", "db 2", "Depends: dblib (= 2)\n")
	w.add("bookworm", "dblib 2", "")
	w.add("bookworm", "pinned 2", "")
	w.add("bookworm", "local 1", "")
	w.publish()
	q := w.question(installed("web 1 hold", "mail 1", "db 1|Depends: dblib (>= 1)\n", "dblib 3~local", "pinned 1", "local 2"))
	q.State.Preferences = map[string][]byte{"preferences.d/own": []byte("Explanation: mine\nPackage: pinned\nPin: version 1\nPin-Priority: 1001\n")}
	p := w.plan(q)
	want(t, changes(p))
	want(t, held(p),
		"db 1→2: its dependencies cannot be met: Depends: dblib (= 2) but 3~local is to be installed",
		"mail 1→2: its dependencies cannot be met: Depends: nowhere (>= 7) but it is not installable",
		"pinned 1→2: the image's preferences pin it",
		"web 1→2: held by the image's owner")
}

func TestPackagesThatDoNotFitTogether(t *testing.T) {
	w := fleet(t)
	for name, c := range map[string]struct {
		state upgrade.PackageState
		code  string
		text  string
	}{
		"a broken dependency":    {upgrade.PackageState{Status: installed("web 1|Depends: nowhere\n")}, solve.CodePackages, "nowhere"},
		"garbage":                {upgrade.PackageState{Status: []byte("Package: a\n\x00\x01")}, solve.CodeState, "/var/lib/dpkg/status"},
		"no package":             {upgrade.PackageState{Status: []byte("\n")}, solve.CodeState, "no package"},
		"a name that is none":    {upgrade.PackageState{Status: installed("../x 1")}, solve.CodeState, "../x"},
		"a version that is none": {upgrade.PackageState{Status: installed("x 1;reboot")}, solve.CodeState, "1;reboot"},
		"a relation with more":   {upgrade.PackageState{Status: installed("x 1|Depends: a `b`\n")}, solve.CodeState, "depends of x"},
		"twice the same":         {upgrade.PackageState{Status: installed("x 1", "x 2")}, solve.CodeState, "twice"},
		"extended states":        {upgrade.PackageState{Status: installed("x 1"), Extended: []byte("Package: a/b\nArchitecture: amd64\n")}, solve.CodeState, "extended_states"},
		"preferences":            {upgrade.PackageState{Status: installed("x 1"), Preferences: map[string][]byte{"preferences": []byte("Package: a\nPin-Priority: high\n")}}, solve.CodeState, "preferences"},
		"architectures":          {upgrade.PackageState{Status: installed("x 1"), Foreign: []byte("i386\n../../x\n")}, solve.CodeState, "/var/lib/dpkg/arch"},
	} {
		q := w.question(nil)
		q.State = c.state
		_, err := w.plans.Plan(t.Context(), q)
		if errs.CodeOf(err) != c.code || !errs.Is(err, errs.Invalid) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*upgrade.Question){
		"no suite": func(q *upgrade.Question) { q.Suites = nil }, "a mirror": func(q *upgrade.Question) { q.Suites[0].Mirror = "file:///etc" },
		"an option": func(q *upgrade.Question) { q.Suites[0].Mirror = "http://x [trusted=yes]" }, "a suite": func(q *upgrade.Question) { q.Suites[0].Suite = "../x" },
		"an architecture": func(q *upgrade.Question) { q.Architecture = "amd64\"" }, "no component": func(q *upgrade.Question) { q.Suites[0].Components = nil },
	} {
		q := w.question(installed("x 1"))
		change(&q)
		if _, err := w.plans.Plan(t.Context(), q); errs.CodeOf(err) != solve.CodeRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// scripted says which packages need a running system.
type scripted map[string]bool

func (s scripted) Classify(_ context.Context, c upgrade.PlannedChange) (upgrade.Script, string, error) {
	if s[c.Name] {
		return upgrade.ScriptRunning, "postinst line 3: psql", nil
	}
	return upgrade.ScriptSafe, "", nil
}

func TestWhatNeedsARunningSystemIsHeldWithItsDependants(t *testing.T) {
	w := newWorld(t)
	w.add("bookworm", "db 2", "")
	w.add("bookworm", "dbtools 2", "Depends: db (>= 2)\n")
	w.add("bookworm", "app 2", "Depends: agent\n")
	w.add("bookworm", "agent 1", "")
	w.add("bookworm", "web 2", "")
	w.cfg.Scripts = scripted{"db": true, "agent": true}
	w.publish()
	q := w.question(installed("db 1", "dbtools 1", "app 1", "web 1"))
	p := w.plan(q)
	want(t, changes(p), "web 1→2")
	if got := strings.Join(held(p), "\n"); len(p.Held) != 3 || !strings.Contains(got, "db 1→2: needs a running system: postinst line 3: psql") || !strings.Contains(got, "dbtools 1→2: its dependencies cannot be met") || !strings.Contains(got, "app 1→2: ") {
		t.Errorf("held:\n%s", got)
	}
	q.Policy.Running = upgrade.RunningBoot
	p = w.plan(q)
	want(t, changes(p), "agent →1", "app 1→2", "db 1→2", "dbtools 1→2", "web 1→2")
	if p.Changes[2].Script != upgrade.ScriptRunning || p.Changes[2].Why == "" || p.Changes[4].Script != upgrade.ScriptSafe {
		t.Errorf("%+v", p.Changes)
	}
}

func TestForeignArchitectures(t *testing.T) {
	w := newWorld(t)
	w.add("bookworm", "lib 2", "Multi-Arch: same\n")
	w.repo.Add("bookworm", aptrepo.Package{Name: "shared", Version: "2", Architecture: "all"})
	w.publish()
	status := append(installed("lib 1|Multi-Arch: same\n"), []byte("Package: lib\nStatus: install ok installed\nArchitecture: i386\nMulti-Arch: same\nVersion: 1\n\nPackage: shared\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n")...)
	q := w.question(status)
	q.State.Foreign = []byte("amd64\ni386\n")
	p := w.plan(q)
	// The repository has no i386, and both must be of one version: apt gives the foreign one up, and the plan says so.
	var ids []string
	for _, c := range p.Changes {
		ids = append(ids, c.ID()+" "+c.From+"→"+c.To)
	}
	want(t, ids, "lib:amd64 1→2", "lib:i386 1→", "shared:all 1→2")
	want(t, p.Changes[0].Needs, "lib:i386")
}

// However many images there are, the lists are fetched once, and again when they are old.
func TestListsAreFetchedOnce(t *testing.T) {
	w := fleet(t)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if _, err := w.plans.Plan(t.Context(), w.question(installed("libc 1"))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	fetched := func() (n int) {
		for _, name := range w.repo.Asked() {
			if strings.HasSuffix(name, "bookworm/InRelease") {
				n++
			}
		}
		return n
	}
	if n := fetched(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	w.now = w.now.Add(time.Hour)
	w.add("bookworm-security", "libc 3", "")
	w.repo.Publish("bookworm-security", "")
	want(t, changes(w.plan(w.question(installed("libc 1")))), "libc 1→3")
	if n := fetched(); n != 2 {
		t.Errorf("fetched %d times after an hour", n)
	}
	if err := w.plans.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(w.cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}

func TestListsThatCannotBeTrustedOrHad(t *testing.T) {
	w := fleet(t)
	for name, spoil := range map[string]func(){
		"another key": func() { w.repo.NewKey(); w.repo.Publish("bookworm", "") },
		"an old one": func() {
			w.repo.Publish("bookworm", "Valid-Until: "+time.Now().Add(-24*time.Hour).UTC().Format(time.RFC1123)+"\n")
		},
		"an empty one": func() { w.repo.Forget() },
	} {
		spoil()
		if _, err := w.plans.Plan(t.Context(), w.question(installed("libc 1"))); errs.CodeOf(err) != solve.CodeMirror || !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(w.cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
	w.cfg.Proxy = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	away, err := solve.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := away.Plan(t.Context(), w.question(installed("libc 1"))); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a mirror that is away: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := away.Plan(ctx, w.question(installed("libc 1"))); !errs.Is(err, errs.Cancelled) {
		t.Errorf("cancelled: %v", err)
	}
}
