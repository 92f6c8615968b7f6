// Package lists gives apt the part of a repository's lists that an upgrade of one image can touch: what is installed, and
// what that may depend on. apt reads some thousand lines instead of a million, and nothing is fetched or verified twice.
package lists

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// CodeLists is the code of lists that cannot be written or read on this host.
const CodeLists = "kiln.upgrade.lists"

// Shelf has the lists of the suites that were last asked for, indexed. It is safe for many goroutines.
type Shelf struct {
	dir    string
	client *deb.Client
	mu     sync.Mutex
	known  []*list // the last used first
}

// keptLists bounds the lists that are indexed at a time: two suites of four releases. One of a whole release takes
// 50 MB of disk and 10 MB of memory.
const keptLists = 12

// New makes an empty shelf. The client verifies what it fetches; dir is for unpacked lists, which have no name there.
func New(dir string, client *deb.Client) *Shelf { return &Shelf{dir: dir, client: client} }

// Lay writes the lists of the suites into a folder as apt keeps them (Dir::State::Lists): the signed InRelease whole, of the
// lists what the installed packages and all that they may depend on need. Errors are those of deb.Client.Fetch.
func (s *Shelf) Lay(ctx context.Context, suites []upgrade.Suite, archs, installed []string, dir string) error {
	var all []*list
	for _, suite := range suites {
		for i, arch := range archs {
			signed, err := s.client.Signed(ctx, deb.Suite{Mirror: suite.Mirror, Suite: suite.Suite, Components: suite.Components, Arch: arch})
			if err != nil {
				return err
			}
			base := strings.TrimRight(suite.Mirror, "/") + "/dists/" + suite.Suite + "/"
			if i == 0 {
				if err := os.WriteFile(filepath.Join(dir, deb.AptFileName(base+"InRelease")), signed.InRelease, 0o644); err != nil {
					return broken(err)
				}
			}
			for _, l := range signed.Lists {
				found, err := s.list(ctx, l)
				if err != nil {
					return err
				}
				found.file = filepath.Join(dir, deb.AptFileName(base+l.Name))
				all = append(all, found)
			}
		}
	}
	return write(all, installed)
}

// list gives an indexed list, with a name of its own.
func (s *Shelf) list(ctx context.Context, signed deb.SignedList) (*list, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // one index at a time: whoever waits most often wants the same
	for i, l := range s.known {
		if l.sum == signed.SHA256 {
			copy(s.known[1:i+1], s.known[:i])
			s.known[0] = l
			again := *l
			return &again, nil
		}
	}
	l, err := index(ctx, signed, s.dir)
	if err != nil {
		return nil, err
	}
	s.known = append([]*list{l}, s.known...)
	s.known = s.known[:min(len(s.known), keptLists)] // the text of those that fall out goes with their last reader
	again := *l
	return &again, nil
}

func broken(err error) error {
	return errs.Wrap(err, errs.Internal, CodeLists, "the package lists cannot be kept on this host")
}

// write writes what is needed of each list to its file.
func write(all []*list, installed []string) error {
	out := make([]bytes.Buffer, len(all))
	seen, queue := map[string]bool{}, append([]string{}, installed...)
	for _, name := range installed {
		seen[name] = true
	}
	want := func(name string) {
		if !seen[name] {
			seen[name] = true
			queue = append(queue, name)
		}
	}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		for i, l := range all {
			for _, by := range l.providers[name] {
				want(by)
			}
			for _, at := range l.at[name] {
				text := make([]byte, at.size)
				if _, err := l.text.ReadAt(text, at.start); err != nil {
					return broken(err)
				}
				out[i].Write(text)
				needs(text, want)
			}
		}
	}
	for i, l := range all {
		if err := os.WriteFile(l.file, out[i].Bytes(), 0o644); err != nil {
			return broken(err)
		}
	}
	return nil
}

// needs names what a stanza depends on.
func needs(stanza []byte, want func(string)) {
	for line := range strings.SplitSeq(string(stanza), "\n") {
		for _, field := range []string{"Depends: ", "Pre-Depends: "} {
			if value, ok := strings.CutPrefix(line, field); ok {
				relations(value, want)
			}
		}
	}
}

// relations names the packages in a relation field (deb-control(5)): "a (>= 1) | b:any, c [amd64]".
func relations(value string, name func(string)) {
	for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == '|' }) {
		part = strings.TrimSpace(part)
		if end := strings.IndexAny(part, " (:[<"); end >= 0 {
			part = part[:end]
		}
		if part != "" {
			name(part)
		}
	}
}
