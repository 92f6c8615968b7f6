package xfs

import (
	"encoding/binary"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

const (
	extentSize = 16
	maxLevels  = 9         // of a B+tree of extents, as in the kernel
	maxExtents = 1 << 26   // of one file: more is no image that anybody made on purpose
	keySize    = 8         // of its inner nodes, for key and pointer each
	maxOffset  = 1<<54 - 1 // blocks
)

// extent is a run of blocks.
type extent struct {
	at      int64 // block of the file
	block   uint64
	count   int64
	written bool
}

// decode unpacks an extent: 1 bit whether it was never written, 54 of the file's block, 52 of the disk's, 21 of their count.
func decode(b []byte) extent {
	hi, lo := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return extent{at: int64(hi >> 9 & maxOffset), block: hi&0x1ff<<43 | lo>>21, count: int64(lo & (1<<21 - 1)), written: hi>>63 == 0}
}

// Extents implements tree.Reader.
func (v *volume) Extents(i *tree.Inode, fn func(tree.Extent) error) error {
	own := i.Own.(*fork)
	switch {
	case own.realtime:
		return corrupt("inode %d keeps its content on a realtime device, which is not part of the image", i.Number)
	case own.format == formatLocal:
		if i.Size > int64(len(own.data)) {
			return corrupt("%d bytes inside inode %d", i.Size, i.Number)
		}
		return fn(tree.Extent{Length: i.Size, Data: func() ([]byte, error) { return own.data[:i.Size], nil }})
	}
	return v.runs(i, func(e extent) error {
		if !e.written {
			return nil // reads as zeros
		}
		at, err := v.place(e.block, e.count)
		if err != nil {
			return err
		}
		return fn(tree.Extent{At: e.at * v.blockSize, Length: e.count * v.blockSize, Disk: at})
	})
}

// run is a walk over the extents of one inode.
type run struct {
	v    *volume
	ino  uint64
	end  int64 // of the extents so far, blocks of the file
	left int64 // extents and nodes that may still come: a tree that needs more is a loop
	fn   func(extent) error
}

// runs calls fn for the extents of an inode, in order.
func (v *volume) runs(i *tree.Inode, fn func(extent) error) error {
	own := i.Own.(*fork)
	r := &run{v: v, ino: i.Number, fn: fn, left: int64(min(own.count, maxExtents))*2 + 64}
	switch own.format {
	case formatExtents:
		if own.count > uint64(len(own.data)/extentSize) {
			return corrupt("%d extents in inode %d", own.count, i.Number)
		}
		return r.leaf(own.data[:own.count*extentSize])
	case formatBtree:
		return r.root(own.data)
	}
	return corrupt("inode %d is kept in format %d", i.Number, own.format)
}

func (r *run) leaf(records []byte) error {
	for ; len(records) >= extentSize; records = records[extentSize:] {
		if r.left--; r.left < 0 {
			return corrupt("extents of inode %d without end", r.ino)
		}
		e := decode(records)
		if e.count == 0 || e.at < r.end || e.at > maxOffset-e.count {
			return corrupt("extents of inode %d that overlap", r.ino)
		}
		r.end = e.at + e.count
		if err := r.fn(e); err != nil {
			return err
		}
	}
	return nil
}

// root takes the node in the inode: level and count, then keys, then as many pointers as there is room for.
func (r *run) root(data []byte) error {
	if len(data) < 4 {
		return corrupt("the extents of inode %d have no root", r.ino)
	}
	be := binary.BigEndian
	level, count, room := int(be.Uint16(data)), int(be.Uint16(data[2:])), (len(data)-4)/(2*keySize)
	if level == 0 || level > maxLevels || count > room {
		return corrupt("the extents of inode %d have a root of %d entries at level %d", r.ino, count, level)
	}
	return r.children(data[4:], count, room, level-1)
}

// children follows the pointers of a node.
func (r *run) children(data []byte, count, room, level int) error {
	be := binary.BigEndian
	for k := range count {
		if err := r.node(be.Uint64(data[keySize*(room+k):]), level); err != nil {
			return err
		}
	}
	return nil
}

// node reads a block of the tree.
func (r *run) node(block uint64, level int) error {
	if r.left--; r.left < 0 {
		return corrupt("extents of inode %d without end", r.ino)
	}
	b, err := r.v.blocksAt(block, 1)
	if err != nil {
		return err
	}
	head, magic := 24, "BMAP"
	if r.v.v5 {
		head, magic = 72, "BMA3"
	}
	be := binary.BigEndian
	count := int(be.Uint16(b[6:]))
	if string(b[:4]) != magic || int(be.Uint16(b[4:])) != level || count > (len(b)-head)/extentSize {
		return corrupt("block %d holds no extents of inode %d", block, r.ino)
	}
	if r.v.v5 && (!r.v.sumAt(b, 64) || be.Uint64(b[56:]) != r.ino) {
		return corrupt("the checksum of block %d, extents of inode %d, is wrong", block, r.ino)
	}
	if level == 0 {
		return r.leaf(b[head : head+count*extentSize])
	}
	return r.children(b[head:], count, (len(b)-head)/(2*keySize), level-1)
}
