package deb

import "io"

// Paragraphs reads deb822 text (https://manpages.debian.org/deb822) and calls fn for each stanza with the line that it
// begins on and a function that gives a field by its name in lower case, "" where it is absent; the lines of a folded
// field are joined by "\n". Only the wanted fields are kept; nil means all. Invalid, with the line, where the text is no deb822.
func Paragraphs(r io.Reader, wanted map[string]bool, fn func(line int, get func(name string) string) error) error {
	return scanParagraphs(r, wanted, func(p *paragraph) error { return fn(p.line, p.get) })
}
