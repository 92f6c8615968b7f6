package btrfs

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// Objects and kinds of items that lead to subvolumes.
const (
	topSubvolume  = 5 // always there; all others lie in it
	firstOwn      = 256
	lastOwn       = 1<<64 - 256
	rootDirectory = 6 // of the tree of trees

	kindInode    = 1
	kindInodeRef = 12
	kindDirItem  = 84
	kindDirIndex = 96
	kindExtent   = 108
	kindRoot     = 132
	kindBackref  = 144
	kindRef      = 156

	maxSubvolumes = 10_000
	maxFolders    = 256 // that a subvolume may lie below
)

// Subvolume is one subvolume, as it lies below the top one.
type Subvolume struct {
	ID   uint64
	Path string // without a slash at the beginning
}

// open makes the tree of one subvolume.
func (v *volume) open(id uint64) (*FS, error) {
	at, err := v.subvolume(id)
	if err != nil {
		return nil, err
	}
	w := &view{v: v, known: map[uint64]uint64{id: 0}, roots: []subvolume{at}}
	return &FS{Tree: tree.New(v.r, w), v: v}, nil
}

// Subvolume opens another subvolume of the same disk.
func (f *FS) Subvolume(id uint64) (*FS, error) { return f.v.open(id) }

// subvolume is where a subvolume's files are.
type subvolume struct {
	id   uint64
	tree subtree
	top  uint64 // inode
}

func (v *volume) subvolume(id uint64) (subvolume, error) {
	le := binary.LittleEndian
	var out *subvolume
	err := v.scan(v.root, key{id, kindRoot, 0}, func(k key, data []byte) error {
		if k.object != id || k.kind != kindRoot {
			return errStop
		}
		if len(data) < 239 || le.Uint32(data[216:]) == 0 {
			return corrupt("subvolume %d is no more", id)
		}
		out = &subvolume{id: id, tree: subtree{le.Uint64(data[176:]), data[238]}, top: le.Uint64(data[168:])}
		return errStop
	})
	if err == nil && out == nil {
		err = corrupt("no subvolume %d", id)
	}
	if err != nil {
		return subvolume{}, err
	}
	return *out, nil
}

// defaultSubvolume is what a mount without options shows.
func (v *volume) defaultSubvolume() (uint64, error) {
	id := uint64(topSubvolume)
	err := v.scan(v.root, key{rootDirectory, kindDirItem, 0}, func(k key, data []byte) error {
		if k.object != rootDirectory || k.kind != kindDirItem {
			return errStop
		}
		e, err := decodeName(data)
		if err == nil && e.name == "default" {
			id = e.to.object
		}
		return err
	})
	return id, err
}

// Subvolumes lists all subvolumes and snapshots but the top one, by number.
func (f *FS) Subvolumes() ([]Subvolume, error) {
	type ref struct {
		parent, folder uint64
		name           string
	}
	refs := map[uint64]ref{}
	le := binary.LittleEndian
	err := f.v.scan(f.v.root, key{firstOwn, 0, 0}, func(k key, data []byte) error {
		if k.object >= lastOwn {
			return errStop
		}
		if k.kind != kindBackref {
			return nil
		}
		if len(data) < 18 || int(le.Uint16(data[16:])) > len(data)-18 || len(refs) >= maxSubvolumes {
			return corrupt("the name of subvolume %d", k.object)
		}
		refs[k.object] = ref{k.offset, le.Uint64(data), string(data[18 : 18+le.Uint16(data[16:])])}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []Subvolume
	for id := range refs {
		var parts []string
		for at, steps := id, 0; at != topSubvolume; steps++ {
			r, ok := refs[at]
			if !ok || steps > maxFolders {
				return nil, corrupt("subvolume %d lies nowhere", id)
			}
			folder, err := f.v.folder(r.parent, r.folder)
			if err != nil {
				return nil, err
			}
			parts = append(append(parts, r.name), folder...)
			at = r.parent
		}
		slices.Reverse(parts)
		out = append(out, Subvolume{ID: id, Path: strings.Join(parts, "/")})
	}
	slices.SortFunc(out, func(a, b Subvolume) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out, nil
}

// folder names the directories above an inode of a subvolume, the innermost first.
func (v *volume) folder(id, inode uint64) ([]string, error) {
	sub, err := v.subvolume(id)
	if err != nil {
		return nil, err
	}
	var names []string
	le := binary.LittleEndian
	for inode != sub.top {
		if len(names) > maxFolders {
			return nil, corrupt("directories of subvolume %d form a loop", id)
		}
		found := false
		err := v.scan(sub.tree, key{inode, kindInodeRef, 0}, func(k key, data []byte) error {
			if k.object != inode || k.kind != kindInodeRef || len(data) < 10 || int(le.Uint16(data[8:])) > len(data)-10 {
				return errStop
			}
			names = append(names, string(data[10:10+le.Uint16(data[8:])]))
			inode, found = k.offset, true
			return errStop
		})
		if err == nil && !found {
			err = corrupt("directory %d of subvolume %d has no name", inode, id)
		}
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// dirEntry is a name and what it leads to: an inode, or a whole subvolume.
type dirEntry struct {
	name string
	to   key
}

// decodeName unpacks the first name of a directory item: of those by index, and in the tree of trees, there is only one.
func decodeName(b []byte) (dirEntry, error) {
	const head = 30
	if len(b) < head {
		return dirEntry{}, corrupt("a directory item of %d bytes", len(b))
	}
	le := binary.LittleEndian
	data, size := int(le.Uint16(b[25:])), int(le.Uint16(b[27:]))
	if size == 0 || head+size+data > len(b) {
		return dirEntry{}, corrupt("a name of %d bytes", size)
	}
	return dirEntry{name: string(b[head : head+size]), to: decodeKey(b)}, nil
}
