package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// holdRounds bounds how often holding packages back may bring new ones that must be held too.
const holdRounds = 8

// pins reports whether apt is told which versions it may take.
func (r *run) pins() bool { return r.req.Policy.Security || len(r.pinned) > 0 }

// securitySuite reports whether a suite has security fixes only, by the names that Debian and Ubuntu give them.
func securitySuite(name string) bool {
	return strings.HasSuffix(name, "-security") || strings.HasSuffix(name, "/updates")
}

// writePreferences tells apt (apt_preferences(5)) what stays: packages that are held, and, where only security fixes are
// wanted, what the other suites have. From those a new package may still come that a fix depends on, which is what a
// priority below that of an installed version (100) means. The image's own preferences follow: of several that fit, apt
// takes the first.
func (r *run) writePreferences(root *os.Root) error {
	if !r.pins() {
		return nil
	}
	var text strings.Builder
	for _, p := range r.pinned {
		if p.Version == "" {
			fmt.Fprintf(&text, "Package: %s\nPin: version *\nPin-Priority: -1\n\n", p.Name)
			continue
		}
		fmt.Fprintf(&text, "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", p.Name, p.Version)
	}
	for _, s := range r.req.Suites {
		if r.req.Policy.Security && !securitySuite(s.Suite) {
			fmt.Fprintf(&text, "Package: *\nPin: release n=%[1]s\nPin-Priority: 50\n\nPackage: *\nPin: release a=%[1]s\nPin-Priority: 50\n\n", s.Suite)
		}
	}
	own, err := readFile(root, "etc/apt/preferences", 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cannotRead(err, "etc/apt/preferences")
	}
	text.Write(own)
	if err := os.WriteFile(filepath.Join(r.control(), "preferences"), []byte(text.String()), 0o644); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	return nil
}

// holdRunning leaves out packages whose scripts need a running system, and with them what cannot be there without them.
func (r *run) holdRunning(ctx context.Context, root *os.Root) error {
	if r.cfg.Classify == nil {
		return nil
	}
	full, seen := r.plan, map[deb.Package]bool{}
	for range holdRounds {
		running, err := r.classify(ctx, seen)
		if err != nil {
			return err
		}
		if len(running) == 0 {
			return r.planQuarantine(root, full)
		}
		r.pin(running)
		if err := r.writePreferences(root); err != nil {
			return err
		}
		if err := r.solve(ctx); err != nil {
			return err
		}
		for _, name := range r.plan.removed {
			if !slices.Contains(full.removed, name) {
				return errs.New(errs.Invalid, CodeRunning, "%s need a running system, and without them %s would have to go", names(running), name)
			}
		}
	}
	return errs.New(errs.Invalid, CodeRunning, "too many packages need a running system: after %d rounds there are still more", holdRounds)
}

// classify looks at the packages of the plan that it has not seen, and gives those that need a running system.
func (r *run) classify(ctx context.Context, seen map[deb.Package]bool) ([]deb.Package, error) {
	var running []deb.Package
	for _, p := range r.plan.packages {
		if seen[p] {
			continue
		}
		seen[p] = true
		script, why, err := r.cfg.Classify(ctx, r.plan.uris[fileName(p)])
		if err != nil {
			return nil, errs.Wrap(err, errs.KindOf(err), CodeMirror, "the maintainer scripts of %s %s cannot be read", p.Name, p.Version)
		}
		if script == upgrade.ScriptDivert || script == upgrade.ScriptRunning {
			r.report.Scripts = append(r.report.Scripts, upgrade.Ran{Package: p.Name, Script: script, Why: why})
		}
		if script == upgrade.ScriptRunning {
			running = append(running, p)
		}
	}
	return running, nil
}

// pin makes packages stay as they are.
func (r *run) pin(packages []deb.Package) {
	for _, p := range packages {
		i := slices.IndexFunc(r.before, func(o deb.Package) bool { return o.Name == p.Name && o.Architecture == p.Architecture })
		if i >= 0 {
			r.pinned = append(r.pinned, r.before[i])
		} else {
			r.pinned = append(r.pinned, deb.Package{Name: p.Name})
		}
	}
}

// heldNames are the packages with a published fix that stay: those that apt keeps back and those that are held here.
func (r *run) heldNames() []string {
	held := slices.Clone(r.plan.held)
	if r.boot != nil {
		held = slices.Clone(r.boot.plan.held)
		slices.Sort(held)
		return held
	}
	for _, p := range r.pinned {
		held = append(held, p.Name)
	}
	slices.Sort(held)
	return slices.Compact(held)
}

func (r *run) why(name string) string {
	for _, s := range r.report.Scripts {
		if s.Package == name {
			return s.Why
		}
	}
	return ""
}

func names(packages []deb.Package) string {
	var out []string
	for _, p := range packages {
		out = append(out, p.Name)
	}
	return strings.Join(out, ", ")
}
