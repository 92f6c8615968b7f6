package advisory

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
)

// Span is a package of an image and the version that has a fix.
type Span struct {
	Kind          string
	Source        string
	Version       string // installed, of the binary package
	SourceVersion string // installed
	To            string // fixed, of the source package
}

// ID is the id of the span's gap.
func (s Span) ID() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{s.Kind, s.Source, s.Version, s.SourceVersion, s.To}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// Gap finds what the span closes: what the changes since the installed version name, and what the files say was fixed
// between the two. The gap is as urgent as its worst CVE; where a CVE is in no file, or there is none, the changelog's
// urgency counts as well.
func (s Span) Gap(changes []Change, fixes []Fix, files *Fixes) Gap {
	g := Gap{ID: s.ID(), Source: s.Source, From: s.SourceVersion, To: s.To, CVEs: []CVE{}}
	ids, said := map[string]bool{}, ""
	for _, c := range changes {
		// Signed packages (kernels, boot loaders) carry the entries of the source that was signed too, and those count
		// as the binary package does (6.1.176-1), not as the signing source does (6.1.176+1).
		from := s.SourceVersion
		if c.Source != s.Source {
			from = s.Version
		}
		if !newer(s.Kind, c.Version, from) {
			continue
		}
		said = Worse(said, Urgency(c.Urgency))
		for _, id := range c.CVEs {
			ids[id] = true
		}
	}
	for _, x := range fixes {
		if !s.closes(x) {
			continue
		}
		if len(x.CVEs) == 0 {
			g.Urgency = Worse(g.Urgency, x.Urgency)
		}
		for _, id := range x.CVEs {
			ids[id] = true
		}
	}
	unsaid := len(ids) == 0 && g.Urgency == ""
	for id := range ids {
		c := CVE{ID: id, Urgency: files.Urgency(id)}
		unsaid = unsaid || c.Urgency == ""
		g.Urgency = Worse(g.Urgency, c.Urgency)
		g.CVEs = append(g.CVEs, c)
	}
	if unsaid {
		g.Urgency = Worse(g.Urgency, said)
	}
	slices.SortFunc(g.CVEs, func(a, b CVE) int { return compareCVEs(a.ID, b.ID) })
	return g
}

// lacks reports whether the installed version has the fault and not the fix.
func (s Span) lacks(x Fix) bool {
	if x.Introduced != "" && x.Introduced != "0" && newer(s.Kind, x.Introduced, s.SourceVersion) {
		return false
	}
	return newer(s.Kind, x.Fixed, s.SourceVersion)
}

func (s Span) closes(x Fix) bool { return s.lacks(x) && !newer(s.Kind, x.Fixed, s.To) }

// Beyond is the highest version that a file says is fixed and that is later than To ("" for none), with the suite that
// says so: a fix that no repository offers.
func (s Span) Beyond(fixes []Fix) (version, suite string) {
	version = s.To
	for _, x := range fixes {
		if s.lacks(x) && (version == "" || newer(s.Kind, x.Fixed, version)) {
			version, suite = x.Fixed, x.Suite
		}
	}
	if suite == "" {
		return "", ""
	}
	return version, suite
}

// compareCVEs orders by year and number.
func compareCVEs(a, b string) int {
	if len(a) > 8 && len(b) > 8 && a[:8] == b[:8] && len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// signed is a source that only signs what another one built: Debian's kernels and boot loaders. The files of
// vulnerabilities name the other one, whose version the binary packages have.
var signed = regexp.MustCompile(`^(.+)-signed(-.+)?$`)

// Unsigned is the source that a signing source signs; another source is its own.
func Unsigned(source string) string {
	if m := signed.FindStringSubmatch(source); m != nil {
		return m[1]
	}
	return source
}

// kernelRelease is a kernel package of one release of the kernel: a fix comes under another name, and the old one stays.
var kernelRelease = regexp.MustCompile(`^linux-(image|headers|modules)-\d`)

// Fixes are what the files say of the installed package. Nothing is said of one release of a kernel: the package that
// depends on the newest one speaks for it.
func (p Installed) Fixes(s System, files *Fixes) []Fix {
	if kernelRelease.MatchString(p.Name) {
		return nil
	}
	source := Unsigned(p.Source)
	out := files.Of(s.Releases(), source)
	if s.Kind == RPM && p.Name != source {
		out = append(out, files.Of(s.Releases(), p.Name)...)
	}
	return out
}
