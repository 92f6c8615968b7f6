package solve

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// move is one package in apt's answer.
type move struct {
	name, arch string // arch is "" for the native one and for "all"
	from, to   string
}

// file is a package file that apt would fetch.
type file struct {
	uri, arch, sha256 string
	size              int64
}

// answer is what apt would do.
type answer struct {
	changes []move // installed, upgraded and downgraded
	removed []move
	kept    []move // have a new version and are left as they are
	phased  []move // left as they are until the repository offers the version to more machines
	files   map[string]file
}

var (
	uriLine  = regexp.MustCompile(`^'([^']+)' ([^ _]+)_([^ _]+)_([^ _]+)\.deb (\d+) SHA256:([0-9a-f]{64})$`)
	moveLine = regexp.MustCompile(`^  +([^ :*]+)(?::([a-z0-9-]+))?\*? \(([^ )]+)(?: => ([^ )]+))?\)`)
	instLine = regexp.MustCompile(`^Inst ([^ :]+)(?::[a-z0-9-]+)? (?:\[([^]]+)\] )?\(([^ )]+) `)
	unmetBeg = regexp.MustCompile(`^ ([^ :]+)(?::[a-z0-9-]+)? : (.*)$`)
	unmetMid = regexp.MustCompile(`^ {3,}(\S.*)$`)
)

// readAnswer reads what "apt-get -V --print-uris" prints in the C locale (apt-private/private-output.cc).
func readAnswer(text string) answer {
	a := answer{files: map[string]file{}}
	var section *[]move
	for line := range strings.SplitSeq(text, "\n") {
		if m := uriLine.FindStringSubmatch(line); m != nil {
			version, err := url.PathUnescape(m[3])
			if size, sizeErr := strconv.ParseInt(m[5], 10, 64); err == nil && sizeErr == nil {
				a.files[m[2]+" "+version+" "+m[4]] = file{uri: m[1], arch: m[4], sha256: m[6], size: size}
			}
			continue
		}
		if m := moveLine.FindStringSubmatch(line); m != nil && section != nil {
			mv := move{name: m[1], arch: m[2], from: m[3], to: m[4]}
			if mv.to == "" && section == &a.changes {
				mv.from, mv.to = "", mv.from // a new package has one version only
			}
			*section = append(*section, mv)
			continue
		}
		if !strings.HasPrefix(line, " ") {
			section = a.section(line)
		}
	}
	return a
}

// section is where the packages below a headline belong; nil for those that say nothing new.
func (a *answer) section(headline string) *[]move {
	switch headline {
	case "The following NEW packages will be installed:", "The following packages will be upgraded:", "The following packages will be DOWNGRADED:":
		return &a.changes
	case "The following packages will be REMOVED:":
		return &a.removed
	case "The following packages have been kept back:":
		return &a.kept
	case "The following upgrades have been deferred due to phasing:":
		return &a.phased
	}
	return nil
}

// find is the file of a package; the version of a package for all architectures has "all" in its name.
func (a *answer) find(m move, native string) (file, bool) {
	for _, arch := range []string{m.arch, native, "all"} {
		if f, ok := a.files[m.name+" "+m.to+" "+arch]; ok && arch != "" {
			return f, true
		}
	}
	return file{}, false
}

// readUnmet reads apt's list of unmet dependencies: package to what it lacks.
func readUnmet(text string) map[string]string {
	out, current, inside := map[string]string{}, "", false
	for line := range strings.SplitSeq(text, "\n") {
		if line == "The following packages have unmet dependencies:" {
			inside = true
			continue
		}
		if !inside {
			continue
		}
		if m := unmetBeg.FindStringSubmatch(line); m != nil {
			current = m[1]
			out[current] = m[2]
		} else if m := unmetMid.FindStringSubmatch(line); m != nil && current != "" {
			out[current] += "; " + m[1]
		} else {
			inside = false
		}
	}
	return out
}
