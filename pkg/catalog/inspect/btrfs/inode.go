package btrfs

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// view is a subvolume and those that lie in it: a tree.Reader. An inode's number says in its high bits which of the
// subvolumes that were met so far has it.
type view struct {
	v *volume

	mu    sync.Mutex
	known map[uint64]uint64 // number of a subvolume: its place in roots
	roots []subvolume
}

const (
	inodeBits = 48
	// emptyDir stands for the name of a subvolume inside a snapshot, which the kernel shows as an empty directory.
	emptyDir = 1<<64 - 1
)

// Root implements tree.Reader.
func (w *view) Root() uint64 { return w.roots[0].top }

// own is what the methods of view need of an inode.
type own struct {
	sub   subvolume
	inode uint64
}

func (w *view) split(n uint64) (subvolume, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n>>inodeBits >= uint64(len(w.roots)) {
		return subvolume{}, 0, corrupt("inode %d", n)
	}
	return w.roots[n>>inodeBits], n & (1<<inodeBits - 1), nil
}

// number gives the number of the top directory of a subvolume that is met in a directory.
func (w *view) number(id uint64) (uint64, error) {
	w.mu.Lock()
	place, ok := w.known[id]
	w.mu.Unlock()
	if !ok {
		sub, err := w.v.subvolume(id)
		if err != nil {
			return 0, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.roots) > maxSubvolumes {
			return 0, corrupt("more than %d subvolumes", maxSubvolumes)
		}
		if place, ok = w.known[id]; !ok {
			place = uint64(len(w.roots))
			w.known[id], w.roots = place, append(w.roots, sub)
		}
		return place<<inodeBits | sub.top&(1<<inodeBits-1), nil
	}
	sub, _, err := w.split(place << inodeBits)
	return place<<inodeBits | sub.top&(1<<inodeBits-1), err
}

// Inode implements tree.Reader.
func (w *view) Inode(n uint64) (*tree.Inode, error) {
	if n == emptyDir {
		return &tree.Inode{Number: n, Mode: tree.TypeDir | 0o755, Links: 1, Own: own{}}, nil
	}
	sub, number, err := w.split(n)
	if err != nil {
		return nil, err
	}
	var out *tree.Inode
	err = w.v.scan(sub.tree, key{number, kindInode, 0}, func(k key, data []byte) error {
		if k.object != number || k.kind != kindInode || len(data) < 160 {
			return errStop
		}
		le := binary.LittleEndian
		out = &tree.Inode{Number: n, Mode: uint16(le.Uint32(data[52:])), UID: le.Uint32(data[44:]), GID: le.Uint32(data[48:]),
			Links: le.Uint32(data[40:]), Size: int64(le.Uint64(data[16:])), Own: own{sub, number}}
		return errStop
	})
	switch {
	case err != nil:
		return nil, err
	case out == nil || out.Size < 0:
		return nil, corrupt("no inode %d in subvolume %d", number, sub.id)
	}
	return out, nil
}

// Names implements tree.Reader.
func (w *view) Names(d *tree.Inode, fn func(name string, inode uint64) error) error {
	if d.Number == emptyDir {
		return nil
	}
	o := d.Own.(own)
	return w.v.scan(o.sub.tree, key{o.inode, kindDirIndex, 0}, func(k key, data []byte) error {
		if k.object != o.inode || k.kind != kindDirIndex {
			return errStop
		}
		e, err := decodeName(data)
		if err != nil {
			return err
		}
		n := d.Number&^(1<<inodeBits-1) | e.to.object
		switch {
		case e.to.kind == kindRoot:
			if n, err = w.nested(o, e); err != nil {
				return err
			}
		case e.to.kind != kindInode || e.to.object >= 1<<inodeBits:
			return corrupt("%.64q leads to an item of kind %d", e.name, e.to.kind)
		}
		return fn(e.name, n)
	})
}

// nested gives the number of a subvolume that a directory names, or that of an empty directory where the name is only
// the trace in a snapshot.
func (w *view) nested(o own, e dirEntry) (uint64, error) {
	there := false
	err := w.v.scan(w.v.root, key{o.sub.id, kindRef, e.to.object}, func(k key, data []byte) error {
		there = k == key{o.sub.id, kindRef, e.to.object} && len(data) >= 8 && binary.LittleEndian.Uint64(data) == o.inode
		return errStop
	})
	if err != nil {
		return 0, err
	}
	if !there {
		return emptyDir, nil
	}
	return w.number(e.to.object)
}

// maxTarget bounds where a symbolic link points, in bytes, as in the kernel.
const maxTarget = 4096

// Target implements tree.Reader: a link's target is its content.
func (w *view) Target(i *tree.Inode) (string, error) {
	data, err := tree.ReadAll(w.v.r, w, i, maxTarget)
	return string(data), err
}

const (
	extentInline   = 0
	extentRegular  = 1
	extentPrealloc = 2

	inlineHead  = 21
	regularHead = 53
	maxUnpacked = 128 << 10 // bytes of one compressed extent, as in the kernel
)

// Extents implements tree.Reader.
func (w *view) Extents(i *tree.Inode, fn func(tree.Extent) error) error {
	o := i.Own.(own)
	err := w.v.scan(o.sub.tree, key{o.inode, kindExtent, 0}, func(k key, data []byte) error {
		if k.object != o.inode || k.kind != kindExtent {
			return errStop
		}
		if len(data) < inlineHead || k.offset > 1<<62 {
			return corrupt("an extent of inode %d of %d bytes", o.inode, len(data))
		}
		if data[17] != 0 {
			return tree.ErrEncrypted
		}
		e, err := w.v.extent(int64(k.offset), data)
		if err != nil || e.Length == 0 {
			return err
		}
		return fn(e)
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// extent unpacks one extent; one without a length is a hole.
func (v *volume) extent(at int64, data []byte) (tree.Extent, error) {
	le := binary.LittleEndian
	unpacked, method := int64(le.Uint64(data[8:])), data[16]
	if method != 0 && (unpacked <= 0 || unpacked > maxUnpacked) {
		return tree.Extent{}, corrupt("a compressed extent of %d bytes", unpacked)
	}
	switch kind := data[20]; kind {
	case extentInline:
		packed := data[inlineHead:]
		if method == 0 {
			return tree.Extent{At: at, Length: int64(len(packed)), Data: func() ([]byte, error) { return packed, nil }}, nil
		}
		return tree.Extent{At: at, Length: unpacked, Data: func() ([]byte, error) { return v.unpack(method, packed, unpacked) }}, nil
	case extentPrealloc:
		return tree.Extent{}, nil
	case extentRegular:
	default:
		return tree.Extent{}, corrupt("an extent of kind %d", kind)
	}
	if len(data) < regularHead {
		return tree.Extent{}, corrupt("an extent of %d bytes", len(data))
	}
	addr, size, off, length := le.Uint64(data[21:]), int64(le.Uint64(data[29:])), int64(le.Uint64(data[37:])), int64(le.Uint64(data[45:]))
	if addr == 0 {
		return tree.Extent{}, nil
	}
	if size <= 0 || off < 0 || length <= 0 || off > unpacked-length || method == 0 && off > size-length || method != 0 && size > 2*maxUnpacked {
		return tree.Extent{}, corrupt("an extent of %d bytes at %d of %d", length, off, unpacked)
	}
	places, err := v.places(addr, size)
	if err != nil {
		return tree.Extent{}, err
	}
	if method == 0 {
		return tree.Extent{At: at, Length: length, Disk: places[0] + off}, nil
	}
	return tree.Extent{At: at, Length: length, Data: func() ([]byte, error) {
		packed := make([]byte, size)
		if _, err := v.r.ReadAt(packed, places[0]); err != nil {
			return nil, err
		}
		whole, err := v.unpack(method, packed, unpacked)
		if err != nil {
			return nil, err
		}
		return whole[off : off+length], nil
	}}, nil
}
