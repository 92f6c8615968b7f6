package tree

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a walk, beside the number of nodes that the caller allows.
const (
	maxPath  = 4096 // bytes of a path, as in the kernel
	maxPaths = 512 << 20
)

// Node is one name in the tree, with what its inode says. Nothing is followed.
type Node struct {
	Path   string // from the root, beginning with "/"
	Mode   uint16 // type and permissions as stat(2) gives them
	UID    uint32
	GID    uint32
	Size   int64 // bytes
	Inode  uint64
	Links  uint32
	Target string // of a symbolic link
	Place  int64  // where its content begins on the disk; 0 where there is none. Reading in this order is reading forwards
}

// Walk calls fn for every name below the root, and for the root itself, directories before what is in them and names
// in order. More than limit names, a directory that is met twice and a name that no kernel would give are ErrCorrupt.
func (t *Tree) Walk(ctx context.Context, limit int, fn func(Node) error) error {
	return t.WalkFrom(ctx, "/", limit, fn)
}

// WalkFrom is Walk of what a directory holds, and of the directory itself. fs.ErrNotExist where it is not there.
func (t *Tree) WalkFrom(ctx context.Context, top string, limit int, fn func(Node) error) error {
	at, err := t.lookup(top)
	root := at.i
	if err != nil {
		return fmt.Errorf("%s: %w", top, err)
	}
	if !root.Is(TypeDir) {
		return Corrupt("%s is no directory", top)
	}
	w := &walker{ctx: ctx, t: at.t, left: limit, fn: fn, seen: map[uint64]bool{root.Number: true}}
	top = strings.TrimRight(top, "/")
	if err := fn(node(max(top, "/"), root)); err != nil {
		return err
	}
	return w.dir(top, root)
}

type walker struct {
	ctx   context.Context //nolint:containedctx // one walk is one call
	t     *Tree
	left  int
	bytes int
	fn    func(Node) error
	seen  map[uint64]bool
}

type dirEntry struct {
	name  string
	inode uint64
}

// dir visits what is in a directory. It nests as deep as paths are long, which maxPath bounds.
func (w *walker) dir(path string, d *Inode) error {
	var entries []dirEntry
	err := w.t.scan(d, func(name string, n uint64) error {
		switch {
		case name == "" || strings.ContainsAny(name, "/\x00"):
			return Corrupt("a file with the name %q", name)
		case len(path)+1+len(name) > maxPath:
			return Corrupt("a path of more than %d bytes", maxPath)
		case w.left <= len(entries):
			return Corrupt("more files than are sensible")
		}
		entries = append(entries, dirEntry{name, n})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b dirEntry) int { return strings.Compare(a.name, b.name) })
	for _, e := range entries {
		if err := w.visit(path+"/"+e.name, e.inode); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) visit(path string, number uint64) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	w.left--
	w.bytes += len(path)
	if w.left < 0 || w.bytes > maxPaths {
		return Corrupt("more files than are sensible")
	}
	i, err := w.t.fs.Inode(number)
	if err != nil {
		return err
	}
	n := node(path, i)
	if i.Is(TypeLink) {
		if n.Target, err = w.t.fs.Target(i); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := w.fn(n); err != nil || !i.Is(TypeDir) {
		return err
	}
	if w.seen[number] {
		return Corrupt("directory %s is in two places", path)
	}
	w.seen[number] = true
	return w.dir(path, i)
}

func node(path string, i *Inode) Node {
	return Node{Path: path, Mode: i.Mode, UID: i.UID, GID: i.GID, Size: i.Size, Inode: i.Number, Links: i.Links, Place: i.Place}
}
