package offline

import (
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
)

// classify reads what the scriptlets of the fetched packages need, and holds those that need a running system: nothing can
// boot an rpm system for them. It reports whether dnf must be asked again.
func (d *dnf) classify() (again bool, err error) {
	control, err := os.OpenRoot(d.control())
	if err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be read")
	}
	defer func() { _ = control.Close() }()
	// Of a round before, only those count that are held.
	d.report.Scripts = slices.DeleteFunc(d.report.Scripts, func(r upgrade.Ran) bool { return r.Script != upgrade.ScriptRunning })
	for _, a := range d.comes {
		v, err := d.scriptlets(control, a)
		if err != nil {
			return false, err
		}
		if v.Script == upgrade.ScriptRunning && d.req.Policy.Running == upgrade.RunningBoot {
			return false, errs.New(errs.Invalid, CodeRunning, "%s needs a running system (%s), and rpm systems are not booted in quarantine: choose hold", a.Name, v.Why)
		}
		if v.Script == upgrade.ScriptRunning {
			again = true
			d.hold = append(d.hold, a.id())
		}
		if v.Script == upgrade.ScriptRunning || v.Script == upgrade.ScriptDivert {
			d.report.Scripts = append(d.report.Scripts, upgrade.Ran{Package: a.Name, Script: v.Script, Why: v.Why})
		}
	}
	if !again {
		return false, nil
	}
	// What was fetched and does not come must not be taken for what comes.
	d.comes = nil
	names, err := fs.Glob(control.FS(), "cache/*/packages")
	for _, name := range names {
		if err == nil {
			err = control.RemoveAll(name)
		}
	}
	if err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be emptied")
	}
	return true, nil
}

// scriptlets classifies one package file, whose signature is good.
func (d *dnf) scriptlets(control *os.Root, a arrival) (scripts.Verdict, error) {
	file, err := control.Open(strings.TrimPrefix(a.file, controlInside+"/"))
	if err != nil {
		return scripts.Verdict{}, errs.Wrap(err, errs.Internal, CodeRequest, "the package %s cannot be read", a.Name)
	}
	defer file.Close() //nolint:errcheck // only read
	// A kernel comes beside the old one, so that plans take it for new, too.
	fresh := installOnly(a.Name) || !slices.ContainsFunc(d.had, func(p rpm.Package) bool { return p.Name == a.Name && p.Architecture == a.Architecture })
	return scripts.ClassifyRPM(file, fresh)
}
