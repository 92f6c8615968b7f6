package inspect

import (
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

const (
	maxCopyright = 2 << 20
	maxLicenses  = 64 // names that one package may give
)

// readLicenses reads the copyright files that are written for machines
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/). Packages of one source share one text as a
// rule, and often a link to it; each file is read once.
func readLicenses(facts *catalog.Facts, fsys fileSystem) error {
	if facts.PackageKind != "deb" {
		return nil // what is known of them came with the packages
	}
	for i := range facts.Packages {
		text, err := optional(fsys, "/usr/share/doc/"+facts.Packages[i].Name+"/copyright", maxCopyright)
		if err != nil {
			return err
		}
		facts.Packages[i].Licenses = licensesOf(text)
	}
	return nil
}

// licensesOf lists the short names of the License fields, sorted; nothing where the text is prose.
func licensesOf(text string) []string {
	head, _, _ := strings.Cut(text, "\n\n")
	if !strings.Contains(head, "packaging-manuals/copyright-format/") && !strings.Contains(head, "dep.debian.net/deps/dep5") {
		return nil
	}
	var names []string
	for line := range strings.Lines(text) {
		value, ok := strings.CutPrefix(line, "License:")
		if !ok {
			continue
		}
		for _, name := range splitLicense(value) {
			if !slices.Contains(names, name) && len(names) < maxLicenses {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// splitLicense takes a synopsis apart: "GPL-2+ or Artistic, and BSD-3-clause".
func splitLicense(synopsis string) []string {
	var names []string
	words := strings.FieldsFunc(synopsis, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '\n' || r == '\r' || r == '|' })
	for k := 0; k < len(words); k++ {
		switch strings.ToLower(words[k]) {
		case "and", "or", "and/or":
			continue
		case "with": // "GPL-3+ with GCC-Runtime exception": an exception only ever allows more
			for k+1 < len(words) && !strings.EqualFold(words[k], "exception") {
				k++
			}
			continue
		}
		if name := clean(words[k]); name != "" && len(name) <= 64 {
			names = append(names, name)
		}
	}
	return names
}
