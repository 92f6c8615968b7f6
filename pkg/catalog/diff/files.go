package diff

import (
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// ListMost is the most files that a report lists; all are counted.
const ListMost = 5000

// Files is what differs among the files of the root file systems.
type Files struct {
	Added   int            `json:"added"`
	Removed int            `json:"removed"`
	Changed int            `json:"changed"`
	Folders map[string]int `json:"folders"` // how many differ below each of the first folders: "/usr/share"
	List    []FileChange   `json:"list"`    // in the order of paths
}

// FileChange is one file that differs.
type FileChange struct {
	Path   string   `json:"path"`
	Change string   `json:"change"` // added, removed, changed
	What   []string `json:"what"`   // of a changed one: type, content, target, mode, owner
}

// Count is how many differ.
func (f Files) Count() int { return f.Added + f.Removed + f.Changed }

// CompareFiles reads two manifests (catalog.WriteFiles) side by side and writes what differs into the report. It holds a
// bounded part of them in memory. errs.Invalid where one cannot be read.
func (r *Report) CompareFiles(from, to io.Reader) error {
	c := &fileComparison{files: Files{Folders: map[string]int{}, List: []FileChange{}}}
	var readErr error
	nextOld, stopOld := iter.Pull(manifest(from, &readErr))
	defer stopOld()
	nextNew, stopNew := iter.Pull(manifest(to, &readErr))
	defer stopNew()
	old, more := nextOld()
	now, moreNew := nextNew()
	for (more || moreNew) && readErr == nil {
		order := 0
		switch {
		case !moreNew:
			order = -1
		case !more:
			order = 1
		default:
			order = comparePaths(old.Path, now.Path)
		}
		switch {
		case order < 0:
			c.add(old.Path, Removed, nil)
		case order > 0:
			c.add(now.Path, Added, nil)
		default:
			if what := differences(old, now); len(what) > 0 {
				c.add(now.Path, Changed, what)
			}
		}
		if order <= 0 {
			old, more = nextOld()
		}
		if order >= 0 {
			now, moreNew = nextNew()
		}
	}
	if readErr != nil {
		return readErr
	}
	r.Files = c.files
	if n := c.files.Count(); n > len(c.files.List) {
		r.FilesNote = fmt.Sprintf("the first %d of %d files are listed", len(c.files.List), n)
	}
	r.Summary = r.summary()
	return nil
}

// manifest turns ReadFiles around; its error ends up in err.
func manifest(r io.Reader, err *error) iter.Seq[catalog.File] {
	return func(yield func(catalog.File) bool) {
		e := catalog.ReadFiles(r, func(f catalog.File) error {
			if !yield(f) {
				return io.EOF
			}
			return nil
		})
		if e != nil && e != io.EOF { //nolint:errorlint // our own, bare
			*err = e
		}
	}
}

// comparePaths orders as a manifest does: what is in a folder comes right after the folder.
func comparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := a[i], b[i]
		switch {
		case x == y:
		case x == '/':
			return -1
		case y == '/':
			return 1
		default:
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

func differences(a, b catalog.File) []string {
	var what []string
	for _, d := range []struct {
		name   string
		differ bool
	}{
		{"type", a.Type != b.Type}, {"content", a.SHA256 != b.SHA256 || a.Size != b.Size}, {"target", a.Target != b.Target},
		{"mode", a.Mode != b.Mode}, {"owner", a.UID != b.UID || a.GID != b.GID},
	} {
		if d.differ {
			what = append(what, d.name)
		}
	}
	return what
}

type fileComparison struct{ files Files }

func (c *fileComparison) add(path, change string, what []string) {
	f := &c.files
	switch change {
	case Added:
		f.Added++
	case Removed:
		f.Removed++
	default:
		f.Changed++
	}
	f.Folders[folder(path)]++
	if len(f.List) < ListMost {
		if what == nil {
			what = []string{}
		}
		f.List = append(f.List, FileChange{Path: path, Change: change, What: what})
	}
}

// folder is the first two folders of a path: "/usr/share" of "/usr/share/doc/x", "/etc" of "/etc/passwd".
func folder(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	switch {
	case len(parts) < 2:
		return "/"
	case len(parts) == 2 || parts[0] != "usr" && parts[0] != "var":
		return "/" + parts[0]
	}
	return "/" + parts[0] + "/" + parts[1]
}
