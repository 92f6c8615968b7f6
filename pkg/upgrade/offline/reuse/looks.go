// Package reuse keeps what a command made of an image's files, for other images in which every file that the command
// looked at is the same.
//
// What it looked at comes from a trace (sandbox.Spec.Trace): content of what was read or run, names of what was listed,
// targets of links, owner and mode of what was asked about, and that nothing is there where nothing was found. Times and
// inode numbers are left out: they differ between any two images, and of what is kept only the times of the files in it
// could depend on them; a command that reads times says so (Looks.Dated). What is known to count only in part is in eased.go.
package reuse

import (
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// Looks collects what a command looks at. Its zero value is ready; See may be called from several goroutines.
type Looks struct {
	// Reader tells the executable and the command line of a process that waits for See; nil: the kernel does.
	Reader func(process int) (program string, args []string)
	// Dated are folders in which the time of each name counts too. All folders that changed since Made.Begun have one time.
	Dated []string

	mu      sync.Mutex
	seen    map[look]bool // value: the content too
	roots   map[look]bool // that processes made for themselves
	listed  map[look]map[listing]int
	loader  map[look]bool // loaderCache, by the names that lead to it
	unknown bool
	devices bool
}

// look is one name, and whether a link at its end is followed.
type look struct {
	Path   string `json:"p"`
	Follow bool   `json:"f,omitempty"`
}

// ownFolders are made by the sandbox, the same for every image.
var ownFolders = []string{"/proc", "/sys", "/dev", "/run", "/tmp"}

// See takes one access, as Spec.Trace.
func (l *Looks) See(a sandbox.Access) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen, l.roots, l.listed, l.loader = map[look]bool{}, map[look]bool{}, map[look]map[listing]int{}, map[look]bool{}
	}
	if a.Kind == sandbox.Unknown {
		l.unknown = true
		return
	}
	if a.Root != "" {
		l.roots[look{Path: a.Root}] = true
	}
	if below(a.Path, []string{"/dev/disk"}) || strings.HasSuffix(a.Path, "/grub-probe") {
		l.devices = true
	}
	name := a.Path
	if strings.Contains(a.Asked, "..") {
		name = a.Asked // only the file system knows what it is
	}
	if below(a.Path, ownFolders) {
		return
	}
	at := look{Path: name, Follow: !a.NoFollow}
	content := a.Kind == sandbox.Read || a.Kind == sandbox.Exec || a.Kind == sandbox.List
	l.seen[at] = l.seen[at] || content && !l.eased(at, a)
	if a.Kind == sandbox.Write || a.Kind == sandbox.Change {
		parent := look{Path: path.Dir(name), Follow: true} // without it the call would fail
		l.seen[parent] = l.seen[parent] || false
	}
}

// Whole reports whether everything was seen: only then may a result be kept.
func (l *Looks) Whole() bool { return !l.unknown && len(l.seen) > 0 }

// Devices reports whether the command looked at names of disks, or asked for them.
func (l *Looks) Devices() bool { return l.devices }

// sorted gives the looks with folders before what is in them.
func (l *Looks) sorted() []look {
	return slices.SortedFunc(maps.Keys(l.seen), func(a, b look) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		if a.Follow == b.Follow {
			return 0
		} else if a.Follow {
			return -1
		}
		return 1
	})
}

// below reports whether a path is one of the folders or is in one.
func below(at string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return at == f || strings.HasPrefix(at, strings.TrimSuffix(f, "/")+"/") })
}
