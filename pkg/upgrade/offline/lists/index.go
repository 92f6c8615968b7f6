package lists

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/kiln-cloud/kiln/pkg/deb"
)

// maxStanza bounds one stanza of a list, in bytes; the longest of Debian's has 150 KiB.
const maxStanza = 4 << 20

// list is one list with the places of its stanzas.
type list struct {
	sum       string
	text      *os.File // has no name any more: it goes with the last who knows it
	at        map[string][]place
	providers map[string][]string // of virtual packages
	file      string              // where one reader wants it
}

type place struct{ start, size int64 }

// index unpacks a list and notes where its stanzas are.
func index(ctx context.Context, signed deb.SignedList, dir string) (*list, error) {
	text, err := os.CreateTemp(dir, ".list-*")
	if err != nil {
		return nil, broken(err)
	}
	if err := os.Remove(text.Name()); err != nil {
		return nil, broken(errors.Join(err, text.Close()))
	}
	l := &list{sum: signed.SHA256, text: text, at: map[string][]place{}, providers: map[string][]string{}}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := l.scan(r)
		_ = r.CloseWithError(err) // never fails
		done <- err
	}()
	err = signed.Unpack(ctx, io.MultiWriter(text, w))
	_ = w.CloseWithError(err) // never fails
	if scanned := <-done; err == nil && scanned != nil {
		err = broken(scanned)
	}
	if err != nil {
		return nil, errors.Join(err, text.Close())
	}
	return l, nil
}

func (l *list) scan(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 256<<10), maxStanza)
	s.Split(stanzas)
	var at int64
	for s.Scan() {
		text := s.Bytes()
		if name := field(text, "Package: "); name != "" {
			l.at[name] = append(l.at[name], place{start: at, size: int64(len(text))})
			if provides := field(text, "Provides: "); provides != "" {
				relations(provides, func(virtual string) { l.providers[virtual] = append(l.providers[virtual], name) })
			}
		}
		at += int64(len(text))
	}
	return s.Err()
}

// field gives the value of a field of one line.
func field(stanza []byte, name string) string {
	if !bytes.HasPrefix(stanza, []byte(name)) {
		i := bytes.Index(stanza, append([]byte("\n"), name...))
		if i < 0 {
			return ""
		}
		stanza = stanza[i+1:]
	}
	value, _, _ := bytes.Cut(stanza[len(name):], []byte("\n"))
	return string(bytes.TrimSpace(value))
}

// stanzas splits after the empty line behind each stanza; the pieces together are the whole text.
func stanzas(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.Index(data, []byte("\n\n")); i >= 0 {
		return i + 2, data[:i+2], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), append(bytes.Clone(data), '\n'), nil
	}
	return 0, nil, nil
}
