package deb

import (
	"cmp"
	"io"
	"slices"
	"strings"
	"time"
)

// Suite names one suite of a repository.
type Suite struct {
	Mirror     string   // base URL, without "dists"
	Suite      string   // directory below dists, "bookworm-security"
	Components []string // "main"
	Arch       string   // Debian architecture, "amd64"
}

// Candidate is a package that a repository offers.
type Candidate struct {
	Name          string
	Version       string
	Architecture  string
	Source        string
	SourceVersion string
	Filename      string // path below the mirror
	Size          int64  // bytes of the .deb
	SHA256        string // hex
}

// Index is what a suite offers, read from its signed lists.
type Index struct {
	Suite      Suite
	Codename   string
	Date       time.Time // when the repository wrote it
	ValidUntil time.Time // zero where the repository gives none
	packages   map[string][]Candidate
}

// NewIndex makes an index of the candidates.
func NewIndex(suite Suite, candidates []Candidate) *Index {
	ix := &Index{Suite: suite, packages: make(map[string][]Candidate, len(candidates))}
	for _, c := range candidates {
		ix.packages[c.Name] = append(ix.packages[c.Name], c)
	}
	return ix
}

// Find gives all candidates of a name, of every architecture and version.
func (ix *Index) Find(name string) []Candidate { return ix.packages[name] }

// OfSource gives the candidates that one version of a source package was built into, smallest first. It looks at
// all candidates.
func (ix *Index) OfSource(source, version string) []Candidate {
	var out []Candidate
	for _, all := range ix.packages {
		for _, c := range all {
			if c.Source == source && c.SourceVersion == version {
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), strings.Compare(a.Filename, b.Filename))
	})
	return out
}

// Len is the number of package names.
func (ix *Index) Len() int { return len(ix.packages) }

var indexFields = map[string]bool{
	"package": true, "version": true, "architecture": true, "source": true, "filename": true,
	"size": true, "sha256": true,
}

// parsePackages reads a Packages file.
func parsePackages(r io.Reader) ([]Candidate, error) {
	var all []Candidate
	err := scanParagraphs(r, indexFields, func(p *paragraph) error {
		c := Candidate{
			Name: p.get("package"), Version: p.get("version"), Architecture: p.get("architecture"),
			Filename: p.get("filename"), Size: decimal(p.get("size")), SHA256: p.get("sha256"),
		}
		if c.Name == "" || c.Version == "" {
			return malformed(p.line, "a package without a name or version")
		}
		c.Source, c.SourceVersion = splitSource(p.get("source"), c.Name, c.Version)
		all = append(all, c)
		return nil
	})
	return all, err
}

// Update is an installed package for which a repository has a later version.
type Update struct {
	Package       string
	Architecture  string
	From, To      string
	Suite         string // the suite that has it
	Source        string // source package of the new version
	SourceVersion string // of the new version
	Filename      string // path of the .deb below the suite's mirror
	Size          int64  // bytes of the .deb
}

// Pending compares the installed packages with what the suites offer and names the latest version
// of each that is newer, sorted by package. Held packages are left out. It compares versions only:
// whether apt can install them all, and which new packages come with them, only its solver knows.
func Pending(installed []Package, indexes []*Index) []Update {
	var updates []Update
	for _, p := range installed {
		if !p.Installed() || p.Held() {
			continue
		}
		u := Update{Package: p.Name, Architecture: p.Architecture, From: p.Version, To: p.Version}
		for _, ix := range indexes {
			for _, c := range ix.Find(p.Name) {
				if sameArch(p.Architecture, c.Architecture) && newer(c.Version, u.To) {
					u.To, u.Suite, u.Source, u.SourceVersion = c.Version, ix.Suite.Suite, c.Source, c.SourceVersion
					u.Filename, u.Size = c.Filename, c.Size
				}
			}
		}
		if u.To != p.Version {
			updates = append(updates, u)
		}
	}
	slices.SortFunc(updates, func(a, b Update) int {
		if c := strings.Compare(a.Package, b.Package); c != 0 {
			return c
		}
		return strings.Compare(a.Architecture, b.Architecture)
	})
	return updates
}

// sameArch: a package may move between its architecture and "all" when it is upgraded.
func sameArch(installed, offered string) bool {
	return installed == offered || installed == "all" || offered == "all"
}
