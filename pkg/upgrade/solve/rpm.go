package solve

import (
	"context"
	_ "embed" // the plugin
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/hostdnf"
)

// plugin makes dnf write down what it has solved.
//
//go:embed kilnplan.py
var plugin []byte

const (
	dnfTime   = 10 * time.Minute // of one run of dnf
	maxAnswer = 64 << 20         // bytes of what the plugin writes
)

// planRPM plans for an rpm system: the worker's dnf solves over a tree that has nothing of the image but its database, with
// the options under which the upgrade itself is done (pkg/upgrade/hostdnf).
func (p *Planner) planRPM(ctx context.Context, q upgrade.Question) (upgrade.Plan, error) {
	var none upgrade.Plan
	if err := hostdnf.Missing(); err != nil {
		return none, errs.Wrap(err, errs.Unavailable, upgrade.CodeNoPlanner, "this worker cannot plan for rpm systems: install the packages dnf and rpm")
	}
	if hostdnf.Foreign(q.Architecture) {
		return none, errs.New(errs.Unavailable, upgrade.CodeNoPlanner, "the image is for %s: dnf of a worker for %s would find nothing to upgrade in it", q.Architecture, runtime.GOARCH)
	}
	if !hostdnf.IsRelease(q.Release) {
		return none, errs.New(errs.Invalid, CodeRequest, "%.64q is no release of an rpm system (VERSION_ID of its os-release)", q.Release)
	}
	l, err := p.lists(ctx, wanted{repositories: q.Repositories, release: q.Release})
	if err != nil {
		return none, err
	}
	defer p.shelf(wanted{repositories: q.Repositories, release: q.Release}.key()).back(l) //nolint:errcheck // the sweep takes what cannot be removed
	if q.Policy.Security && !l.rpm.security {
		return none, errs.New(errs.Invalid, CodeSecurity, "none of the repositories says which packages are security fixes: they have no updateinfo, so nothing can be chosen by it")
	}
	solved, err := l.memory.once(q, func() (upgrade.Plan, error) {
		j := &rpmJob{Planner: p, q: q, lists: l.rpm, hold: map[string]string{}}
		if err := j.lay(); err != nil {
			return none, err
		}
		session, err := disk.OpenSession(ctx, q.WorkDir)
		if err != nil {
			return none, err
		}
		defer session.Close() //nolint:errcheck // nothing is mounted in it
		j.tree.Session = session
		return j.solve(ctx)
	})
	if err != nil {
		return none, err
	}
	return p.finish(ctx, q, solved)
}

// rpmLists are the metadata of some repositories, as dnf fetched and indexed it.
type rpmLists struct {
	caches   []string // dnf's folders, one for each repository
	security bool     // one of them says what is a security fix
}

// fetchRPM lets dnf fetch the metadata and index it, over a system without packages: nothing of an image is there when what
// all plans share is made.
func (p *Planner) fetchRPM(ctx context.Context, dir string, w wanted) (*rpmLists, error) {
	t, err := p.layRPM(dir, w.release, "var/lib/rpm", nil)
	if err != nil {
		return nil, err
	}
	if err := t.Configure(w.repositories, nil); err != nil {
		return nil, err
	}
	if t.Session, err = disk.OpenSession(ctx, dir); err != nil {
		return nil, err
	}
	defer t.Session.Close() //nolint:errcheck // nothing is mounted in it
	output, err := t.DNF(ctx, true, "--assumeno", "upgrade")
	switch cause := hostdnf.CauseOf(output); {
	case err == nil:
	case errs.CodeOf(err) != sandbox.CodeExit:
		return nil, err
	case cause == hostdnf.Signature:
		return nil, errs.Wrap(err, errs.Unavailable, CodeMirror, "a repository is not signed by a key of its keyring")
	default:
		return nil, errs.Wrap(err, errs.Unavailable, CodeMirror, "the metadata of the repositories cannot be read")
	}
	l := &rpmLists{}
	if l.security, err = t.TellsSecurity(); err != nil {
		return nil, err
	}
	cache := filepath.Join(t.Control, "cache")
	inside, err := os.ReadDir(cache)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeHost, "the metadata of the repositories cannot be read")
	}
	for _, f := range inside {
		if f.IsDir() {
			l.caches = append(l.caches, filepath.Join(cache, f.Name()))
		}
	}
	return l, nil
}

// rpmFolders are those of a tree in which programs may be started.
var rpmFolders = []string{"etc/dnf", "proc", "dev", "run", "tmp"}

// layRPM makes the folders for a run of dnf below dir, with what is known of the image.
func (p *Planner) layRPM(dir, release, database string, st *upgrade.RPMState) (hostdnf.Tree, error) {
	t := hostdnf.Tree{
		Dir: filepath.Join(dir, "tools"), Control: filepath.Join(dir, "control"), Image: filepath.Join(dir, "image"), Release: release,
		Proxy: p.cfg.Proxy, Time: dnfTime, Log: p.cfg.Output,
	}
	var err error
	for _, name := range append([]string{database}, rpmFolders...) {
		err = errors.Join(err, os.MkdirAll(filepath.Join(t.Image, name), 0o755))
	}
	err = errors.Join(err, t.Lay(database), os.Mkdir(filepath.Join(t.Control, "plugins"), 0o755),
		os.WriteFile(filepath.Join(t.Control, "plugins/kilnplan.py"), plugin, 0o644))
	if st != nil && err == nil {
		err = fillImage(t.Image, database, st)
	}
	if err != nil {
		return t, errs.Wrap(disk.NoSpace(err, "the worker's disk"), errs.Internal, CodeHost, "the work folder cannot be filled")
	}
	return t, nil
}

func fillImage(image, database string, st *upgrade.RPMState) error {
	files := map[string][]byte{database + "/rpmdb.sqlite": st.Database}
	if st.OSRelease != nil {
		files["etc/os-release"] = st.OSRelease // names the platform of modules
	}
	if st.Log != nil {
		files[database+"/rpmdb.sqlite-wal"] = st.Log
	}
	for name, text := range st.Modules {
		files["etc/dnf/modules.d/"+filepath.Base(name)] = text
	}
	for name, text := range files {
		path := filepath.Join(image, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// rpmJob is one plan of an rpm system being made.
type rpmJob struct {
	*Planner
	q      upgrade.Question
	lists  *rpmLists
	tree   hostdnf.Tree
	had    []rpm.Package
	hold   map[string]string // "name.architecture" of packages that must stay, or not come, with the reason
	answer rpmAnswer
}

// solve asks dnf, and asks again while what it would do has packages that need a running system.
func (j *rpmJob) solve(ctx context.Context) (upgrade.Plan, error) {
	for range maxRounds {
		if err := j.ask(ctx); err != nil {
			return upgrade.Plan{}, err
		}
		p, err := j.plan()
		if err != nil {
			return p, err
		}
		again, err := j.classify(ctx, p.Changes)
		if err != nil || !again {
			return p, err
		}
	}
	return upgrade.Plan{}, errs.New(errs.Invalid, CodePackages, "after %d rounds, packages that need a running system are still pulled in by others", maxRounds)
}

// classify asks what the scriptlets of the changes need, and holds those that need a running system. Nothing can boot an
// rpm system for them.
func (j *rpmJob) classify(ctx context.Context, changes []upgrade.PlannedChange) (again bool, err error) {
	if err := j.scripts(ctx, changes); err != nil {
		return false, err
	}
	for _, c := range changes {
		switch {
		case c.Script != upgrade.ScriptRunning:
		case j.q.Policy.Running == upgrade.RunningBoot:
			return false, errs.New(errs.Invalid, CodePackages, "%s needs a running system (%s), and rpm systems are not booted in quarantine: ask for the policy running=%s", c.Name, c.Why, upgrade.RunningHold)
		default:
			again = true
			j.hold[c.Name+"."+c.Architecture] = "needs a running system: " + c.Why
		}
	}
	return again, nil
}

// lay fills the folders of the plan.
func (j *rpmJob) lay() error {
	st := j.q.State.RPM
	database := strings.Trim(strings.TrimSuffix(st.Path, "/rpmdb.sqlite"), "/")
	if database != "usr/lib/sysimage/rpm" && database != "var/lib/rpm" {
		return errs.New(errs.Invalid, CodeState, "%.100q is no place of an rpm database", st.Path)
	}
	var err error
	if j.had, err = rpm.ReadDatabase(st.Database, st.Log); err != nil {
		return errs.Wrap(err, errs.Invalid, CodeState, "the image's rpm database cannot be read")
	}
	own, err := hostdnf.OwnerOptions(string(st.Owner))
	if err != nil {
		return errs.New(errs.Invalid, CodeState, "%s of the image: %v", st.OwnerFile, err)
	}
	t, err := j.layRPM(j.q.WorkDir, j.q.Release, database, st)
	if err != nil {
		return err
	}
	if err := t.Configure(j.q.Repositories, own); err != nil {
		return err
	}
	if j.q.Log != nil {
		t.Log = io.MultiWriter(t.Log, j.q.Log)
	}
	for _, dir := range j.lists.caches {
		name := "/cache/" + filepath.Base(dir)
		if err := os.Mkdir(filepath.Join(t.Control, name), 0o755); err != nil {
			return errs.Wrap(disk.NoSpace(err, "the worker's disk"), errs.Internal, CodeHost, "the work folder cannot be filled")
		}
		for _, inside := range []string{hostdnf.ControlInside, hostdnf.ImageInside + hostdnf.ControlInside} {
			t.Binds = append(t.Binds, sandbox.Bind{Source: dir, Target: inside + name, ReadOnly: true})
		}
	}
	j.tree = t
	return nil
}

// ask asks dnf about the image.
func (j *rpmJob) ask(ctx context.Context) error {
	args := []string{hostdnf.WithPlugins, "--assumeno", "upgrade"}
	if j.q.Policy.Security {
		args = append([]string{"--security"}, args...)
	}
	args = append(hostdnf.Exclude(slices.Sorted(maps.Keys(j.hold))), args...)
	written := filepath.Join(j.tree.Control, "plugins/answer.json")
	if err := os.Remove(written); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errs.Wrap(err, errs.Internal, CodeHost, "the work folder cannot be used")
	}
	j.answer = rpmAnswer{}
	output, err := j.tree.DNF(ctx, false, args...)
	if err != nil && errs.CodeOf(err) != sandbox.CodeExit {
		return err
	}
	// dnf ends with 1 also where it was told not to go on: what the plugin wrote tells whether it had solved.
	answer, readErr := readBounded(written, maxAnswer)
	switch {
	case errors.Is(readErr, os.ErrNotExist) && err != nil && hostdnf.CauseOf(output) == hostdnf.Unmet:
		return errs.Wrap(err, errs.Invalid, CodePackages, "the packages of the image do not fit together")
	case errors.Is(readErr, os.ErrNotExist) && err != nil:
		return errs.Wrap(err, errs.Invalid, CodePackages, "dnf cannot plan for the packages of the image")
	case readErr == nil:
		readErr = json.Unmarshal(answer, &j.answer)
	}
	if readErr != nil {
		return errs.Wrap(readErr, errs.Internal, CodeHost, "dnf of this worker did not say what it would do (it has to be dnf 4): %s", output)
	}
	return nil
}

// readBounded reads a regular file that a sandbox may have written.
func readBounded(name string, most int64) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Lstat(filepath.Base(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, errors.New(filepath.Base(name) + " is no file, or too large")
	}
	return root.ReadFile(filepath.Base(name))
}
