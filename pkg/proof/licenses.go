package proof

import (
	"regexp"
	"slices"
	"strings"
)

// spdxIDs are the short names of Debian's machine-readable copyright files whose meaning is one licence of the SPDX list
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/#license-short-name, https://spdx.org/licenses/).
// Keys are in lower case; families with versions are in versioned.
var spdxIDs = map[string]string{
	"expat": "MIT", "mit": "MIT", "isc": "ISC", "x11": "X11", "zlib": "Zlib", "0bsd": "0BSD", "bsl-1.0": "BSL-1.0",
	"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "bsd-4-clause-uc": "BSD-4-Clause-UC",
	"apache-1.1": "Apache-1.1", "apache-2": "Apache-2.0", "apache-2.0": "Apache-2.0", "artistic": "Artistic-1.0", "artistic-1.0": "Artistic-1.0",
	"artistic-2": "Artistic-2.0", "artistic-2.0": "Artistic-2.0", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0", "cc0": "CC0-1.0", "cc0-1.0": "CC0-1.0",
	"cc-by-3.0": "CC-BY-3.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
	"psf-2": "PSF-2.0", "psf-2.0": "PSF-2.0", "python-2.0": "Python-2.0", "ofl-1.1": "OFL-1.1", "unlicense": "Unlicense", "wtfpl": "WTFPL", "wtfpl-2": "WTFPL",
	"fsfap": "FSFAP", "fsful": "FSFUL", "fsfullr": "FSFULLR", "afl-2.1": "AFL-2.1", "ntp": "NTP", "hpnd": "HPND", "curl": "curl", "openssl": "OpenSSL",
	"bzip2-1.0.6": "bzip2-1.0.6", "beerware": "Beerware", "tcl": "TCL", "unicode-dfs-2016": "Unicode-DFS-2016", "cddl-1.0": "CDDL-1.0", "epl-1.0": "EPL-1.0",
}

// versioned are the licences of the GNU project: "GPL-2+" is GPL-2.0-or-later.
var versioned = regexp.MustCompile(`^(gpl|lgpl|agpl|gfdl)(-niv)?-([0-9])(\.[0-9])?(\+)?$`)

var gnuVersions = map[string][]string{
	"GPL": {"1.0", "2.0", "3.0"}, "LGPL": {"2.0", "2.1", "3.0"}, "AGPL": {"1.0", "3.0"}, "GFDL": {"1.1", "1.2", "1.3"},
}

// spdxID is the SPDX list's name of a licence; false where the short name is none that everybody understands alike.
func spdxID(name string) (string, bool) {
	key := strings.ToLower(name)
	if id, ok := spdxIDs[key]; ok {
		return id, true
	}
	m := versioned.FindStringSubmatch(key)
	if m == nil {
		return "", false
	}
	family, version := strings.ToUpper(m[1]), m[3]+m[4]
	if m[4] == "" {
		version += ".0"
	}
	if !slices.Contains(gnuVersions[family], version) || m[2] != "" && family != "GFDL" {
		return "", false
	}
	id := family + "-" + version
	if m[2] != "" {
		id += "-no-invariants"
	}
	if m[5] != "" {
		return id + "-or-later", true
	}
	return id + "-only", true
}

// license is one licence of a package: an id of the SPDX list, or else only a name.
type license struct{ id, name string }

// licenses are those of a package, each once, known ones first.
func licenses(names []string) []license {
	var known, other []license
	for _, name := range names {
		if name == "" {
			continue
		}
		if id, ok := spdxID(name); ok {
			if l := (license{id: id}); !slices.Contains(known, l) {
				known = append(known, l)
			}
			continue
		}
		if l := (license{name: name}); !slices.Contains(other, l) {
			other = append(other, l)
		}
	}
	byID := func(a, b license) int { return strings.Compare(a.id+a.name, b.id+b.name) }
	slices.SortFunc(known, byID)
	slices.SortFunc(other, byID)
	return append(known, other...)
}
