package ext4

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a walk, beside the number of nodes that the caller allows.
const (
	maxPath  = 4096 // bytes of a path, as in the kernel
	maxNames = 512 << 20
)

// Node is one name in the tree, with what its inode says. Nothing is followed.
type Node struct {
	Path   string // from the root, beginning with "/"
	Mode   uint16 // type and permissions as stat(2) gives them
	UID    uint32
	GID    uint32
	Size   int64 // bytes
	Inode  uint32
	Links  uint16
	Target string // of a symbolic link
	Place  int64  // block where its content begins; 0 where there is none. Reading in this order is reading forwards
}

// The types in Node.Mode.
const (
	TypeMask   = 0xf000
	TypeFIFO   = 0x1000
	TypeChar   = 0x2000
	TypeDir    = 0x4000
	TypeBlock  = 0x6000
	TypeFile   = 0x8000
	TypeLink   = 0xa000
	TypeSocket = 0xc000
)

// Walk calls fn for every name below the root, and for the root itself, directories before what is in them and names
// in order. More than limit names, a directory that is met twice and a name that no kernel would give are ErrCorrupt.
func (f *FS) Walk(ctx context.Context, limit int, fn func(Node) error) error {
	root, err := f.readInode(rootInode)
	if err != nil {
		return err
	}
	w := &walker{ctx: ctx, f: f, left: limit, fn: fn, seen: map[uint32]bool{rootInode: true}}
	if !root.isDir() {
		return corrupt("the root is no directory")
	}
	if err := fn(node("/", rootInode, root)); err != nil {
		return err
	}
	return w.dir("", root)
}

type walker struct {
	ctx   context.Context //nolint:containedctx // one walk is one call
	f     *FS
	left  int
	bytes int
	fn    func(Node) error
	seen  map[uint32]bool
}

type dirEntry struct {
	name  string
	inode uint32
}

// dir visits what is in a directory. It nests as deep as paths are long, which maxPath bounds.
func (w *walker) dir(path string, d *inode) error {
	var entries []dirEntry
	var bad error
	err := w.f.scanDir(d, func(name string, n uint32) bool {
		switch {
		case name == "." || name == "..":
			return true
		case strings.ContainsAny(name, "/\x00"):
			bad = corrupt("a file with the name %q", name)
		case len(path)+1+len(name) > maxPath:
			bad = corrupt("a path of more than %d bytes", maxPath)
		case w.left <= len(entries):
			bad = corrupt("more files than are sensible")
		}
		entries = append(entries, dirEntry{name, n})
		return bad == nil
	})
	if err == nil {
		err = bad
	}
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

func (w *walker) visit(path string, number uint32) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	w.left--
	w.bytes += len(path)
	if w.left < 0 || w.bytes > maxNames {
		return corrupt("more files than are sensible")
	}
	i, err := w.f.readInode(number)
	if err != nil {
		return err
	}
	n := node(path, number, i)
	switch {
	case i.isLink():
		if n.Target, err = w.f.target(i); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	case i.isRegular() && i.size > 0:
		if n.Place, err = w.f.place(i); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := w.fn(n); err != nil || !i.isDir() {
		return err
	}
	if w.seen[number] {
		return corrupt("directory %s is in two places", path)
	}
	w.seen[number] = true
	return w.dir(path, i)
}

func node(path string, number uint32, i *inode) Node {
	return Node{Path: path, Mode: i.mode, UID: i.uid, GID: i.gid, Size: i.size, Inode: number, Links: i.links}
}

// place is the first block that an inode names, without descending.
func (f *FS) place(i *inode) (int64, error) {
	le := binary.LittleEndian
	switch {
	case i.flags&flagInline != 0:
		return 0, nil
	case i.flags&flagExtents == 0:
		return int64(le.Uint32(i.block[:])), nil
	case le.Uint16(i.block[:]) != 0xf30a:
		return 0, corrupt("no extent header")
	case le.Uint16(i.block[2:]) == 0:
		return 0, nil
	case le.Uint16(i.block[6:]) > 0:
		return int64(le.Uint32(i.block[16:])) | int64(le.Uint16(i.block[20:]))<<32, nil
	}
	return int64(le.Uint32(i.block[20:])) | int64(le.Uint16(i.block[18:]))<<32, nil
}
