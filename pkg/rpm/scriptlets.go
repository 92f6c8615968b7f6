package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodePackage says that a package file contradicts itself. It never changes.
const CodePackage = "kiln.rpm.package"

// Scriptlet is what a package runs when it comes or goes.
type Scriptlet struct {
	Name    string // pre, post, trigger …
	Program string // that reads Text, or runs alone where Text is empty; "<lua>" is rpm itself
	Text    string
}

// Tags of scriptlets and of their programs, in the order in which an upgrade runs them.
var scriptletTags = []struct {
	name          string
	text, program uint32
}{
	{"pretrans", 1151, 1153}, {"pre", 1023, 1085}, {"post", 1024, 1086}, {"preun", 1025, 1087}, {"postun", 1026, 1088}, {"posttrans", 1152, 1154},
	{"trigger", 1065, 1092}, {"filetrigger", 5066, 5067}, {"transfiletrigger", 5076, 5077},
}

const (
	leadMagic   = "\xed\xab\xee\xdb"
	leadSize    = 96
	headerMagic = "\x8e\xad\xe8\x01"
	typeStrings = 8
	// maxHead bounds a header of a package file in bytes: the largest of Fedora's have 20 MB of file names.
	maxHead       = 64 << 20
	maxScriptlets = 1 << 12
)

// ReadScriptlets reads the scriptlets of a package file (https://rpm-software-management.github.io/rpm/manual/format_v4.html)
// out of its header: what comes after it is not read. Nobody's signature is looked at. Invalid CodePackage where the file
// is no package.
func ReadScriptlets(r io.Reader) ([]Scriptlet, error) {
	out, err := readScriptlets(r)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodePackage, "the package file cannot be read")
	}
	return out, nil
}

func readScriptlets(r io.Reader) ([]Scriptlet, error) {
	lead := make([]byte, leadSize)
	if _, err := io.ReadFull(r, lead); err != nil || string(lead[:4]) != leadMagic {
		return nil, errors.Join(err, errors.New("it does not begin as one"))
	}
	_, _, size, err := fileHeader(r) // signatures
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, int64(-size&7)); err != nil {
		return nil, err
	}
	index, data, _, err := fileHeader(r)
	if err != nil {
		return nil, err
	}
	var out []Scriptlet
	for _, s := range scriptletTags {
		texts, err := stringsOf(index, data, s.text)
		if err != nil {
			return nil, err
		}
		programs, err := stringsOf(index, data, s.program)
		if err != nil {
			return nil, err
		}
		if len(texts) == 0 && len(programs) > 0 {
			texts = []string{""} // a program and no text: -p /sbin/ldconfig
		}
		for i, text := range texts {
			one := Scriptlet{Name: s.name, Program: "/bin/sh", Text: text}
			switch {
			case s.text == 1065 || s.text > 5000: // one program for each
				if i < len(programs) {
					one.Program = programs[i]
				}
			case len(programs) > 0:
				one.Program = programs[0]
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// fileHeader reads a header of a package file: a magic, two counts, the index, the values.
func fileHeader(r io.Reader) (index, data []byte, size int, err error) {
	intro := make([]byte, 16)
	if _, err := io.ReadFull(r, intro); err != nil {
		return nil, nil, 0, err
	}
	tags, values := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if string(intro[:4]) != headerMagic || tags > maxTags || values > maxHead {
		return nil, nil, 0, errors.New("it has no header where one has to be")
	}
	var b bytes.Buffer // and not its size at once: the file may be shorter
	if _, err := io.CopyN(&b, r, 16*int64(tags)+int64(values)); err != nil {
		return nil, nil, 0, err
	}
	return b.Bytes()[:16*tags], b.Bytes()[16*tags:], int(values), nil
}

// stringsOf gives the texts of a tag; none where it is missing.
func stringsOf(index, data []byte, tag uint32) ([]string, error) {
	for ; len(index) > 0; index = index[16:] {
		if binary.BigEndian.Uint32(index) != tag {
			continue
		}
		kind, at, count := binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[8:]), binary.BigEndian.Uint32(index[12:])
		if kind != typeString && kind != typeStrings && kind != typeI18N {
			return nil, errors.New("a scriptlet that is no text")
		}
		if kind == typeString {
			count = 1
		}
		if int64(at) > int64(len(data)) || count > maxScriptlets {
			return nil, errors.New("a scriptlet outside of its header")
		}
		var out []string
		rest := data[at:]
		for range count {
			end := bytes.IndexByte(rest, 0)
			if end < 0 {
				return nil, errors.New("a scriptlet without an end")
			}
			out, rest = append(out, string(rest[:end])), rest[end+1:]
		}
		return out, nil
	}
	return nil, nil
}
