// Package diff tells what differs between two versions of an image: packages, fixes, services, files, sizes. It compares
// what was read from both disks, so it holds for any two images, whoever made them.
package diff

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Side is one of the two versions, as a report names it.
type Side struct {
	ImageID string    `json:"image_id"`
	Family  string    `json:"family"`  // "" for an image that is no version
	Version string    `json:"version"` // or the image's name
	MadeAt  time.Time `json:"made_at"`
}

// Label is how a person calls the side.
func (s Side) Label() string {
	if s.Family != "" {
		return s.Family + " " + s.Version
	}
	return cmp.Or(s.Version, s.ImageID)
}

// What may have happened to a package or a file.
const (
	Added      = "added"
	Removed    = "removed"
	Changed    = "changed"
	Upgraded   = "upgraded"
	Downgraded = "downgraded"
)

// Report is all that differs.
type Report struct {
	From      Side              `json:"from"`
	To        Side              `json:"to"`
	Summary   string            `json:"summary"` // one line, numbers first
	Packages  []Package         `json:"packages"`
	Fixed     []Fix             `json:"fixed"`
	Kernels   Names             `json:"kernels"`
	Services  Names             `json:"services"`
	Users     Names             `json:"users"`
	Setuid    Names             `json:"setuid"`
	Settings  map[string]FromTo `json:"settings"` // system, architecture, firmware, boot loader, command line, file system
	Sizes     map[string]Grown  `json:"sizes"`    // image, virtual, used; bytes
	Files     Files             `json:"files"`
	FilesNote string            `json:"files_note"` // why there is no list of files, or that it is cut
}

// Package is one package that is not the same.
type Package struct {
	Name         string `json:"name"`
	Architecture string `json:"architecture"`
	Source       string `json:"source"`
	Change       string `json:"change"` // added, removed, upgraded, downgraded
	From         string `json:"from"`
	To           string `json:"to"`
}

// Fix is a published fix that the older version lacks and the newer one does not.
type Fix struct {
	Package  string   `json:"package"`
	Urgency  string   `json:"urgency"` // low, medium, high, emergency; "" where nobody said
	Security bool     `json:"security"`
	CVEs     []string `json:"cves"`
	From     string   `json:"from"`
	To       string   `json:"to"` // "" where the package is gone
}

// Names came or went.
type Names struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
}

// Empty reports that nothing did.
func (n Names) Empty() bool { return len(n.Added)+len(n.Removed) == 0 }

// FromTo is a setting that has another value.
type FromTo struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Grown is a size that may have changed, in bytes.
type Grown struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Input is one side with what is known of it.
type Input struct {
	Side
	Image catalog.Image
}

// Lack is a fix that the older side lacks, with what was published about it. It is the caller's join of advisory.Pending
// and advisory.Advisory: this package does not choose which fixes count.
type Lack struct {
	Package  string
	Fixed    string // the version that has it
	Urgency  string
	Security bool
	CVEs     []string
}

// Compare tells what differs. lacks are the fixes that from lacks. errs.Conflict where the facts of a side are not known.
// The files are compared by CompareFiles.
func Compare(from, to Input, lacks []Lack) (*Report, error) {
	for _, side := range []Input{from, to} {
		if side.Image.Facts == nil {
			return nil, errs.New(errs.Conflict, "kiln.diff.facts", "the disk of image %s was not read: inspect it first", side.ImageID)
		}
	}
	a, b := from.Image.Facts, to.Image.Facts
	r := &Report{
		From: from.Side, To: to.Side, Packages: packages(a, b), Fixed: fixed(a, b, lacks),
		Kernels: names(a.Kernels, b.Kernels), Services: names(a.Services, b.Services), Users: names(users(a), users(b)), Setuid: setuidNames(a, b),
		Settings: settings(a, b),
		Sizes: map[string]Grown{
			"image": {from.Image.Size, to.Image.Size}, "virtual": {a.VirtualSize, b.VirtualSize}, "used": {a.UsedBytes, b.UsedBytes},
		},
		Files: Files{Folders: map[string]int{}, List: []FileChange{}},
	}
	r.Summary = r.summary()
	return r, nil
}

type packageKey struct{ name, architecture string }

func byKey(f *catalog.Facts) map[packageKey]catalog.Package {
	out := make(map[packageKey]catalog.Package, len(f.Packages))
	for _, p := range f.Packages {
		out[packageKey{p.Name, p.Architecture}] = p
	}
	return out
}

func packages(a, b *catalog.Facts) []Package {
	old, new := byKey(a), byKey(b) //nolint:predeclared // the pair is read as one
	out, kind := []Package{}, advisory.KindOfFacts(b)
	for key, p := range old {
		now, ok := new[key]
		switch {
		case !ok:
			out = append(out, Package{Name: p.Name, Architecture: p.Architecture, Source: p.Source, Change: Removed, From: p.Version})
		case now.Version != p.Version:
			change := Upgraded
			if c, err := advisory.Compare(kind, p.Version, now.Version); err == nil && c > 0 {
				change = Downgraded
			}
			out = append(out, Package{Name: p.Name, Architecture: p.Architecture, Source: now.Source, Change: change, From: p.Version, To: now.Version})
		}
	}
	for key, p := range new {
		if _, ok := old[key]; !ok {
			out = append(out, Package{Name: p.Name, Architecture: p.Architecture, Source: p.Source, Change: Added, To: p.Version})
		}
	}
	slices.SortFunc(out, func(x, y Package) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Architecture, y.Architecture))
	})
	return out
}

// urgencies in the order in which a reader wants them.
var urgencies = []string{"emergency", "critical", "high", "medium", "low"}

func rank(urgency string) int {
	if i := slices.Index(urgencies, urgency); i >= 0 {
		return i
	}
	return len(urgencies)
}

// fixed are the fixes that are in b now, or whose package is gone. Whether b has one is read from its packages, not from
// what somebody noted as pending for it, which may be older.
func fixed(a, b *catalog.Facts, lacks []Lack) []Fix {
	had, has := versionsByName(a), versionsByName(b)
	merged, kind := map[string]*Fix{}, advisory.KindOfFacts(b)
	for _, l := range lacks {
		from, known := had[l.Package]
		to, there := has[l.Package]
		if !known {
			continue // what was noted is of another reading of the disk
		}
		if there {
			if c, err := advisory.Compare(kind, to, l.Fixed); err != nil || c < 0 {
				continue
			}
		}
		f := merged[l.Package]
		if f == nil {
			f = &Fix{Package: l.Package, From: from, To: to, CVEs: []string{}, Urgency: l.Urgency}
			merged[l.Package] = f
		}
		f.Security = f.Security || l.Security
		if rank(l.Urgency) < rank(f.Urgency) {
			f.Urgency = l.Urgency
		}
		f.CVEs = append(f.CVEs, l.CVEs...)
	}
	out := make([]Fix, 0, len(merged))
	for _, f := range merged {
		slices.Sort(f.CVEs)
		f.CVEs = slices.Compact(f.CVEs)
		out = append(out, *f)
	}
	slices.SortFunc(out, func(x, y Fix) int {
		return cmp.Or(rank(x.Urgency)-rank(y.Urgency), len(y.CVEs)-len(x.CVEs), strings.Compare(x.Package, y.Package))
	})
	return out
}

// versionsByName is the lowest version of each package: of two architectures the older one counts.
func versionsByName(f *catalog.Facts) map[string]string {
	out, kind := make(map[string]string, len(f.Packages)), advisory.KindOfFacts(f)
	for _, p := range f.Packages {
		if v, ok := out[p.Name]; ok {
			if c, err := advisory.Compare(kind, v, p.Version); err == nil && c <= 0 {
				continue
			}
		}
		out[p.Name] = p.Version
	}
	return out
}

// CVEs are all that are fixed, each once.
func (r *Report) CVEs() []string {
	var all []string
	for _, f := range r.Fixed {
		all = append(all, f.CVEs...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func names(a, b []string) Names {
	old, now := map[string]bool{}, map[string]bool{}
	for _, n := range a {
		old[n] = true
	}
	for _, n := range b {
		now[n] = true
	}
	n := Names{Added: []string{}, Removed: []string{}}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if !old[name] {
			n.Added = append(n.Added, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if !now[name] {
			n.Removed = append(n.Removed, name)
		}
	}
	return n
}

func users(f *catalog.Facts) []string {
	out := make([]string, 0, len(f.Users))
	for _, u := range f.Users {
		out = append(out, fmt.Sprintf("%s (uid %d, password %s)", u.Name, u.UID, u.Password))
	}
	return out
}

// setuidNames tells nothing where one side was not looked through for them (inspect.Collect).
func setuidNames(a, b *catalog.Facts) Names {
	if slices.Contains(a.Skipped, "setuid") || slices.Contains(b.Skipped, "setuid") {
		return names(nil, nil)
	}
	return names(setuid(a), setuid(b))
}

func setuid(f *catalog.Facts) []string {
	out := make([]string, 0, len(f.Setuid))
	for _, s := range f.Setuid {
		out = append(out, fmt.Sprintf("%s (%s, %d:%d)", s.Path, s.Mode, s.UID, s.GID))
	}
	return out
}

func settings(a, b *catalog.Facts) map[string]FromTo {
	out := map[string]FromTo{}
	for name, v := range map[string]FromTo{
		"system": {a.OS.PrettyName, b.OS.PrettyName}, "architecture": {a.Architecture, b.Architecture}, "firmware": {a.Firmware, b.Firmware},
		"boot loader": {a.BootLoader, b.BootLoader}, "kernel command line": {a.CommandLine, b.CommandLine}, "root file system": {a.FileSystem, b.FileSystem},
		"disk format": {a.DiskFormat, b.DiskFormat}, "partition table": {a.PartitionTable, b.PartitionTable}, "machine id": {a.MachineID, b.MachineID},
		"partitions": {layout(a), layout(b)},
	} {
		if v.From != v.To {
			out[name] = v
		}
	}
	return out
}

// layout is the partitions in a few words, without what changes from build to build.
func layout(f *catalog.Facts) string {
	var words []string
	for _, p := range f.Partitions {
		words = append(words, fmt.Sprintf("%d:%s %s", p.Number, cmp.Or(p.FileSystem, "-"), bytesText(p.Size)))
	}
	return strings.Join(words, ", ")
}
