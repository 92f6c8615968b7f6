package record

import (
	"context"
	"os"
	"path"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// seen is one name of a snapshot.
type seen struct {
	State
	inode    uint64
	links    uint64
	changed  unix.Timespec // ctime: grows with every change that a process can make
	modified unix.Timespec
}

// snapshot is a whole tree at one moment.
type snapshot struct {
	names    map[string]seen     // by name; the root is ""
	children map[string][]string // of folders, as they came
}

func (s *snapshot) lstat(name string) (State, error) { return s.names[name].State, nil }

// takeSnapshot walks the tree once. It reads no file.
func takeSnapshot(ctx context.Context, t *Tree) (*snapshot, error) {
	s := &snapshot{names: make(map[string]seen, 1<<16), children: make(map[string][]string, 1<<12)}
	root, st, err := statFull(int(t.dir.Fd()), ".")
	if err != nil {
		return nil, err
	}
	s.names[""] = seen{State: root, inode: st.Ino, links: st.Nlink, changed: st.Ctim, modified: st.Mtim}
	dir, err := t.open("", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return s, s.walk(ctx, dir, "", st.Dev)
}

// walk closes dir. A folder on another device belongs to somebody else.
func (s *snapshot) walk(ctx context.Context, dir *os.File, name string, device uint64) error {
	defer dir.Close() //nolint:errcheck // a folder
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	s.children[name] = names
	fd := int(dir.Fd())
	for _, base := range names {
		full := path.Join(name, base)
		state, st, err := statFull(fd, base)
		if err != nil {
			return err
		}
		if st.Dev != device {
			continue
		}
		s.names[full] = seen{State: state, inode: st.Ino, links: st.Nlink, changed: st.Ctim, modified: st.Mtim}
		if state.Type != TypeDir {
			continue
		}
		sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: full, Err: err}
		}
		if err := s.walk(ctx, os.NewFile(uintptr(sub), full), full, device); err != nil {
			return err
		}
	}
	return nil
}

// workers is how many goroutines read or write one image's files.
func workers() int { return max(2, min(8, runtime.GOMAXPROCS(0))) }

func procPath(dir int, base string) string { return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + base }
