package apk

import (
	"bytes"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeDatabase says that a database of packages contradicts itself. It never changes.
const CodeDatabase = "kiln.facts.apk_database"

const (
	// MaxPackages is the most packages that a database may have.
	MaxPackages = 200_000
	maxWord     = 1024 // bytes of one field that is kept
)

// Package is what apk's database keeps of an installed package.
type Package struct {
	Name, Version, Architecture string
	Origin                      string // the package that it was built with; Name where the database does not say
	License                     string // as the packager wrote it
}

// ReadInstalled reads /lib/apk/db/installed: one letter, a colon and a value a line, an empty line between packages
// (https://gitlab.alpinelinux.org/alpine/apk-tools/-/blob/2.14-stable/src/database.c, apk_db_write_fdb). Invalid CodeDatabase
// with the line where it is none.
func ReadInstalled(text []byte) ([]Package, error) {
	var out []Package
	var p Package
	number := 0
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, CodeDatabase, "the apk database is damaged: "+format, args...).At(errs.Where{Line: number})
	}
	end := func() error {
		switch {
		case p == Package{}:
			return nil
		case p.Name == "" || p.Version == "":
			return bad("a package without a name or a version")
		case len(out) >= MaxPackages:
			return bad("more than %d packages", MaxPackages)
		case p.Origin == "":
			p.Origin = p.Name
		}
		out, p = append(out, p), Package{}
		return nil
	}
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			if err := end(); err != nil {
				return nil, err
			}
			continue
		}
		if len(line) < 2 || line[1] != ':' {
			return nil, bad("%.40q is no field", line)
		}
		field := p.field(line[0])
		if field == nil {
			continue
		}
		if *field != "" || len(line) > maxWord {
			return nil, bad("a field that is there twice, or of %d bytes", len(line))
		}
		*field = plain(line[2:])
	}
	if err := end(); err != nil {
		return nil, err
	}
	return out, nil
}

// field is where the value of a letter belongs; nil for what is not kept.
func (p *Package) field(letter byte) *string {
	switch letter {
	case 'P':
		return &p.Name
	case 'V':
		return &p.Version
	case 'A':
		return &p.Architecture
	case 'o':
		return &p.Origin
	case 'L':
		return &p.License
	}
	return nil
}

// plain drops what is no text.
func plain(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), ""))
}
