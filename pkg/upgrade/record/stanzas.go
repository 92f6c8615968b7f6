package record

import (
	"bytes"
	"slices"
	"strings"
)

// stanzas is a file of paragraphs that are known by a key: dpkg's status, apt's extended states, debconf's databases.
type stanzas struct {
	keys []string          // in the file's order
	text map[string]string // of a whole stanza, without the empty line after it
}

// parseStanzas reads one. key gives "" for a stanza that is none.
func parseStanzas(data []byte, key func(stanza string) string) stanzas {
	s := stanzas{text: map[string]string{}}
	for stanza := range strings.SplitSeq(string(bytes.TrimSpace(data)), "\n\n") {
		stanza = strings.Trim(stanza, "\n")
		k := key(stanza)
		if k == "" {
			continue
		}
		if _, twice := s.text[k]; !twice {
			s.keys = append(s.keys, k)
		}
		s.text[k] = stanza
	}
	return s
}

// set replaces a stanza, adds it at its place in the order of compare, or removes it where text is "".
func (s *stanzas) set(key, text string, compare func(a, b string) int) {
	_, had := s.text[key]
	switch {
	case text == "" && had:
		delete(s.text, key)
		s.keys = slices.DeleteFunc(s.keys, func(k string) bool { return k == key })
	case text != "":
		s.text[key] = text
		if had {
			return
		}
		at := len(s.keys)
		if compare != nil {
			at, _ = slices.BinarySearchFunc(s.keys, key, compare)
		}
		s.keys = slices.Insert(s.keys, at, key)
	}
}

func (s *stanzas) bytes() []byte {
	var b bytes.Buffer
	for _, k := range s.keys {
		b.WriteString(s.text[k])
		b.WriteString("\n\n")
	}
	return b.Bytes()
}

// StanzaChange is how one stanza is before and after; "" where it is not there.
type StanzaChange struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// diffStanzas gives what changed, sorted by key.
func diffStanzas(before, after stanzas) []StanzaChange {
	var out []StanzaChange
	for k, text := range after.text {
		if before.text[k] != text {
			out = append(out, StanzaChange{Key: k, Before: before.text[k], After: text})
		}
	}
	for k, text := range before.text {
		if _, still := after.text[k]; !still {
			out = append(out, StanzaChange{Key: k, Before: text})
		}
	}
	slices.SortFunc(out, func(a, b StanzaChange) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// fieldOf is the first line of a field, "" where it is absent.
func fieldOf(stanza, name string) string {
	for line := range strings.SplitSeq(stanza, "\n") {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fieldLines are the continuation lines of a field.
func fieldLines(stanza, name string) []string {
	var out []string
	in := false
	for line := range strings.SplitSeq(stanza, "\n") {
		if !strings.HasPrefix(line, " ") {
			n, _, _ := strings.Cut(line, ":")
			in = strings.EqualFold(n, name)
			continue
		}
		if in {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// withoutFields drops whole fields.
func withoutFields(stanza string, names ...string) string {
	var out []string
	drop := false
	for line := range strings.SplitSeq(stanza, "\n") {
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
			n, _, _ := strings.Cut(line, ":")
			drop = slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(n, name) })
		}
		if !drop {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// packageKey is "name:architecture", as dpkg and apt key their stanzas.
func packageKey(stanza string) string {
	name := fieldOf(stanza, "Package")
	if name == "" {
		return ""
	}
	return name + ":" + fieldOf(stanza, "Architecture")
}

// debconfKey is the name of a question or template.
func debconfKey(stanza string) string { return fieldOf(stanza, "Name") }
