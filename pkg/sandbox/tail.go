package sandbox

import (
	"cmp"
	"io"
	"reflect"
	"strings"
	"sync"
	"unicode"
)

const (
	tailBytes = 4096 // kept of the output for an error
	tailLines = 6    // shown in an error
	tailShown = 800  // characters shown in an error
)

// DefaultTail is how many bytes a Tail keeps that names no bound: enough to see why a package manager failed.
const DefaultTail = 64 << 10

// Tail keeps the end of everything that is written to it. The zero value works.
type Tail struct {
	Most int // bytes; default DefaultTail

	mu  sync.Mutex
	buf []byte
}

// String is what is kept.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - cmp.Or(t.Most, DefaultTail); over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// tee gives a writer to w (which may be nil) that fills the tail too.
func (t *Tail) tee(w io.Writer) io.Writer {
	if w == nil {
		return t
	}
	return io.MultiWriter(t, w)
}

// same reports whether both are one writer, as far as they can be compared.
func same(a, b io.Writer) bool {
	return a != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(a) == reflect.TypeOf(b) && a == b
}

// lastLines is the end of the output as a sentence for an error, or "".
func (t *Tail) lastLines() string {
	text := strings.TrimSpace(strings.ReplaceAll(t.String(), "\r", "\n"))
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	text = printable(strings.Join(lines[max(0, len(lines)-tailLines):], "\n"))
	if len(text) > tailShown {
		text = strings.ToValidUTF8(text[len(text)-tailShown:], "")
	}
	return " Its last lines were: " + text
}

// printable drops what could act on a terminal or a log: an image's output is hostile.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
