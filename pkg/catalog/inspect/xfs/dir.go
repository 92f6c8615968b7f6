package xfs

import (
	"encoding/binary"
	"errors"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// dirSpace is where the part of a directory with the names ends; hashes and free lists follow (XFS_DIR2_LEAF_OFFSET).
const dirSpace = 32 << 30

// maxDir bounds one directory, in bytes of names.
const maxDir = 256 << 20

// Names implements tree.Reader.
func (v *volume) Names(d *tree.Inode, fn func(name string, inode uint64) error) error {
	own := d.Own.(*fork)
	if own.format == formatLocal {
		return v.shortForm(own.data[:min(int64(len(own.data)), d.Size)], fn)
	}
	one := int64(0) // block of the file where the directory block that is being put together begins
	var pending []byte
	read := int64(0)
	err := v.runs(d, func(e extent) error {
		for k := range e.count {
			at := (e.at + k) * v.blockSize
			if at >= dirSpace {
				return tree.ErrStop
			}
			if read += v.blockSize; read > maxDir {
				return corrupt("a directory of more than %d bytes", maxDir)
			}
			if len(pending) == 0 {
				one = at
			}
			if at != one+int64(len(pending)) || !e.written {
				return corrupt("directory %d has a hole inside a block", d.Number)
			}
			block, err := v.blocksAt(e.block+uint64(k), 1)
			if err != nil {
				return err
			}
			if pending = append(pending, block...); int64(len(pending)) < v.dirBlock {
				continue
			}
			if err := v.dataBlock(pending, d.Number, fn); err != nil {
				return err
			}
			pending = pending[:0]
		}
		return nil
	})
	if errors.Is(err, tree.ErrStop) && read > 0 {
		return nil
	}
	return err
}

// shortForm reads a directory that fits into its inode: counts, the parent, then names.
func (v *volume) shortForm(b []byte, fn func(string, uint64) error) error {
	if len(b) < 6 {
		return corrupt("a short directory of %d bytes", len(b))
	}
	count, width := int(b[0]), 4
	if b[1] > 0 { // any number that needs 8 bytes makes all of them so
		width = 8
	}
	b = b[min(len(b), 2+width):]
	for range count {
		if len(b) < 3 {
			return corrupt("a short directory that ends early")
		}
		size := int(b[0])
		after := 3 + size
		if v.fileType {
			after++
		}
		if size == 0 || after+width > len(b) {
			return corrupt("a short directory that ends early")
		}
		number := uint64(binary.BigEndian.Uint32(b[after:]))
		if width == 8 {
			number = binary.BigEndian.Uint64(b[after:])
		}
		if err := fn(string(b[3:3+size]), number); err != nil {
			return err
		}
		b = b[after+width:]
	}
	return nil
}

const (
	unusedTag = 0xffff
	entryStep = 8 // entries begin at multiples of it
)

// dataBlock reads a block of names. The only block of a small directory has hashes at its end, which a tail counts.
func (v *volume) dataBlock(b []byte, dir uint64, fn func(string, uint64) error) error {
	be := binary.BigEndian
	head, end := 16, len(b)
	magic := string(b[:4])
	if v.v5 {
		head = 64
		if magic != "XDB3" && magic != "XDD3" || be.Uint64(b[40:]) != dir || !v.sumAt(b, 4) {
			return corrupt("a block of directory %d, or its checksum, is wrong", dir)
		}
	} else if magic != "XD2B" && magic != "XD2D" {
		return corrupt("a block of directory %d is none", dir)
	}
	if magic == "XDB3" || magic == "XD2B" {
		hashes := int64(be.Uint32(b[len(b)-8:]))
		if end = len(b) - 8 - int(min(hashes, int64(len(b))))*8; end < head {
			return corrupt("a block of directory %d has %d hashes", dir, hashes)
		}
	}
	for at := head; at+entryStep <= end; {
		if be.Uint16(b[at:]) == unusedTag {
			length := int(be.Uint16(b[at+2:]))
			if length < entryStep || length%entryStep != 0 || at+length > end {
				return corrupt("directory %d has %d unused bytes", dir, length)
			}
			at += length
			continue
		}
		size := 0
		if at+9 <= end {
			size = int(b[at+8])
		}
		length := 8 + 1 + size + 2 // number, length, name, tag
		if v.fileType {
			length++
		}
		length = (length + entryStep - 1) / entryStep * entryStep
		if size == 0 || at+length > end {
			return corrupt("directory %d has a name of %d bytes", dir, size)
		}
		if name := string(b[at+9 : at+9+size]); name != "." && name != ".." {
			if err := fn(name, be.Uint64(b[at:])); err != nil {
				return err
			}
		}
		at += length
	}
	return nil
}
