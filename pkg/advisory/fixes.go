package advisory

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Fix is what the operator's files say of one package of one release.
type Fix struct {
	CVEs       []string
	Introduced string // the first version that has the fault; "" or "0" for all of them
	Fixed      string // the first that has it no more
	Urgency    string
	Suite      string // SuiteTracker, SuiteOSV
}

// maxFixes bounds what is kept of the operator's files; all of Debian's tracker is a fifth of it.
const maxFixes = 2_000_000

// Fixes are what the operator's files say, for the releases and packages that were wanted.
type Fixes struct {
	of       map[string][]Fix // by release and package
	urgency  map[string]string
	n        int
	Problems []error // files and entries that could not be read; the rest counts
}

func newFixes() *Fixes { return &Fixes{of: map[string][]Fix{}, urgency: map[string]string{}} }

// Of gives the fixes of a package, by the names that a system's release has in the files.
func (f *Fixes) Of(releases []string, pkg string) []Fix {
	if f == nil {
		return nil
	}
	var out []Fix
	for _, r := range releases {
		out = append(out, f.of[r+"\x00"+pkg]...)
	}
	return out
}

// Urgency is the highest urgency that a file gives the CVE; "" where none does.
func (f *Fixes) Urgency(cve string) string {
	if f == nil {
		return ""
	}
	return f.urgency[cve]
}

func (f *Fixes) add(release, pkg string, x Fix) error {
	if f.n++; f.n > maxFixes {
		return errs.New(errs.TooLarge, "kiln.advisory.file_too_large", "the files of [advisory] have more than %d fixes", maxFixes)
	}
	for _, id := range x.CVEs {
		f.urgency[id] = Worse(f.urgency[id], x.Urgency)
	}
	if x.Fixed != "" {
		key := release + "\x00" + pkg
		f.of[key] = append(f.of[key], x)
	}
	return nil
}

func (f *Fixes) problem(file, entry string, err error) {
	f.Problems = append(f.Problems, badEntry(file, entry, err))
}

func badEntry(file, entry string, err error) error {
	return errs.Wrap(err, errs.Invalid, "kiln.advisory.file_malformed", "cannot be read and is left out").At(errs.Where{File: file, Field: entry})
}

// Files are what the operator configured: the Debian security tracker's JSON, and files, zips and folders of OSV records.
type Files struct {
	Tracker string
	OSV     []string
}

// Wanted says what is kept of the files. Nil keeps all.
type Wanted struct {
	Releases map[string]bool // as System.Releases names them
	Packages map[string]bool
}

func (w Wanted) wants(release, pkg string) bool {
	return (w.Releases == nil || w.Releases[release]) && (w.Packages == nil || w.Packages[pkg])
}

// Read reads the files. What cannot be read is in Problems, with its file and entry.
func (files Files) Read(w Wanted) *Fixes {
	f := newFixes()
	if files.Tracker != "" {
		if err := f.readTracker(files.Tracker, w); err != nil {
			f.problem(files.Tracker, "", err)
		}
	}
	for _, name := range files.OSV {
		if err := f.readOSV(name, w); err != nil {
			f.problem(name, "", err)
		}
	}
	return f
}

// Stamp changes when one of the files does. A file that is away is part of it.
func (files Files) Stamp() string {
	var out []string
	names := slices.Clone(files.OSV)
	if files.Tracker != "" {
		names = append(names, files.Tracker)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		switch {
		case err != nil:
			out = append(out, name+" away")
		case info.IsDir():
			out = append(out, name+" "+folderStamp(name))
		default:
			out = append(out, fmt.Sprintf("%s %d %d", name, info.Size(), info.ModTime().UnixNano()))
		}
	}
	return strings.Join(out, "\n")
}

// Releases are the names that the system's release has in the operator's files; see
// https://ossf.github.io/osv-schema/#affectedpackage-field.
func (s System) Releases() []string {
	major, _, _ := strings.Cut(s.VersionID, ".")
	if s.VersionID == "" && s.Release == "" {
		return nil
	}
	switch s.OS {
	case "debian":
		return []string{"tracker:" + s.Release, "Debian:" + major}
	case "ubuntu":
		return []string{"Ubuntu:" + s.VersionID}
	case "rocky":
		return []string{"Rocky Linux:" + major}
	case "almalinux":
		return []string{"AlmaLinux:" + major}
	case "alpine":
		parts := strings.SplitN(s.VersionID, ".", 3)
		if len(parts) >= 2 {
			return []string{"Alpine:v" + parts[0] + "." + parts[1]}
		}
	}
	return nil
}

// ecosystem is an OSV ecosystem as System.Releases names it; "" for one that Kiln has no images of.
func ecosystem(text string) string {
	name, rest, _ := strings.Cut(text, ":")
	release, tail, _ := strings.Cut(rest, ":")
	switch name {
	case "Debian", "Rocky Linux", "AlmaLinux", "Alpine":
		return name + ":" + release
	case "Ubuntu": // "Ubuntu:22.04:LTS"; "Ubuntu:Pro:…" is not in the public repositories
		if release == "Pro" || strings.HasPrefix(tail, "Pro") {
			return ""
		}
		return name + ":" + release
	}
	return ""
}

var errTooLarge = errors.New("it is larger than Kiln reads")
