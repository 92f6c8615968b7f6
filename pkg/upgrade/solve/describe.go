package solve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// describe turns apt's answer into changes, with what the lists say about each.
func (j *job) describe() error {
	j.changes, j.after, j.installs = []upgrade.PlannedChange{}, map[string]*unit{}, 0
	for _, m := range j.answer.changes {
		f, ok := j.answer.find(m, j.state.native)
		if !ok {
			return errs.New(errs.Internal, CodePackages, "apt would install %s %s and names no file for it", m.name, m.to)
		}
		c := upgrade.PlannedChange{
			PackageRef: upgrade.PackageRef{Name: m.name, Architecture: f.arch, From: m.from, To: m.to},
			Bytes:      f.size, URI: f.uri, SHA256: f.sha256, CVEs: []string{},
		}
		offers, err := j.lists.index.find(m.name)
		if err != nil {
			return err
		}
		o := choose(offers, c)
		if o == nil {
			return errs.New(errs.Internal, CodePackages, "apt would install %s %s, which is not in the lists", m.name, m.to)
		}
		c.Source, c.Suite = o.Source, o.suite.Suite.Suite
		c.Security = slices.ContainsFunc(offers, func(o offered) bool {
			return o.suite.security && sameArch(o.Architecture, c.Architecture) && between(o.Version, c.From, c.To)
		})
		id := j.state.id(c.Name, c.Architecture)
		j.after[id] = unitOf(id, c.Name, c.To, o.fields)
		j.installs += o.InstalledSize
		j.changes = append(j.changes, c)
	}
	for _, m := range j.answer.removed {
		id := j.state.id(m.name, m.arch)
		p := j.state.find(id)
		if p == nil {
			return errs.New(errs.Internal, CodePackages, "apt would remove %s, which the image does not have", id)
		}
		j.after[id] = nil
		j.changes = append(j.changes, upgrade.PlannedChange{
			PackageRef: upgrade.PackageRef{Name: m.name, Architecture: p.Architecture, From: m.from}, Source: sourceOf(p.Source, p.Name), CVEs: []string{},
		})
	}
	slices.SortFunc(j.changes, func(a, b upgrade.PlannedChange) int { return upgrade.ComparePackageRefs(a.PackageRef, b.PackageRef) })
	return nil
}

// choose finds the version that apt takes; where several suites have it, the security suite is named.
func choose(offers []offered, c upgrade.PlannedChange) *offered {
	var out *offered
	for i := range offers {
		o := &offers[i]
		if o.Version == c.To && o.Architecture == c.Architecture && o.sha256 == c.SHA256 && (out == nil || o.suite.security && !out.suite.security) {
			out = o
		}
	}
	return out
}

func sameArch(a, b string) bool { return a == b || a == "all" || b == "all" }

// between reports from < version <= to; from is "" for a new package.
func between(version, from, to string) bool {
	below, err := deb.Compare(version, to)
	if err != nil || below > 0 {
		return false
	}
	if from == "" {
		return true
	}
	above, err := deb.Compare(version, from)
	return err == nil && above > 0
}

// grows is what the image's file system needs more, in bytes, as far as the packages say.
func (j *job) grows() int64 {
	kibibytes := j.installs
	for _, c := range j.changes {
		if c.From != "" {
			if p := j.state.find(j.state.id(c.Name, c.Architecture)); p != nil {
				kibibytes -= p.InstalledSize
			}
		}
	}
	return kibibytes << 10
}

var (
	kernelRule     = regexp.MustCompile(`^(linux-(image|modules|modules-extra|signed|headers)-|linux-image$|initramfs-tools|dracut|busybox-initramfs|live-boot-initramfs|cryptsetup-initramfs)`)
	bootLoaderRule = regexp.MustCompile(`^(grub|shim|systemd-boot|syslinux|extlinux|isolinux|lilo|u-boot|efibootmgr|flash-kernel|zipl|refind)`)
)

func isKernel(name string) bool {
	return kernelRule.MatchString(name) && !strings.HasPrefix(name, "linux-headers-")
}
func isBootLoader(name string) bool { return bootLoaderRule.MatchString(name) }

// maxWhy bounds how many kept packages apt is asked about one by one.
const maxWhy = 8

// held lists the packages that have a new version and stay, each with its reason.
func (j *job) held(ctx context.Context) ([]upgrade.Held, error) {
	var out []upgrade.Held
	seen, asked := map[string]bool{}, 0
	for _, m := range j.answer.kept {
		id := j.state.id(m.name, m.arch)
		h := upgrade.Held{Name: m.name, Version: m.from, To: m.to, Reason: j.hold[id]}
		p := j.state.find(id)
		switch {
		case p != nil && p.Held():
			h.Reason = "held by the image's owner"
		case h.Reason == "" && asked < maxWhy:
			asked++
			reason, err := j.why(ctx, m)
			if err != nil {
				return nil, err
			}
			h.Reason = reason
		case h.Reason == "":
			h.Reason = "its dependencies cannot be met"
		}
		seen[id] = true
		out = append(out, h)
	}
	for _, m := range j.answer.phased {
		seen[j.state.id(m.name, m.arch)] = true
		out = append(out, upgrade.Held{Name: m.name, Version: m.from, To: m.to, Reason: "the repository offers it to some machines only so far (phased)"})
	}
	pinned, err := j.pinned(seen)
	out = append(out, pinned...)
	slices.SortFunc(out, func(a, b upgrade.Held) int { return strings.Compare(a.Name+" "+a.To, b.Name+" "+b.To) })
	return out, err
}

// why asks apt for a package's new version and tells what it says against it.
func (j *job) why(ctx context.Context, m move) (string, error) {
	_, err := j.run(ctx, "-s", "--no-remove", "install", m.name+":"+j.archOf(m)+"="+m.to)
	said := (*aptError)(nil)
	switch {
	case err == nil:
		return "apt keeps it back; its new version would change packages that are otherwise left alone", nil
	case !errors.As(err, &said):
		return "", err
	case strings.Contains(said.said, "Packages need to be removed"):
		return "its new version would remove other packages", nil
	case strings.Contains(said.said, "Held packages were changed"):
		return "its new version needs one of a package that is held", nil
	}
	unmet := readUnmet(said.out)
	if lacks, ok := unmet[m.name]; ok {
		return "its dependencies cannot be met: " + lacks, nil
	}
	for _, pkg := range slices.Sorted(maps.Keys(unmet)) {
		return fmt.Sprintf("its dependencies cannot be met: %s: %s", pkg, unmet[pkg]), nil
	}
	return "its dependencies cannot be met: " + said.Error(), nil
}

// pinned lists installed packages that have a later version in the lists and that apt does not even consider: the image's
// own preferences say so.
func (j *job) pinned(seen map[string]bool) ([]upgrade.Held, error) {
	if len(j.state.prefs) == 0 || j.q.Policy.Security {
		return nil, nil
	}
	var out []upgrade.Held
	for _, p := range j.state.packages {
		id := j.state.id(p.Name, p.Architecture)
		if _, changes := j.after[id]; changes || seen[id] || !p.Installed() {
			continue
		}
		offers, err := j.lists.index.find(p.Name)
		if err != nil {
			return nil, err
		}
		h := upgrade.Held{Name: p.Name, Version: p.Version, To: p.Version, Reason: "the image's preferences pin it"}
		for _, o := range offers {
			if later, err := deb.Compare(o.Version, h.To); err == nil && later > 0 && sameArch(o.Architecture, p.Architecture) {
				h.To = o.Version
			}
		}
		if h.To != p.Version {
			out = append(out, h)
		}
	}
	return out, nil
}

// unmetOf puts apt's list of unmet dependencies, which it prints beside its error, into the error.
func unmetOf(err error) error {
	said := (*aptError)(nil)
	if !errors.As(err, &said) {
		return err
	}
	unmet := readUnmet(said.out)
	for _, pkg := range slices.Sorted(maps.Keys(unmet)) {
		said.said = pkg + ": " + unmet[pkg] + "\n" + said.said
	}
	return err
}
