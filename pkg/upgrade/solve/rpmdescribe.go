package solve

import (
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// rpmAnswer is what the plugin wrote. The programs that made it had an image's database to read: no field is trusted to be
// more than a text or a number.
type rpmAnswer struct {
	Known    int            `json:"known"` // packages that dnf found installed
	Come     []rpmArrival   `json:"come"`
	Go       []rpmDeparture `json:"go"`
	Held     []rpmHeld      `json:"held"`
	Problems []string       `json:"problems"`
}

type rpmArrival struct {
	Name       string `json:"name"`
	Arch       string `json:"arch"`
	Version    string `json:"version"`
	Had        string `json:"had"` // "" where no package of this name and architecture is installed
	Source     string `json:"source"`
	Repository string `json:"repository"`
	Size       int64  `json:"size"`
	Installed  int64  `json:"installed"`
	File       string `json:"file"` // below the repository's address
	Sum        string `json:"sum"`  // kind of Digest
	Digest     string `json:"digest"`
	Advisories []struct {
		Security bool     `json:"security"`
		Severity string   `json:"severity"`
		CVEs     []string `json:"cves"`
	} `json:"advisories"` // later than Had, and not later than Version
}

type rpmDeparture struct {
	Name      string `json:"name"`
	Arch      string `json:"arch"`
	Version   string `json:"version"`
	Installed int64  `json:"installed"`
}

type rpmHeld struct {
	rpmArrival
	Excluded bool `json:"excluded"`
}

func (a rpmArrival) security() bool {
	for _, v := range a.Advisories {
		if v.Security {
			return true
		}
	}
	return false
}

// plan is what was solved, without what concerns one image alone.
func (j *rpmJob) plan() (upgrade.Plan, error) {
	p := upgrade.Plan{
		PackageKind: advisory.RPM, Release: j.q.Release, Architecture: j.q.Architecture, Policy: j.q.Policy,
		Changes: []upgrade.PlannedChange{}, Held: []upgrade.Held{}, CVEs: []string{},
	}
	if j.answer.Known != len(j.had) {
		return p, errs.New(errs.Invalid, CodeState, "the image's rpm database is damaged: rpm reads %d of its %d packages", j.answer.Known, len(j.had))
	}
	if len(j.answer.Come)+len(j.answer.Go)+len(j.answer.Held) > 4*rpm.MaxPackages {
		return p, errs.New(errs.Invalid, CodeState, "the answer is about more packages than an image may have")
	}
	replaced := map[string]bool{}
	for _, a := range j.answer.Come {
		c := j.change(a)
		if c.From != "" {
			replaced[c.ID()+" "+c.From] = true
		}
		p.Download += a.Size
		p.Grows += a.Installed
		p.Changes = append(p.Changes, c)
	}
	for _, d := range j.answer.Go {
		p.Grows -= d.Installed
		if replaced[plain(d.Name)+":"+plain(d.Arch)+" "+plain(d.Version)] {
			continue
		}
		p.Changes = append(p.Changes, upgrade.PlannedChange{
			PackageRef: upgrade.PackageRef{Name: plain(d.Name), Architecture: plain(d.Arch), From: plain(d.Version)}, Source: j.sourceOf(d.Name), CVEs: []string{},
		})
	}
	for _, c := range p.Changes {
		p.Kernel = p.Kernel || rpmKernel(c.Name)
		p.BootLoader = p.BootLoader || isBootLoader(c.Name)
	}
	slices.SortFunc(p.Changes, func(a, b upgrade.PlannedChange) int { return upgrade.ComparePackageRefs(a.PackageRef, b.PackageRef) })
	p.Held = append(p.Held, j.held()...)
	p.Group = upgrade.GroupOf(p.Refs())
	return p, nil
}

func (j *rpmJob) change(a rpmArrival) upgrade.PlannedChange {
	c := upgrade.PlannedChange{
		PackageRef: upgrade.PackageRef{Name: plain(a.Name), Architecture: plain(a.Arch), To: plain(a.Version)},
		Source:     plain(a.Name), Suite: plain(a.Repository), Security: a.security(), Bytes: a.Size, CVEs: []string{},
	}
	if source, _ := rpm.SplitSource(plain(a.Source)); source != "" {
		c.Source = source
	}
	gone := func(d rpmDeparture) bool { return d.Name == a.Name && d.Arch == a.Arch && d.Version == a.Had }
	if a.Had != "" && slices.ContainsFunc(j.answer.Go, gone) {
		c.From = plain(a.Had) // else it comes beside the old one, as kernels do
	}
	for _, r := range j.q.Repositories {
		if r.ID == a.Repository {
			c.URI = strings.TrimRight(r.BaseURL, "/") + "/" + plain(a.File)
		}
	}
	if a.Sum == "sha256" {
		c.SHA256 = plain(a.Digest)
	}
	for _, v := range a.Advisories {
		c.Urgency = advisory.Worse(c.Urgency, advisory.Urgency(v.Severity))
		for _, id := range v.CVEs {
			if id = plain(id); strings.HasPrefix(id, "CVE-") {
				c.CVEs = append(c.CVEs, id)
			}
		}
	}
	slices.Sort(c.CVEs)
	c.CVEs = slices.Compact(c.CVEs)
	return c
}

func (j *rpmJob) sourceOf(name string) string {
	for _, p := range j.had {
		if p.Name == name {
			return p.Source
		}
	}
	return plain(name)
}

// held lists the packages that have a later version and stay, each with its reason. Under the policy security, those are
// not among them that no security fix is about.
func (j *rpmJob) held() []upgrade.Held {
	var out []upgrade.Held
	for _, h := range j.answer.Held {
		if j.q.Policy.Security && !h.security() {
			continue
		}
		reason := "its dependencies cannot be met"
		if why, ok := j.hold[h.Name+"."+h.Arch]; ok {
			reason = why
		} else if h.Excluded {
			reason = "excluded by the image's owner"
		} else if why := j.problemOf(h.Name); why != "" {
			reason += ": " + why
		}
		out = append(out, upgrade.Held{Name: plain(h.Name), Version: plain(h.Had), To: plain(h.Version), Reason: reason})
	}
	slices.SortFunc(out, func(a, b upgrade.Held) int { return strings.Compare(a.Name+" "+a.To, b.Name+" "+b.To) })
	return slices.Compact(out)
}

// problemOf is what dnf says about a package: the first of its lines that names more than the package.
func (j *rpmJob) problemOf(name string) string {
	for _, line := range j.answer.Problems {
		if strings.Contains(line, name+"-") && !strings.HasPrefix(line, "cannot install the best") {
			return plain(line)
		}
	}
	return ""
}

// plain is a text as it may be shown: printable, and not long.
func plain(text string) string {
	const most = 300
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

var (
	rpmKernelRule = regexp.MustCompile(`^(kernel(-(core|modules.*|default.*|rt.*|uek.*|64k.*|lt|ml))?|dracut)$`)
	beside        = regexp.MustCompile(`-(devel|headers|doc|matched)(-|$)`) // what is no kernel
)

// rpmKernel reports whether a package is a kernel, its modules, or what makes its initial RAM disk.
func rpmKernel(name string) bool { return rpmKernelRule.MatchString(name) && !beside.MatchString(name) }
