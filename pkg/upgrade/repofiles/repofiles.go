// Package repofiles reads which rpm repositories the operator takes fixes from: files in the form of dnf's .repo files,
// one for each release of a distribution.
package repofiles

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// CodeMalformed says that a file cannot be used. It never changes.
const CodeMalformed = "kiln.config.rpm_repositories"

// Set are the repositories of all releases, by "almalinux-9".
type Set map[string][]upgrade.Repository

// Read reads a folder. Its repositories may have $releasever and $basearch in their addresses. Invalid with the file and
// the line where one says what Kiln does not do. A folder that is missing has none.
func Read(dir string) (Set, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.repo"))
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodeMalformed, "the folder of rpm repositories cannot be read")
	}
	set := Set{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, errs.Wrap(err, errs.Invalid, CodeMalformed, "the rpm repositories cannot be read")
		}
		all, err := parse(name, string(text))
		if err != nil {
			return nil, err
		}
		set[strings.TrimSuffix(filepath.Base(name), ".repo")] = all
	}
	return set, nil
}

// section is one on its way.
type section struct {
	upgrade.Repository
	line int
	off  bool
}

func parse(file, text string) ([]upgrade.Repository, error) {
	var all []section
	number := 0
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, CodeMalformed, format, args...).At(errs.Where{File: file, Line: number})
	}
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if id, ok := strings.CutPrefix(line, "["); ok {
			all = append(all, section{line: number})
			all[len(all)-1].ID = strings.TrimSuffix(id, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || len(all) == 0 {
			return nil, bad("%.60q is no option of a repository", line)
		}
		if problem := all[len(all)-1].set(strings.TrimSpace(key), strings.TrimSpace(value)); problem != "" {
			return nil, bad("%s", problem)
		}
	}
	var out []upgrade.Repository
	for _, s := range all {
		number = s.line
		if s.off {
			continue
		}
		if problem := filled(s.Repository, "9", "amd64").Problem(); problem != "" {
			return nil, bad("%s", problem)
		}
		if slices.ContainsFunc(out, func(r upgrade.Repository) bool { return r.ID == s.ID }) {
			return nil, bad("the repository %s is there twice", s.ID)
		}
		if _, err := os.Stat(s.Keys); errors.Is(err, fs.ErrNotExist) {
			return nil, bad("the file of keys %s is missing", s.Keys)
		}
		out = append(out, s.Repository)
	}
	return out, nil
}

// set takes an option (https://dnf.readthedocs.io/en/latest/conf_ref.html); a text where Kiln does not do what it asks for.
func (s *section) set(key, value string) string {
	switch key {
	case "name", "metadata_expire", "type", "countme", "fastestmirror":
		return ""
	case "enabled":
		s.off = value == "0"
	case "baseurl":
		s.BaseURL = strings.TrimRight(value, "/")
	case "gpgkey":
		path, ok := strings.CutPrefix(value, "file://")
		if !ok || strings.ContainsAny(path, " ,") {
			return "gpgkey has to be one file:///… of this machine: a key that is fetched proves nothing"
		}
		s.Keys = path
	case "gpgcheck":
		if value != "1" {
			return "gpgcheck is always 1: packages that nobody signed are not taken"
		}
	case "repo_gpgcheck":
		s.Unsigned = value == "0"
	default:
		return key + " is no option that Kiln knows here: name, enabled, baseurl, gpgkey, gpgcheck, repo_gpgcheck"
	}
	return ""
}

var baseArch = strings.NewReplacer("amd64", "x86_64", "arm64", "aarch64")

// filled replaces dnf's variables.
func filled(r upgrade.Repository, release, arch string) upgrade.Repository {
	r.BaseURL = strings.NewReplacer("$releasever", release, "$basearch", baseArch.Replace(arch)).Replace(r.BaseURL)
	return r
}

// For gives the repositories of an image: those of almalinux-9.4, else those of almalinux-9.
func (s Set) For(f *catalog.Facts) []upgrade.Repository {
	major, _, _ := strings.Cut(f.OS.VersionID, ".")
	for _, release := range []string{f.OS.VersionID, major} {
		all, ok := s[f.OS.ID+"-"+release]
		if !ok {
			continue
		}
		out := make([]upgrade.Repository, len(all))
		for i, r := range all {
			out[i] = filled(r, release, f.Architecture)
		}
		return out
	}
	return nil
}

// Upstreams are the addresses below which all repositories lie: each up to its first variable.
func (s Set) Upstreams() []string {
	var out []string
	for _, all := range s {
		for _, r := range all {
			base, _, found := strings.Cut(r.BaseURL, "$")
			if found {
				base = base[:strings.LastIndexByte(base, '/')]
			}
			out = append(out, base)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
