package proof

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// Subject is the image that a bill of materials is about.
type Subject struct {
	Name    string  // of the family
	Version string  // of the version, or else the id of the build
	Digests Digests // of the image's file
	Facts   *catalog.Facts
	Time    time.Time // that the document carries
	Tool    string    // version of Kiln
}

// serial names a document: the same image, kind and time, the same name (RFC 9562, version 5).
func (s Subject) serial(kind string) string {
	seed := strings.Join([]string{"kiln", kind, s.Name, s.Version, s.Digests["sha256"], s.Digests["sha512"], s.stamp()}, "\n")
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(seed)).String()
}

func (s Subject) stamp() string { return s.Time.UTC().Format(time.RFC3339) }

// pkg is a package of the image with the names that both formats use.
type pkg struct {
	catalog.Package
	purl       string
	sourcePurl string
	licenses   []license
}

func (p pkg) sourceVersion() string {
	if p.SourceVersion != "" {
		return p.SourceVersion
	}
	return p.Version
}

// packages are those of the facts, by name, each once: dpkg's list is the image's word and may say a thing twice.
func packages(facts *catalog.Facts) []pkg {
	out := make([]pkg, 0, len(facts.Packages))
	names := namesOf(facts)
	for _, p := range facts.Packages {
		source := p.Source
		if source == "" {
			source = p.Name
		}
		one := pkg{Package: p, licenses: licenses(p.Licenses)}
		one.Source = source
		one.purl = names.purl(p.Name, p.Version, p.Architecture, names.upstream(p, source))
		one.sourcePurl = names.purl(source, one.sourceVersion(), names.sourceArch(), "")
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b pkg) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version), strings.Compare(a.Architecture, b.Architecture), strings.Compare(a.purl, b.purl))
	})
	return slices.CompactFunc(out, func(a, b pkg) bool { return a.purl == b.purl })
}

// escape percent-encodes all but letters, digits and ".-_~:" (purl-spec, "character encoding").
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(".-_~:", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
