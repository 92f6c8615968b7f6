package deb

import (
	"io"
	"slices"
	"strings"
)

// Conffile is one line of a Conffiles field of dpkg's status: a configuration file as its package shipped it last.
type Conffile struct {
	Package  string
	Path     string // absolute
	MD5      string // of the shipped text, hex; "newconffile" before the package was configured
	Obsolete bool   // the package no longer ships it, or has dpkg remove it
}

// ParseConffiles reads the configuration files out of /var/lib/dpkg/status, with the errors of ParseStatus. Lines that
// are none are left out.
func ParseConffiles(r io.Reader) ([]Conffile, error) {
	var all []Conffile
	err := scanParagraphs(r, map[string]bool{"package": true, "conffiles": true}, func(p *paragraph) error {
		for line := range strings.Lines(p.get("conffiles")) {
			words := strings.Fields(line)
			if len(words) < 2 || !strings.HasPrefix(words[0], "/") {
				continue
			}
			all = append(all, Conffile{Package: p.get("package"), Path: words[0], MD5: words[1], Obsolete: slices.Contains(words[2:], "obsolete") || slices.Contains(words[2:], "remove-on-upgrade")})
		}
		return nil
	})
	return all, err
}
