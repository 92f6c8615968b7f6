package campaign

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Filter says which images a campaign takes. What is left out does not choose; the rest must all be met.
type Filter struct {
	Families     []catalog.FamilyName `json:"families,omitempty"`     // versions of one of them
	ImageIDs     []string             `json:"image_ids,omitempty"`    // these images; they are taken though nothing is known to be pending
	Tags         []string             `json:"tags,omitempty"`         // images with every one of these tags in Glance
	Visibility   string               `json:"visibility,omitempty"`   // public, private, shared, community
	ProjectID    string               `json:"project_id,omitempty"`   // owner of the images; the caller's project where left out
	AllProjects  bool                 `json:"all_projects,omitempty"` // images of every project
	Distribution string               `json:"distribution,omitempty"` // as os-release has it: debian
	Release      string               `json:"release,omitempty"`      // code name or number: bookworm, 12
	Package      string               `json:"package,omitempty"`      // a package that is installed: "openssl", "openssl<3.0.15-1~deb12u1"
	CVE          string               `json:"cve,omitempty"`          // a fix that they lack closes it
	MinSeverity  string               `json:"min_severity,omitempty"` // they lack a fix of at least this urgency: low, medium, high, critical
	Security     bool                 `json:"security,omitempty"`     // they lack a fix of a security suite
}

// maxNamed bounds each list of a filter.
const maxNamed = 1000

var cveID = regexp.MustCompile(`^CVE-\d{4}-\d{4,19}$`)

// Check refuses a filter that nothing can meet: errs.Invalid.
func (f Filter) Check() error {
	bad := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, "kiln.campaign.filter", format, args...).At(errs.Where{Field: "filter." + field})
	}
	for field, n := range map[string]int{"families": len(f.Families), "image_ids": len(f.ImageIDs), "tags": len(f.Tags)} {
		if n > maxNamed {
			return bad(field, "%d entries: there may be %d", n, maxNamed)
		}
	}
	for _, name := range f.Families {
		if err := name.Check(); err != nil {
			return bad("families", "%v", err)
		}
	}
	switch {
	case !slices.Contains([]string{"", "public", "private", "shared", "community"}, f.Visibility):
		return bad("visibility", "%q is no visibility: public, private, shared or community", f.Visibility)
	case f.CVE != "" && !cveID.MatchString(f.CVE):
		return bad("cve", "%q is no CVE: write it as CVE-2026-12345", f.CVE)
	case f.ProjectID != "" && f.AllProjects:
		return bad("all_projects", "name a project, or take all")
	}
	if err := checkSeverity(f.MinSeverity); err != nil {
		return bad("min_severity", "%v", err)
	}
	if f.Package != "" {
		if _, err := parseWanted(f.Package); err != nil {
			return bad("package", "%v", err)
		}
	}
	return nil
}

func checkSeverity(s string) error {
	if s != "" && advisory.Urgency(s) != s {
		return fmt.Errorf("%q is no severity: low, medium, high or critical", s)
	}
	return nil
}

// severity is that of a fix that an image lacks: where nobody said one, a fix of a security suite counts as medium.
func severity(p advisory.Pending) string {
	switch {
	case advisory.Level(p.Urgency) > 0:
		return advisory.Urgency(p.Urgency)
	case p.Security:
		return advisory.Medium
	}
	return advisory.Low
}

// wanted is a package with a condition on its version.
type wanted struct {
	name, op, version string
}

var wantedForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9+._-]{0,127})(?:\s*(<=|<<|<|>=|>>|>|=)\s*(\S{1,128}))?$`)

func parseWanted(text string) (wanted, error) {
	m := wantedForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return wanted{}, fmt.Errorf("%q: write a package as openssl, or with a condition on its version as \"openssl<3.0.15-1~deb12u1\" (<, <=, =, >=, >)", text)
	}
	w := wanted{m[1], m[2], m[3]}
	if w.op != "" {
		// Versions of rpm and apk also have characters that those of Debian have not.
		plain := strings.NewReplacer("^", "~", "_", "~").Replace(w.version)
		if _, err := deb.Compare(plain, plain); err != nil {
			return w, err
		}
	}
	return w, nil
}

// met reports whether the package is installed as wanted, by the rules of its kind of packages.
func (w wanted) met(kind string, packages []catalog.Package) bool {
	for _, p := range packages {
		if p.Name != w.name {
			continue
		}
		if w.op == "" {
			return true
		}
		c, err := advisory.Compare(kind, p.Version, w.version)
		if err != nil {
			continue
		}
		switch w.op {
		case "<", "<<":
			if c < 0 {
				return true
			}
		case "<=":
			if c <= 0 {
				return true
			}
		case "=":
			if c == 0 {
				return true
			}
		case ">=":
			if c >= 0 {
				return true
			}
		default:
			if c > 0 {
				return true
			}
		}
	}
	return false
}

// ofRecord says whether Glance's record of the image is chosen. scope is the project whose images are taken, "" for all.
func (f Filter) ofRecord(g catalog.GlanceImage, scope string) bool {
	switch {
	case scope != "" && g.Owner != scope,
		len(f.ImageIDs) > 0 && !slices.Contains(f.ImageIDs, g.ID),
		f.Visibility != "" && g.Visibility != f.Visibility:
		return false
	}
	for _, tag := range f.Tags {
		if !slices.Contains(g.Tags, tag) {
			return false
		}
	}
	return true
}

// ofFacts says whether what the disk holds is chosen.
func (f Filter) ofFacts(facts *catalog.Facts) bool {
	if f.Distribution != "" && facts.OS.ID != f.Distribution ||
		f.Release != "" && facts.OS.Codename != f.Release && facts.OS.VersionID != f.Release {
		return false
	}
	if f.Package == "" {
		return true
	}
	w, err := parseWanted(f.Package)
	return err == nil && w.met(advisory.KindOfFacts(facts), facts.Packages)
}

// ofLacks says whether what the image lacks is chosen.
func (f Filter) ofLacks(lacks []advisory.Pending) bool {
	least := advisory.Level(f.MinSeverity)
	return slices.ContainsFunc(lacks, func(p advisory.Pending) bool {
		return (!f.Security || p.Security) && (f.CVE == "" || slices.Contains(p.CVEs, f.CVE)) && advisory.Level(severity(p)) >= least
	})
}
