package sandbox

import (
	"io"
	"reflect"
	"strings"
	"sync"
	"unicode"
)

const (
	tailBytes = 4096 // kept of the output
	tailLines = 6    // shown in an error
	tailShown = 800  // characters shown in an error
)

// tail keeps the end of everything that was written.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func newTail() *tail { return &tail{} }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// tee gives a writer to w (which may be nil) that fills the tail too.
func (t *tail) tee(w io.Writer) io.Writer {
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
func (t *tail) lastLines() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ReplaceAll(string(t.buf), "\r", "\n"))
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
