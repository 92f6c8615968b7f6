package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// maxLine bounds one line of a control file, in bytes. The longest that Debian publishes are
// Depends and Built-Using fields of some 50 KiB.
const maxLine = 1 << 20

// paragraph is one stanza of a deb822 file: the wanted fields, and where it starts.
type paragraph struct {
	line   int // counted from 1
	fields map[string]field
}

type field struct {
	value string
	line  int
}

// get is the value of a field, "" where it is absent. Names are in lower case.
func (p *paragraph) get(name string) string { return p.fields[name].value }

// scanParagraphs reads deb822 (https://manpages.debian.org/deb822) and calls fn for each stanza.
// Only the fields named in wanted (lower case; nil means all) are kept: a Packages file has 65,000
// stanzas, and most of their text is never looked at. The paragraph is reused between the calls.
func scanParagraphs(r io.Reader, wanted map[string]bool, fn func(*paragraph) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	p := &paragraph{fields: map[string]field{}}
	seen, last, number := false, "", 0
	flush := func() error {
		if !seen {
			return nil
		}
		err := fn(p)
		clear(p.fields)
		seen, last = false, ""
		return err
	}
	for s.Scan() {
		number++
		line := bytes.TrimRight(s.Bytes(), " \t\r")
		switch {
		case len(line) == 0:
			if err := flush(); err != nil {
				return err
			}
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if !seen {
				return malformed(number, "a continuation line without a field before it")
			}
			if f, ok := p.fields[last]; ok {
				f.value += "\n" + string(bytes.TrimSpace(line))
				p.fields[last] = f
			}
		default:
			name, value, ok := bytes.Cut(line, []byte{':'})
			if !ok || len(name) == 0 {
				return malformed(number, "no \"name: value\" field")
			}
			if !seen {
				seen, p.line = true, number
			}
			last = ""
			lower := bytes.ToLower(name)
			if wanted == nil || wanted[string(lower)] {
				last = string(lower)
				p.fields[last] = field{value: string(bytes.TrimSpace(value)), line: number}
			}
		}
	}
	if err := s.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return malformed(number+1, fmt.Sprintf("a line of more than %d bytes", maxLine))
		}
		return err
	}
	return flush()
}

func malformed(line int, what string) error {
	return errs.New(errs.Invalid, "kiln.advisory.control_malformed", "%s", what).At(errs.Where{Line: line})
}
