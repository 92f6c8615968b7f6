package record

import (
	"testing"
)

// FuzzDatabases: what images have in the package manager's files is hostile.
func FuzzDatabases(f *testing.F) {
	for _, text := range []string{foo1, man2, "Package: a\nDepends: b (>= 1) | c:any, d (", "/a\n/b\n", "root:x:0:0::", " x\n\n:\n", "Package: \nStatus: a b\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all := parseStanzas([]byte(text), packageKey)
		again := parseStanzas(all.bytes(), packageKey)
		if len(again.keys) != len(all.keys) {
			t.Errorf("%d stanzas became %d", len(all.keys), len(again.keys))
		}
		d := database{status: all}
		d.loose(map[string]string{"foo:amd64": foo2})
		d.loose(all.text)
		for _, stanza := range all.text {
			conffiles(stanza)
			settled(stanza)
			ownsQuestion(stanza, map[string]bool{"foo:amd64": true})
		}
		diversionsOf(text)
		differentUser(userLines(text), userLines(foo1), map[string]bool{})
		ownerNames(text, text)
		if _, _, err := resolve(func(string) (State, error) { return State{Type: TypeLink, Target: text}, nil }, text, true); err != nil {
			t.Error(err)
		}
	})
}
