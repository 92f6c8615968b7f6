// Package deb reads what Debian's tools write: the dpkg status, versions, signed repositories,
// changelogs and apt's sources. It only reads; what installs packages is apt, in the sandbox.
package deb

import (
	"io"
	"strings"
)

// Package is one package as dpkg knows it.
type Package struct {
	Name          string
	Version       string
	Architecture  string
	Status        string // dpkg's three words, "install ok installed"
	Source        string // source package; the package's own name where dpkg gives none
	SourceVersion string // the package's own version where dpkg gives none
	Essential     bool
	InstalledSize int64 // KiB, as dpkg estimates it; 0 where unknown
}

// Installed reports whether the package's files are there (fully installed, or waiting for triggers).
func (p Package) Installed() bool {
	words := strings.Fields(p.Status)
	if len(words) != 3 {
		return false
	}
	switch words[2] {
	case "installed", "triggers-pending", "triggers-awaited":
		return true
	}
	return false
}

// Held reports whether the administrator asked that the package stays at its version.
func (p Package) Held() bool { return strings.HasPrefix(p.Status, "hold ") }

var statusFields = map[string]bool{
	"package": true, "version": true, "architecture": true, "status": true, "source": true,
	"essential": true, "installed-size": true,
}

// ParseStatus reads /var/lib/dpkg/status, in the file's order. Unknown fields and a missing last
// newline are fine; a line that is no field, or a stanza without a name, is Invalid with its line.
func ParseStatus(r io.Reader) ([]Package, error) {
	var all []Package
	err := scanParagraphs(r, statusFields, func(p *paragraph) error {
		name := p.get("package")
		if name == "" {
			return malformed(p.line, "a package without a name")
		}
		pkg := Package{
			Name: name, Version: p.get("version"), Architecture: p.get("architecture"),
			Status: p.get("status"), Essential: p.get("essential") == "yes",
			InstalledSize: decimal(p.get("installed-size")),
		}
		pkg.Source, pkg.SourceVersion = splitSource(p.get("source"), pkg.Name, pkg.Version)
		all = append(all, pkg)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// splitSource reads a Source field, "name" or "name (version)".
func splitSource(text, name, version string) (source, sourceVersion string) {
	if text == "" {
		return name, version
	}
	source, rest, ok := strings.Cut(text, "(")
	if ok {
		version = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), ")"))
	}
	return strings.TrimSpace(source), version
}

// decimal reads a non-negative number; 0 for anything else, because sizes are only estimates here.
func decimal(text string) int64 {
	var n int64
	for _, c := range []byte(text) {
		if c < '0' || c > '9' || n > 1<<50 {
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
