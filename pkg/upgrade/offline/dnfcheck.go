package offline

import (
	"context"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/hostdnf"
)

// approve puts back what must not change, and refuses an image that is not what was planned.
func (d *dnf) approve(ctx context.Context, root *os.Root) error {
	if err := d.identity.restore(root); err != nil {
		return err
	}
	if err := d.decide(root); err != nil {
		return err
	}
	if err := d.relabel(root); err != nil {
		return err
	}
	if err := d.step(ctx, "check packages", func(ctx context.Context) error { return d.gate(ctx, root) }); err != nil {
		return err
	}
	return d.step(ctx, "changes", func(ctx context.Context) error { return d.findChanges(ctx, root) })
}

func (d *dnf) gate(ctx context.Context, root *os.Root) error {
	after := dnf{run: d.run}
	if err := after.look(root); err != nil {
		return failed("%v", err)
	}
	if err := d.checkSet(d.had, after.had); err != nil {
		return err
	}
	if err := d.verify(ctx); err != nil {
		return err
	}
	now, err := lookAt(ctx, root)
	if err != nil {
		return err
	}
	if err := d.checkKernels(now); err != nil {
		return err
	}
	return d.checkFiles(ctx, root, now)
}

// checkSet holds the packages against the plan: what was fetched came, what it replaces or obsoletes went, nothing else.
func (d *dnf) checkSet(before, after []rpm.Package) error {
	id := func(p rpm.Package) string { return p.Name + "-" + p.Version + "." + p.Architecture }
	had, has := map[string]bool{}, map[string]bool{}
	for _, p := range before {
		had[id(p)] = true
	}
	planned, replaced, obsoleted := map[string]bool{}, map[string]bool{}, map[string]bool{}
	var wrong []string
	for _, p := range after {
		has[id(p)] = true
	}
	for _, a := range d.comes {
		planned[id(a.Package)], replaced[a.Name] = true, true
		for _, o := range a.obsoletes {
			obsoleted[o] = true
		}
		if !has[id(a.Package)] {
			wrong = append(wrong, id(a.Package)+" is not installed")
		}
	}
	for _, p := range after {
		switch {
		case !had[id(p)] && !planned[id(p)]:
			wrong = append(wrong, id(p)+" was not planned")
		case !planned[id(p)] && slices.ContainsFunc(d.comes, func(a arrival) bool { return a.id() == p.Name+"."+p.Architecture }) && !installOnly(p.Name):
			wrong = append(wrong, id(p)+" stayed beside its new version")
		}
	}
	for _, p := range before {
		if !has[id(p)] && !replaced[p.Name] && !obsoleted[p.Name] {
			wrong = append(wrong, id(p)+" is gone")
		}
	}
	slices.Sort(wrong)
	if len(wrong) > 0 {
		return failed("its packages are not those of the plan: %s", shown(wrong))
	}
	return nil
}

// installOnly reports whether several versions of a package are there side by side, as dnf has it: kernels.
func installOnly(name string) bool { return name == "kernel" || strings.HasPrefix(name, "kernel-") }

// verify lets rpm hold the files of the new packages against what they ship. Configuration files are their owner's;
// times change with every touch.
func (d *dnf) verify(ctx context.Context) error {
	args := []string{"/usr/bin/rpm", "--root", hostdnf.ImageInside, "-V", "--noscripts"}
	for _, a := range d.comes {
		args = append(args, a.Name+"-"+withoutEpoch(a.Version)+"."+a.Architecture)
	}
	out := &hostdnf.Buffer{Left: maxStatus}
	err := d.inTools(ctx, out, sandbox.Spec{Args: args, Stderr: d.log})
	if err != nil && errs.CodeOf(err) != sandbox.CodeExit {
		return err
	}
	var bad []string
	for line := range strings.Lines(out.String()) {
		if line = strings.TrimSpace(line); line != "" && !harmless(line) {
			bad = append(bad, line)
		}
	}
	if len(bad) > 0 {
		return failed("rpm -V finds files that are not as their packages ship them: %s", shown(bad))
	}
	if err != nil && strings.TrimSpace(out.String()) == "" {
		return failed("rpm -V failed: %v", err)
	}
	return nil
}

// harmless reports whether a line of rpm -V, such as "S.5....T.  c /etc/motd", says nothing bad.
func harmless(line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 {
		return false
	}
	if f[1] == "c" || f[1] == "g" {
		return true
	}
	return len(f[0]) == 9 && strings.Trim(f[0], ".T?") == ""
}

// withoutEpoch takes "1:" from a version.
func withoutEpoch(version string) string {
	if _, rest, ok := strings.Cut(version, ":"); ok {
		return rest
	}
	return version
}

// checkKernels: a kernel that came has what it boots with, where the image's kernels had that.
func (d *dnf) checkKernels(now tree) error {
	old, kernels := kernelsIn(d.before), kernelsIn(now)
	had := func(pattern string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(d.before)), func(name string) bool { ok, _ := path.Match(pattern, name); return ok })
	}
	if len(old) > 0 && len(kernels) == 0 {
		return failed("no kernel is left in /boot")
	}
	for _, v := range kernels {
		_, hasRAM := now["boot/initramfs-"+v+".img"]
		if _, suse := now["boot/initrd-"+v]; !hasRAM && !suse && (had("boot/initramfs-*.img") || had("boot/initrd-*")) {
			return failed("the kernel %s has no initramfs", v)
		}
		entry := slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(name string) bool {
			return strings.HasPrefix(name, "boot/loader/entries/") && strings.HasSuffix(name, "-"+v+".conf")
		})
		if !entry && had("boot/loader/entries/*.conf") {
			return failed("the boot loader has no entry for the kernel %s", v)
		}
	}
	if len(old) > 0 {
		d.report.KernelFrom = old[len(old)-1]
	}
	if len(kernels) > 0 {
		d.report.KernelTo = kernels[len(kernels)-1]
	}
	return nil
}

// kernelsIn are the versions of the kernels in /boot but for those of a rescue system, newest last.
func kernelsIn(t tree) []string {
	var out []string
	for name := range t {
		if v, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok && !strings.Contains(v, "rescue") {
			out = append(out, v)
		}
	}
	inspect.SortVersions(out)
	return out
}

// checkFiles compares the files with those before, by the lists of rpm.
func (d *dnf) checkFiles(ctx context.Context, root *os.Root, now tree) error {
	text, err := d.query(ctx, "--root", hostdnf.ImageInside, "-qa", "--qf", fileFormat)
	if err != nil {
		return failed("the files of its packages cannot be listed: %v", err)
	}
	fresh := map[string]bool{}
	for _, a := range d.comes {
		fresh[a.Name] = true
	}
	owned, comes := fileOwners{}, map[string]shippedFile{}
	for _, f := range parseFiles(text) {
		name := merged(strings.TrimPrefix(f.path, "/"))
		owned[name] = append(owned[name], f.pkg)
		if fresh[f.pkg] {
			comes[name] = f
		}
	}
	for name := range now {
		if strings.HasPrefix(name, d.database+"/") || strings.HasPrefix(name, "var/lib/dnf/") || strings.HasPrefix(name, "usr/lib/sysimage/") || name == autorelabel {
			owned[merged(name)] = append(owned[merged(name)], "rpm")
		}
	}
	return d.compareFiles(root, d.before, now, owned, func(name string, is node) error {
		f, ok := comes[merged(name)]
		if ok && uint32(f.mode)&0o6000 == is.mode&0o6000 && (is.powers == "" || f.powers) {
			d.report.Setuid = append(d.report.Setuid, "/"+name+" ("+f.pkg+")")
			return nil
		}
		return failed("/%s was given rights by a script: no package ships it so", name)
	})
}

const autorelabel = ".autorelabel"

// relabel makes a system with SELinux label its files when it starts: nothing in a sandbox can do that, and new files
// have no label.
func (d *dnf) relabel(root *os.Root) error {
	text, err := readFile(root, "etc/selinux/config", maxIdentity)
	if err != nil {
		return nil // no SELinux, or none that starts
	}
	for line := range strings.Lines(string(text)) {
		mode, ok := strings.CutPrefix(strings.TrimSpace(line), "SELINUX=")
		if !ok || mode != "enforcing" && mode != "permissive" || exists(root, autorelabel) {
			continue
		}
		if err := root.WriteFile(autorelabel, nil, 0o644); err != nil {
			return failed("its files cannot be marked to be labelled: %v", err)
		}
	}
	return nil
}

// findChanges compares the packages with those before, and reads from their changelogs which CVEs they close.
func (d *dnf) findChanges(ctx context.Context, root *os.Root) error {
	after, err := d.installed(root)
	if err != nil {
		return err
	}
	key := func(p rpm.Package) string { return p.Name + "." + p.Architecture }
	old, all := map[string]rpm.Package{}, map[string]bool{}
	same := map[string]bool{}
	for _, p := range d.had {
		if q, ok := old[key(p)]; ok {
			if c, err := rpm.Compare(p.Version, q.Version); err == nil && c < 0 {
				continue
			}
		}
		old[key(p)] = p
	}
	for _, p := range after {
		same[key(p)] = true
	}
	for _, a := range d.comes {
		was := old[key(a.Package)]
		cves, err := d.closed(ctx, a, was)
		if err != nil {
			return err
		}
		for _, c := range cves {
			all[c] = true
		}
		from := was.Version
		if slices.Contains(after, was) {
			from = "" // it stays beside the new one, as kernels do
		}
		d.report.Packages = append(d.report.Packages, upgrade.PackageChange{Name: a.Name, From: from, To: a.Version, Source: a.Source, CVEs: cves})
	}
	for _, p := range d.had {
		if !same[key(p)] && !slices.ContainsFunc(d.comes, func(a arrival) bool { return a.Name == p.Name }) {
			d.report.Packages = append(d.report.Packages, upgrade.PackageChange{Name: p.Name, From: p.Version, Source: p.Source, CVEs: []string{}})
		}
	}
	slices.SortFunc(d.report.Packages, func(a, b upgrade.PackageChange) int { return strings.Compare(a.Name, b.Name) })
	d.report.CVEs = sortCVEs(all)
	return nil
}

// closed gives the CVEs that the changelog of the new version names in its entries after the old version. An entry
// begins with who wrote it and, by custom, the version: "* Mon Nov 02 2026 Some One <one@example.org> - 3.0.7-25".
func (d *dnf) closed(ctx context.Context, a arrival, was rpm.Package) ([]string, error) {
	text, err := d.query(ctx, "-qp", "--nosignature", "--changelog", a.file)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, CodeMirror, "the changelog of %s cannot be read", a.Name)
	}
	version := withoutEpoch(was.Version)
	var fresh strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "* ") && was.Version != "" {
			f := strings.Fields(line)
			said := withoutEpoch(f[len(f)-1])
			// Releases are named there without what the distribution adds (25 for 25.el9).
			if c, err := rpm.Compare(said, version); err == nil && c <= 0 && said[0] >= '0' && said[0] <= '9' {
				break
			}
		}
		fresh.WriteString(line)
	}
	return deb.CVEs([]deb.Entry{{Text: fresh.String()}}), nil
}
