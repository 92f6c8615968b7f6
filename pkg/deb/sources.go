package deb

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Mirrors are the base URLs of the repositories that a machine uses.
type Mirrors struct {
	Main     string // serves <release> and <release>-updates
	Security string // serves <release>-security
}

// Source is one active line of apt's sources.
type Source struct {
	URI        string
	Suite      string
	Components []string
}

// MachineMirrors finds the mirrors of Debian 12 (bookworm) in this machine's own apt sources, so that
// Kiln fetches packages from where the operator decided. NotFound where apt knows none.
func MachineMirrors() (Mirrors, error) { return ReadMirrors("/etc/apt", "bookworm") }

// ReadMirrors is MachineMirrors for another apt folder and release (a code name).
func ReadMirrors(dir, release string) (Mirrors, error) {
	sources, err := ReadSources(dir)
	if err != nil {
		return Mirrors{}, err
	}
	m := Mirrors{Main: firstURI(sources, release), Security: firstURI(sources, release+"-security")}
	switch {
	case m.Main == "":
		return m, noMirror(dir, release)
	case m.Security == "":
		return m, noMirror(dir, release+"-security")
	}
	return m, nil
}

func noMirror(dir, suite string) error {
	return errs.New(errs.NotFound, "kiln.advisory.mirror_unknown",
		"no http mirror serves %s main in the apt sources below %s: add one there, or name it in the configuration", suite, dir)
}

func firstURI(sources []Source, suite string) string {
	for _, s := range sources {
		if s.Suite == suite && slices.Contains(s.Components, "main") {
			return s.URI
		}
	}
	return ""
}

// ReadSources reads sources.list and sources.list.d below an apt folder, in apt's order
// (https://manpages.debian.org/sources.list). Only binary http and https sources are given.
func ReadSources(dir string) ([]Source, error) {
	names := []string{filepath.Join(dir, "sources.list")}
	entries, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		names = append(names, filepath.Join(dir, "sources.list.d", e.Name()))
	}
	var all []Source
	for _, name := range names {
		parse := parseOneLine
		switch filepath.Ext(name) {
		case ".list":
		case ".sources":
			parse = parseDeb822
		default:
			continue
		}
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := parse(text)
		if err != nil {
			return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.sources_malformed", "cannot read apt's sources").
				At(errs.Where{File: name})
		}
		all = append(all, found...)
	}
	return slices.DeleteFunc(all, func(s Source) bool { return !isHTTP(s.URI) }), nil
}

func isHTTP(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// parseOneLine reads "deb [options] uri suite component…".
func parseOneLine(text []byte) ([]Source, error) {
	var all []Source
	s := bufio.NewScanner(bytes.NewReader(text))
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if words := strings.Fields(rest); len(words) >= 3 {
			all = append(all, Source{URI: strings.TrimRight(words[0], "/"), Suite: words[1], Components: words[2:]})
		}
	}
	return all, s.Err()
}

// parseDeb822 reads stanzas of Types, URIs, Suites and Components.
func parseDeb822(text []byte) ([]Source, error) {
	var all []Source
	err := scanParagraphs(bytes.NewReader(text), nil, func(p *paragraph) error {
		enabled := strings.ToLower(p.get("enabled"))
		if enabled == "no" || enabled == "false" || !slices.Contains(strings.Fields(p.get("types")), "deb") {
			return nil
		}
		for uri := range strings.FieldsSeq(p.get("uris")) {
			for suite := range strings.FieldsSeq(p.get("suites")) {
				all = append(all, Source{URI: strings.TrimRight(uri, "/"), Suite: suite, Components: strings.Fields(p.get("components"))})
			}
		}
		return nil
	})
	return all, err
}
