package solve

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// index finds a package's stanzas in the lists. Only the places of the stanzas are in memory: a release has 65,000, and a
// plan looks at some hundred.
type index struct {
	files []listFile
	at    map[string][]place // by package name
}

type listFile struct {
	*os.File
	suite suite
}

// place is where a stanza is.
type place struct {
	file        int32
	start, size int64
}

// offered is one version of a package that a suite has.
type offered struct {
	deb.Package
	fields   map[string]string // relations, by field name in lower case
	suite    suite
	filename string
	sha256   string
	size     int64
}

// maxStanza bounds one stanza of a list, in bytes; the longest of Debian's has 150 KiB.
const maxStanza = 4 << 20

func readIndex(dir string, suites []suite, archs []string) (_ *index, err error) {
	ix := &index{at: map[string][]place{}}
	defer func() {
		if err != nil {
			ix.close()
		}
	}()
	for _, s := range suites {
		for _, component := range s.Components {
			for _, arch := range archs {
				name := deb.AptFileName(fmt.Sprintf("%s/dists/%s/%s/binary-%s/Packages", strings.TrimRight(s.Mirror, "/"), s.Suite.Suite, component, arch))
				f, err := os.Open(filepath.Join(dir, name))
				if errors.Is(err, fs.ErrNotExist) {
					continue // apt says which ones a suite must have
				}
				if err != nil {
					return nil, err
				}
				ix.files = append(ix.files, listFile{f, s})
				if err := ix.scan(len(ix.files)-1, f); err != nil {
					return nil, errs.Wrap(err, errs.Unavailable, CodeMirror, "the package list %s cannot be read", name)
				}
			}
		}
	}
	return ix, nil
}

// scan notes where the stanzas of a list begin and end.
func (ix *index) scan(file int, r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 256<<10), maxStanza)
	s.Split(stanzas)
	var at int64
	for s.Scan() {
		text := s.Bytes()
		if name, ok := bytes.CutPrefix(text, []byte("Package: ")); ok {
			name, _, _ = bytes.Cut(name, []byte("\n"))
			key := string(bytes.TrimSpace(name))
			ix.at[key] = append(ix.at[key], place{file: int32(file), start: at, size: int64(len(text))})
		}
		at += int64(len(text))
	}
	return s.Err()
}

// stanzas splits after the empty line behind each stanza; the pieces together are the whole text.
func stanzas(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.Index(data, []byte("\n\n")); i >= 0 {
		return i + 2, data[:i+2], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func (ix *index) close() {
	for _, f := range ix.files {
		f.Close() //nolint:errcheck // only read
	}
}

var offeredFields = func() map[string]bool {
	all := map[string]bool{"package": true, "version": true, "architecture": true, "source": true, "installed-size": true, "filename": true, "size": true, "sha256": true}
	for _, name := range relations {
		all[name] = true
	}
	return all
}()

// find gives every version of a package.
func (ix *index) find(name string) ([]offered, error) {
	var out []offered
	for _, at := range ix.at[name] {
		f := ix.files[at.file]
		err := deb.Paragraphs(io.NewSectionReader(f, at.start, at.size), offeredFields, func(_ int, get func(string) string) error {
			o := offered{suite: f.suite, filename: get("filename"), sha256: get("sha256"), size: kib(get("size")), fields: map[string]string{}}
			o.Package = deb.Package{Name: get("package"), Version: get("version"), Architecture: get("architecture"), Source: sourceOf(get("source"), name), InstalledSize: kib(get("installed-size"))}
			for _, field := range relations {
				o.fields[field] = strings.ReplaceAll(get(field), "\n", " ")
			}
			out = append(out, o)
			return nil
		})
		if err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, CodeMirror, "the package lists cannot be read")
		}
	}
	return out, nil
}

// sourceOf reads a Source field, "name (version)".
func sourceOf(field, name string) string {
	if words := strings.Fields(field); len(words) > 0 {
		return words[0]
	}
	return name
}

// codename reads the Codename of a suite's release, which apt has verified.
func codename(lists string, s upgrade.Suite) (string, error) {
	base := strings.TrimRight(s.Mirror, "/") + "/dists/" + s.Suite + "/"
	for _, file := range []string{"InRelease", "Release"} {
		text, err := os.ReadFile(filepath.Join(lists, deb.AptFileName(base+file)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if name, ok := strings.CutPrefix(line, "Codename:"); ok {
				return strings.TrimSpace(name), nil
			}
		}
		return "", nil
	}
	return "", errs.New(errs.Unavailable, CodeMirror, "the suite %s has no release file", s.Suite)
}
