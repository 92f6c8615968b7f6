package proof

import (
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// names gives packages of one system their package URLs.
type names struct {
	kind string // deb, rpm, apk
	os   catalog.OSRelease
}

func namesOf(facts *catalog.Facts) names {
	n := names{facts.PackageKind, facts.OS}
	if n.kind == "" {
		n.kind = "deb" // facts of a Kiln that read no others
	}
	return n
}

// purl names a package by the rules of its kind (https://github.com/package-url/purl-spec/tree/main/types-doc, deb, rpm
// and apk). Qualifiers come in the order of their keys; empty ones are left out.
func (n names) purl(name, version, arch, upstream string) string {
	vendor := n.os.ID
	if vendor == "" {
		vendor = map[string]string{"deb": "debian", "apk": "alpine"}[n.kind]
	}
	if vendor != "" {
		vendor = escape(strings.ToLower(vendor)) + "/"
	}
	epoch := ""
	if n.kind == "rpm" {
		epoch, version = cutEpoch(version)
	} else {
		name = strings.ToLower(name)
	}
	qualifiers := []string{"arch=" + escape(arch), "distro=" + n.distro(), "epoch=" + epoch, "upstream=" + upstream}
	qualifiers = slices.DeleteFunc(qualifiers, func(q string) bool { return strings.HasSuffix(q, "=") })
	return "pkg:" + n.kind + "/" + vendor + escape(name) + "@" + escape(version) + "?" + strings.Join(qualifiers, "&")
}

func (n names) distro() string {
	switch {
	case n.os.ID != "" && n.os.VersionID != "":
		return escape(n.os.ID + "-" + n.os.VersionID)
	case n.os.Codename != "":
		return escape(n.os.Codename)
	}
	return ""
}

// upstream names the source package where it is not the package itself, as scanners look for it: an rpm's by its file.
func (n names) upstream(p catalog.Package, source string) string {
	own := p.SourceVersion == "" || p.SourceVersion == p.Version
	switch {
	case n.kind == "rpm" && (source != p.Name || !own):
		version := p.SourceVersion
		if own {
			version = p.Version
		}
		_, version = cutEpoch(version)
		return escape(source + "-" + version + ".src.rpm")
	case !own:
		return escape(source + "@" + p.SourceVersion)
	case source != p.Name:
		return escape(source)
	}
	return ""
}

// sourceArch is what a source package says instead of an architecture.
func (n names) sourceArch() string {
	if n.kind == "rpm" {
		return "src"
	}
	return "source"
}

// cutEpoch takes "1:" from a version; "" where it has none.
func cutEpoch(version string) (epoch, rest string) {
	if e, rest, ok := strings.Cut(version, ":"); ok && e != "" && strings.Trim(e, "0123456789") == "" {
		return e, rest
	}
	return "", version
}
