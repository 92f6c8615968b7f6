package xfs

import (
	"encoding/binary"
	"fmt"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// How the data fork of an inode is kept (di_format).
const (
	formatLocal   = 1
	formatExtents = 2
	formatBtree   = 3

	flagRealtime = 0x1      // the content is on another device
	flagBigCount = 0x1 << 4 // di_flags2: extent counters of 64 bits
)

// fork is what Extents, Names and Target need of an inode.
type fork struct {
	format   byte
	realtime bool
	count    uint64 // extents
	data     []byte
}

// Root implements tree.Reader.
func (v *volume) Root() uint64 { return v.root }

// Inode implements tree.Reader. An inode's number says where it lies, so inodes of sparse chunks need no more.
func (v *volume) Inode(n uint64) (*tree.Inode, error) {
	at, err := v.place(n>>v.perBlock, 1)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", n, err)
	}
	raw := make([]byte, v.inodeSize)
	if _, err := v.r.ReadAt(raw, at+int64(n&(1<<v.perBlock-1))*v.inodeSize); err != nil {
		return nil, fmt.Errorf("cannot read inode %d: %w", n, err)
	}
	be := binary.BigEndian
	version := raw[4]
	if string(raw[:2]) != "IN" || version < 1 || version > 3 || (version == 3) != v.v5 {
		return nil, corrupt("inode %d is none", n)
	}
	i := &tree.Inode{Number: n, Mode: be.Uint16(raw[2:]), UID: be.Uint32(raw[8:]), GID: be.Uint32(raw[12:]), Links: be.Uint32(raw[16:]), Size: int64(be.Uint64(raw[56:]))}
	own := &fork{format: raw[5], realtime: be.Uint16(raw[90:])&flagRealtime != 0, count: uint64(be.Uint32(raw[76:]))}
	literal := 100
	switch version {
	case 1:
		i.Links = uint32(be.Uint16(raw[6:]))
	case 3:
		literal = 176
		if be.Uint64(raw[152:]) != n || !v.sumAt(raw, 100) {
			return nil, corrupt("the checksum of inode %d is wrong", n)
		}
		if be.Uint64(raw[120:])&flagBigCount != 0 {
			own.count = be.Uint64(raw[24:])
		}
	}
	own.data = raw[literal:]
	if offset := int(raw[82]) * 8; offset > 0 { // where the extended attributes begin
		if offset > len(own.data) {
			return nil, corrupt("the attributes of inode %d begin at %d", n, offset)
		}
		own.data = own.data[:offset]
	}
	if i.Size < 0 {
		return nil, corrupt("inode %d has a size of %d", n, i.Size)
	}
	i.Own = own
	if i.Is(tree.TypeFile) && own.format == formatExtents && own.count > 0 && len(own.data) >= extentSize {
		if e := decode(own.data); e.block != 0 {
			i.Place, _ = v.place(e.block, 1) // only an order of reading: a wrong place is refused by Extents
		}
	}
	return i, nil
}

const (
	maxTarget    = 1024 // bytes of where a symbolic link points, as in the kernel
	maxTargetRun = 64 << 10
	symlinkHead  = 56
)

// Target implements tree.Reader: in the inode, or in blocks, which have a header since version 5.
func (v *volume) Target(i *tree.Inode) (string, error) {
	own := i.Own.(*fork)
	if i.Size > maxTarget {
		return "", corrupt("a symbolic link of %d bytes", i.Size)
	}
	if own.format == formatLocal {
		if i.Size > int64(len(own.data)) {
			return "", corrupt("a symbolic link of %d bytes in its inode", i.Size)
		}
		return string(own.data[:i.Size]), nil
	}
	var out []byte
	err := v.runs(i, func(e extent) error {
		if int64(len(out)) >= i.Size || e.count*v.blockSize > maxTargetRun {
			return tree.ErrStop
		}
		b, err := v.blocksAt(e.block, e.count)
		if err != nil {
			return err
		}
		if v.v5 { // one header for the whole run
			length := int64(binary.BigEndian.Uint32(b[8:]))
			if string(b[:4]) != "XSLM" || length > int64(len(b))-symlinkHead || !v.sumAt(b, 12) {
				return corrupt("a block of a symbolic link")
			}
			b = b[symlinkHead : symlinkHead+length]
		}
		out = append(out, b...)
		return nil
	})
	if err != nil && int64(len(out)) < i.Size {
		return "", err
	}
	if int64(len(out)) < i.Size {
		return "", corrupt("a symbolic link that ends early")
	}
	return string(out[:i.Size]), nil
}

// blocksAt reads some blocks.
func (v *volume) blocksAt(block uint64, count int64) ([]byte, error) {
	at, err := v.place(block, count)
	if err != nil {
		return nil, err
	}
	b := make([]byte, count*v.blockSize)
	if _, err := v.r.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("cannot read block %d: %w", block, err)
	}
	return b, nil
}
