package pen

import (
	"strings"
	"unicode"
)

const (
	tailLines = 8    // of output in an error
	tailShown = 1200 // characters of it
)

// tail keeps the last lines of output.
type tail struct{ lines []string }

func (t *tail) add(line string) {
	// What a tool and an image say is hostile: nothing of it acts on a terminal.
	line = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
	if line = strings.TrimSpace(line); line == "" {
		return
	}
	t.lines = append(t.lines, line)
	t.lines = t.lines[max(0, len(t.lines)-tailLines):]
}

func (t *tail) text() string {
	if len(t.lines) == 0 {
		return ""
	}
	text := strings.Join(t.lines, "\n")
	if len(text) > tailShown {
		text = strings.ToValidUTF8(text[len(text)-tailShown:], "")
	}
	return " Its last lines were: " + text
}
