// Package solve finds out what an upgrade of an image would do: apt's own solver, or dnf's for rpm systems, runs on this
// host over the package state of the image, which is only read, and over signed lists that all plans share.
package solve

import (
	"context"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Codes of this package's errors. They never change.
const (
	CodeRequest  = "kiln.plan.request"  // the question cannot be answered
	CodeState    = "kiln.plan.state"    // the image's package state is malformed
	CodePackages = "kiln.plan.packages" // the image's packages do not fit together
	CodeMirror   = "kiln.plan.mirror"   // the package lists cannot be had
	CodeHost     = "kiln.plan.host"     // this host lacks something
	CodeSecurity = "kiln.plan.security" // nothing says which packages are security fixes
)

// Scripts tells what a package's maintainer scripts need, and what in them says so.
type Scripts interface {
	Classify(ctx context.Context, c upgrade.PlannedChange) (s upgrade.Script, why string, err error)
}

// Fixes tells which CVEs the changes of an image close and how urgent they are, as far as that is known: it fills CVEs
// and Urgency. kind is that of the packages.
type Fixes interface {
	Fill(ctx context.Context, imageID, kind string, changes []upgrade.PlannedChange) error
}

// Config says how plans are made. Proxy and Dir are needed.
type Config struct {
	Dir     string         // for the lists; made where it is missing, and swept when a Planner is made
	Proxy   mirror.Handler // a forward proxy to the mirrors
	Keyring string         // of the indexes; default deb.DefaultKeyring
	MaxAge  time.Duration  // of the lists; default 10 minutes
	Scripts Scripts        // nil: scripts are not looked at, and nothing is held because of them
	Fixes   Fixes          // nil: plans name no CVEs
	Output  io.Writer      // what apt says; default nowhere
	Now     func() time.Time
	Log     logrus.FieldLogger
}

// Planner implements upgrade.Planner. It may be used at the same time.
type Planner struct {
	cfg     Config
	mu      sync.Mutex
	shelves map[string]*shelf
}

var _ upgrade.Planner = (*Planner)(nil)

// New makes a Planner and removes what a killed one left in its folder.
func New(cfg Config) (*Planner, error) {
	if cfg.Keyring == "" {
		cfg.Keyring = deb.DefaultKeyring
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = 10 * time.Minute
	}
	if cfg.Output == nil {
		cfg.Output = io.Discard
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	_, err := disk.Sweep(cfg.Dir)
	return &Planner{cfg: cfg, shelves: map[string]*shelf{}}, err
}

// Close removes the lists. No plan may be under way.
func (p *Planner) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, s := range p.shelves {
		if s.now != nil {
			s.now.stale = true
			if err := s.now.dropUnused(); err != nil {
				return err
			}
		}
		delete(p.shelves, key)
	}
	return nil
}

// maxRounds bounds how often one plan is solved again because of what its packages' scripts need.
const maxRounds = 6

// Plan implements upgrade.Planner. errs.Invalid CodeState where the image's package state is malformed, CodePackages
// where its packages do not fit together; errs.Unavailable CodeMirror where the lists cannot be had.
func (p *Planner) Plan(ctx context.Context, q upgrade.Question) (upgrade.Plan, error) {
	var none upgrade.Plan
	if err := check(q); err != nil {
		return none, err
	}
	if q.State.RPM != nil {
		return p.planRPM(ctx, q)
	}
	st, err := readState(q)
	if err != nil {
		return none, err
	}
	w := wanted{suites: q.Suites, archs: append([]string{st.native}, st.foreign...)}
	l, err := p.lists(ctx, w)
	if err != nil {
		return none, err
	}
	defer p.shelf(w.key()).back(l) //nolint:errcheck // the sweep takes what cannot be removed
	solved, err := l.memory.once(q, func() (upgrade.Plan, error) {
		j := &job{Planner: p, q: q, state: st, lists: l, hold: map[string]string{}, pins: map[string]string{}}
		if err := j.solve(ctx); err != nil {
			return none, err
		}
		return j.plan(ctx)
	})
	if err != nil {
		return none, err
	}
	return p.finish(ctx, q, solved)
}

// finish makes what was solved the plan of one image.
func (p *Planner) finish(ctx context.Context, q upgrade.Question, solved upgrade.Plan) (upgrade.Plan, error) {
	out := solved
	out.ImageID, out.CreatedAt, out.CVEs = q.ImageID, p.cfg.Now().UTC(), []string{}
	out.Changes, out.Held = slices.Clone(solved.Changes), slices.Clone(solved.Held)
	for i := range out.Changes {
		out.Changes[i].CVEs = slices.Clone(out.Changes[i].CVEs)
	}
	if p.cfg.Fixes != nil && len(out.Changes) > 0 {
		if err := p.cfg.Fixes.Fill(ctx, out.ImageID, out.PackageKind, out.Changes); err != nil {
			return out, err
		}
	}
	for i := range out.Changes {
		if out.Changes[i].CVEs == nil {
			out.Changes[i].CVEs = []string{}
		}
		out.CVEs = append(out.CVEs, out.Changes[i].CVEs...)
	}
	slices.Sort(out.CVEs)
	out.CVEs = slices.Compact(out.CVEs)
	return out, nil
}

func check(q upgrade.Question) error {
	bad := func(format string, args ...any) error { return errs.New(errs.Invalid, CodeRequest, format, args...) }
	switch {
	case len(q.Suites) == 0 && q.State.RPM == nil:
		return bad("no suite is named to take upgrades from")
	case len(q.Repositories) == 0 && q.State.RPM != nil:
		return bad("no rpm repository is named to take upgrades from")
	case !archRule.MatchString(q.Architecture):
		return bad("%q is no architecture", q.Architecture)
	case q.WorkDir == "":
		return bad("a plan needs a work folder")
	}
	for _, s := range q.Suites {
		if problem := s.Problem(); problem != "" {
			return bad("%s", problem)
		}
	}
	for _, r := range q.Repositories {
		if problem := r.Problem(); problem != "" {
			return bad("%s", problem)
		}
	}
	return q.Policy.Check()
}

// job is one plan being made.
type job struct {
	*Planner
	q        upgrade.Question
	state    *state
	lists    *lists
	hold     map[string]string // ids of installed packages that are held, with the reason
	pins     map[string]string // further records of preferences, by what they are about
	answer   answer
	changes  []upgrade.PlannedChange
	after    map[string]*unit // the changed packages by id; nil where one is removed
	installs int64            // KiB that the new versions have together
}

// solve asks apt, and asks again while what it would do has packages that need a running system and the policy holds those.
func (j *job) solve(ctx context.Context) error {
	if err := j.ask(ctx); err != nil {
		return err
	}
	if err := j.widen(ctx); err != nil {
		return err
	}
	for range maxRounds {
		if err := j.describe(); err != nil {
			return err
		}
		again, err := j.classify(ctx)
		if err != nil || !again {
			return err
		}
		if err := j.ask(ctx); err != nil {
			return err
		}
	}
	return errs.New(errs.Invalid, CodePackages, "after %d rounds, packages that need a running system are still pulled in by others; ask for the policy running=%s",
		maxRounds, upgrade.RunningBoot)
}

// run asks apt about the image.
func (j *job) run(ctx context.Context, args ...string) (string, error) {
	prefs := map[string][]byte{}
	maps.Copy(prefs, j.state.prefs)
	prefs["0-plan"] = j.records()
	dir, err := layPrivate(j.q.WorkDir, j.state.status(j.hold), j.state.extended, prefs)
	if err != nil {
		return "", disk.NoSpace(err, "the worker's disk")
	}
	output := j.cfg.Output
	if j.q.Log != nil {
		output = io.MultiWriter(output, j.q.Log)
	}
	a := aptRun{private: dir, shared: j.lists.dir, archs: append([]string{j.state.native}, j.state.foreign...), log: output}
	return a.run(ctx, "apt-get", append([]string{"-q", "-y"}, args...)...)
}

func (j *job) ask(ctx context.Context) error {
	out, err := j.run(ctx, "-V", "--print-uris", "dist-upgrade")
	if err != nil {
		return aptFailed(unmetOf(err), errs.Invalid, CodePackages, "the packages of the image do not fit together")
	}
	j.answer = readAnswer(out)
	return nil
}

// fetchesAtOnce bounds how many packages are looked into at the same time; those that the mirror's proxy lacks are fetched.
const fetchesAtOnce = 4

// classify asks what the changes' scripts need. Under the policy hold it holds those that need a running system, and
// reports whether apt must be asked again.
func (j *job) classify(ctx context.Context) (again bool, err error) {
	if j.cfg.Scripts == nil {
		return false, nil
	}
	if err := j.scripts(ctx, j.changes); err != nil {
		return false, err
	}
	for _, c := range j.changes {
		if c.Script != upgrade.ScriptRunning || j.q.Policy.Running == upgrade.RunningBoot {
			continue
		}
		again = true
		id := j.state.id(c.Name, c.Architecture)
		if c.From == "" {
			j.pins["new "+id] = pin(id, "version *", -1)
		} else {
			j.hold[id] = "needs a running system: " + c.Why
		}
	}
	return again, nil
}

// scripts fills in what the scripts of changes need.
func (p *Planner) scripts(ctx context.Context, changes []upgrade.PlannedChange) error {
	if p.cfg.Scripts == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchesAtOnce)
	for i := range changes {
		c := &changes[i]
		if c.To == "" {
			c.Script = upgrade.ScriptSafe // its scripts are those that the image has had all along
			continue
		}
		g.Go(func() (err error) {
			c.Script, c.Why, err = p.cfg.Scripts.Classify(ctx, *c)
			return err
		})
	}
	return g.Wait()
}

// plan is what was solved, without what concerns one image alone.
func (j *job) plan(ctx context.Context) (upgrade.Plan, error) {
	p := upgrade.Plan{
		PackageKind: advisory.Deb, Release: j.q.Release, Architecture: j.q.Architecture, Policy: j.q.Policy, Changes: j.changes, Held: []upgrade.Held{}, CVEs: []string{},
	}
	tie(j.state, p.Changes, j.after)
	held, err := j.held(ctx)
	if err != nil {
		return p, err
	}
	p.Held = append(p.Held, held...)
	for i := range p.Changes {
		c := &p.Changes[i]
		p.Download += c.Bytes
		p.Kernel = p.Kernel || isKernel(c.Name)
		p.BootLoader = p.BootLoader || isBootLoader(c.Name)
	}
	p.Grows = j.grows()
	p.Group = upgrade.GroupOf(p.Refs())
	return p, nil
}
