package tree

import (
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
	Name   string
	Mode   fs.FileMode
	Size   int64 // bytes
	Number uint64
	Place  int64 // as in Inode
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

// ReadFile reads a file of at most limit bytes. Symbolic links are followed and never leave the file system.
// fs.ErrNotExist where it is not there, fs.ErrInvalid where it is no file, ErrCorrupt where it is larger.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	i, err := t.file(name)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	data, err := ReadAll(t.r, t.fs, i, limit)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadHead reads the first n bytes of a file, fewer where it is shorter. Errors are those of ReadFile.
func (t *Tree) ReadHead(name string, n int64) ([]byte, error) {
	i, err := t.file(name)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	out := make([]byte, max(0, min(n, i.Size)))
	if err := fill(t.r, t.fs, i, out); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return out, nil
}

func (t *Tree) file(name string) (*Inode, error) {
	i, err := t.lookup(name)
	if err == nil && !i.Is(TypeFile) {
		err = fs.ErrInvalid
	}
	return i, err
}

// Stat describes what a path leads to, links followed.
func (t *Tree) Stat(name string) (Entry, error) {
	i, err := t.lookup(name)
	if err != nil {
		return Entry{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return Entry{Name: name[strings.LastIndexByte(name, '/')+1:], Mode: i.fileMode(), Size: i.Size, Number: i.Number, Place: i.Place}, nil
}

// ReadDir names what is in a directory, sorted, without "." and "..".
func (t *Tree) ReadDir(name string) ([]string, error) {
	i, err := t.lookup(name)
	var all map[string]uint64
	if err == nil {
		if all, err = nil, fs.ErrNotExist; i.Is(TypeDir) {
			all, err = t.dir(i)
		}
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
	at := strings.LastIndexByte(name, '/')
	dir, err := t.lookup(name[:max(0, at)])
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	i, err := t.child(dir, name[at+1:])
	if err == nil && !i.Is(TypeLink) {
		err = fs.ErrInvalid
	}
	var target string
	if err == nil {
		target, err = t.fs.Target(i)
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// lookup walks a path from the root. ".." of the root is the root.
func (t *Tree) lookup(name string) (*Inode, error) {
	root, err := t.inode(t.fs.Root())
	if err != nil {
		return nil, err
	}
	todo := split(name)
	trail := []*Inode{root}
	links, steps := 0, 0
	for len(todo) > 0 {
		if steps++; steps > maxParts {
			return nil, Corrupt("a path of more than %d parts", maxParts)
		}
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		i, err := t.child(trail[len(trail)-1], part)
		if err != nil {
			return nil, err
		}
		if !i.Is(TypeLink) {
			trail = append(trail, i)
			continue
		}
		if links++; links > maxLinks {
			return nil, Corrupt("more than %d symbolic links", maxLinks)
		}
		target, err := t.fs.Target(i)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		todo = append(split(target), todo...)
		if len(todo) > maxParts {
			return nil, Corrupt("a path of more than %d parts", maxParts)
		}
	}
	return trail[len(trail)-1], nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// child finds a name in a directory.
func (t *Tree) child(dir *Inode, name string) (*Inode, error) {
	if !dir.Is(TypeDir) {
		return nil, fs.ErrNotExist
	}
	names, err := t.dir(dir)
	if err != nil {
		return nil, err
	}
	number, ok := names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return t.inode(number)
}
