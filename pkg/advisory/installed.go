package advisory

import "github.com/kiln-cloud/kiln/pkg/catalog"

// InstalledOf lists the packages of an image that can be asked for and compared. No distribution has others: a name
// with a slash, or of a thousand letters, is the work of whoever made the image, and must spoil neither pages nor
// statements.
func InstalledOf(f *catalog.Facts) []Installed {
	type key struct{ name, architecture, version string }
	seen := map[key]bool{}
	out := make([]Installed, 0, len(f.Packages))
	for _, c := range f.Packages {
		p := Installed{Name: c.Name, Architecture: c.Architecture, Version: c.Version, Source: c.Source, SourceVersion: c.SourceVersion}
		if p.Source == "" {
			p.Source = p.Name
		}
		if p.SourceVersion == "" {
			p.SourceVersion = p.Version
		}
		k := key{p.Name, p.Architecture, p.Version}
		if p.plain() && !seen[k] {
			out, seen[k] = append(out, p), true
		}
	}
	return out
}

func (p Installed) plain() bool {
	return plain(p.Name, 1, 255) && plain(p.Version, 1, 255) && plain(p.Architecture, 0, 64) && plain(p.Source, 1, 255) && plain(p.SourceVersion, 1, 255)
}

func plain(text string, least, most int) bool {
	if len(text) < least || len(text) > most {
		return false
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '/' {
			return false
		}
	}
	return true
}

// SystemOf is an image as fixes are compared with it.
func SystemOf(i catalog.Image) System {
	o := i.Facts.OS
	return System{ImageID: i.ID, ProjectID: i.ProjectID, Kind: KindOfFacts(i.Facts), OS: short(o.ID), Release: short(o.Codename), VersionID: short(o.VersionID), Architecture: short(i.Facts.Architecture)}
}

// short is a word of os-release; one that is too long, or no word, is nobody's release.
func short(text string) string {
	if !plain(text, 1, 64) {
		return ""
	}
	return text
}
