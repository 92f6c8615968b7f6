package tree

import (
	"io"
	"io/fs"
	"slices"
	"strings"
)

const (
	maxLinks = 40   // symbolic links on one path, as in the kernel
	maxParts = 4096 // components of one path with its links put in
)

// Entry is what a path leads to.
type Entry struct {
	Name  string
	Mode  fs.FileMode
	Size  int64 // bytes
	Place int64 // as in Inode
}

// fileMode translates the type and permission bits.
func (i *Inode) fileMode() fs.FileMode {
	m := fs.FileMode(i.Mode & 0o777)
	for bit, mode := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.Mode&bit != 0 {
			m |= mode
		}
	}
	switch {
	case i.Is(TypeDir):
		m |= fs.ModeDir
	case i.Is(TypeLink):
		m |= fs.ModeSymlink
	case !i.Is(TypeFile):
		m |= fs.ModeIrregular
	}
	return m
}

// spot is where a path leads: an inode, and the tree that has it.
type spot struct {
	t *Tree
	i *Inode
}

// Mount lays another file system over a directory, as the system on the disk does it when it starts: paths lead into it,
// walks do not. fs.ErrNotExist where there is no such directory.
func (t *Tree) Mount(name string, other *Tree) error {
	at, err := t.lookup(name)
	if err == nil && (!at.i.Is(TypeDir) || at.t == other) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return &fs.PathError{Op: "mount", Path: name, Err: err}
	}
	at.t.mu.Lock()
	defer at.t.mu.Unlock()
	at.t.mounts[at.i.Number] = other
	return nil
}

// ReadFile reads a file of at most limit bytes. Symbolic links are followed and never leave the file system.
// fs.ErrNotExist where it is not there, fs.ErrInvalid where it is no file, ErrCorrupt where it is larger.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	at, err := t.file(name)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	data, err := ReadAll(at.t.r, at.t.fs, at.i, limit)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadHead reads the first n bytes of a file, fewer where it is shorter. Errors are those of ReadFile.
func (t *Tree) ReadHead(name string, n int64) ([]byte, error) {
	at, err := t.file(name)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	out := make([]byte, max(0, min(n, at.i.Size)))
	if err := fill(at.t.r, at.t.fs, at.i, out); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return out, nil
}

// Copy is Stream of the file that a path leads to. Errors are those of ReadFile.
func (t *Tree) Copy(w io.Writer, name string, buf []byte) error {
	at, err := t.file(name)
	if err == nil {
		err = at.t.Stream(w, at.i.Number, buf)
	}
	if err != nil {
		return &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return nil
}

func (t *Tree) file(name string) (spot, error) {
	at, err := t.lookup(name)
	if err == nil && !at.i.Is(TypeFile) {
		err = fs.ErrInvalid
	}
	return at, err
}

// Stat describes what a path leads to, links followed.
func (t *Tree) Stat(name string) (Entry, error) {
	at, err := t.lookup(name)
	if err != nil {
		return Entry{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return Entry{Name: name[strings.LastIndexByte(name, '/')+1:], Mode: at.i.fileMode(), Size: at.i.Size, Place: at.i.Place}, nil
}

// ReadDir names what is in a directory, sorted, without "." and "..".
func (t *Tree) ReadDir(name string) ([]string, error) {
	at, err := t.lookup(name)
	if err == nil && !at.i.Is(TypeDir) {
		err = fs.ErrNotExist
	}
	var all map[string]uint64
	if err == nil {
		all, err = at.t.dir(at.i)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// ReadLink is where a symbolic link points; the link itself is not followed. fs.ErrInvalid where it is no link.
func (t *Tree) ReadLink(name string) (string, error) {
	cut := strings.LastIndexByte(name, '/')
	at, err := t.lookup(name[:max(0, cut)])
	if err == nil {
		at, err = at.child(name[cut+1:])
	}
	if err == nil && !at.i.Is(TypeLink) {
		err = fs.ErrInvalid
	}
	var target string
	if err == nil {
		target, err = at.t.fs.Target(at.i)
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// lookup walks a path from the root. ".." of the root is the root.
func (t *Tree) lookup(name string) (spot, error) {
	root, err := t.inode(t.fs.Root())
	if err != nil {
		return spot{}, err
	}
	todo := split(name)
	trail := []spot{{t, root}}
	links, steps := 0, 0
	for len(todo) > 0 {
		if steps++; steps > maxParts {
			return spot{}, Corrupt("a path of more than %d parts", maxParts)
		}
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		at, err := trail[len(trail)-1].child(part)
		if err != nil {
			return spot{}, err
		}
		if !at.i.Is(TypeLink) {
			trail = append(trail, at)
			continue
		}
		if links++; links > maxLinks {
			return spot{}, Corrupt("more than %d symbolic links", maxLinks)
		}
		target, err := at.t.fs.Target(at.i)
		if err != nil {
			return spot{}, err
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		todo = append(split(target), todo...)
		if len(todo) > maxParts {
			return spot{}, Corrupt("a path of more than %d parts", maxParts)
		}
	}
	return trail[len(trail)-1], nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// child finds a name in a directory: what is mounted there, if anything is.
func (d spot) child(name string) (spot, error) {
	if !d.i.Is(TypeDir) {
		return spot{}, fs.ErrNotExist
	}
	names, err := d.t.dir(d.i)
	if err != nil {
		return spot{}, err
	}
	number, ok := names[name]
	if !ok {
		return spot{}, fs.ErrNotExist
	}
	d.t.mu.Lock()
	over := d.t.mounts[number]
	d.t.mu.Unlock()
	if over == nil {
		i, err := d.t.inode(number)
		return spot{d.t, i}, err
	}
	i, err := over.inode(over.fs.Root())
	return spot{over, i}, err
}
