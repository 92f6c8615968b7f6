package ext4

import (
	"encoding/binary"
	"fmt"
)

// maxDepth is the deepest extent tree that the kernel makes.
const maxDepth = 5

// data reads a whole file of at most limit bytes.
func (f *FS) data(i *inode, limit int64) ([]byte, error) {
	switch {
	case i.flags&flagEncrypted != 0:
		return nil, ErrEncrypted
	case i.size > limit:
		return nil, corrupt("a file of %d bytes where at most %d are sensible", i.size, limit)
	case i.flags&flagInline != 0:
		if i.size > int64(len(i.block)) {
			return nil, fmt.Errorf("inline data of %d bytes cannot be read", i.size)
		}
		return i.block[:i.size], nil
	}
	out := make([]byte, i.size)
	var err error
	if i.flags&flagExtents != 0 {
		// Every node may be visited once; a tree that needs more than the file has blocks is a loop.
		budget := i.size/f.blockSize + 64
		err = f.extents(i.block[:], out, maxDepth, &budget)
	} else {
		err = f.pointers(i, out)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// extents fills out from one node of an extent tree. Holes stay zero.
func (f *FS) extents(node, out []byte, depth int, budget *int64) error {
	le := binary.LittleEndian
	if le.Uint16(node) != 0xf30a {
		return corrupt("no extent header")
	}
	entries, level := int(le.Uint16(node[2:])), le.Uint16(node[6:])
	if (entries+1)*12 > len(node) || int(level) > depth {
		return corrupt("an extent node of %d entries at level %d", entries, level)
	}
	for k := range entries {
		if *budget--; *budget < 0 {
			return corrupt("an extent tree without end")
		}
		e := node[12*(k+1) : 12*(k+2)]
		if level == 0 {
			if err := f.extent(e, out); err != nil {
				return err
			}
			continue
		}
		child, err := f.block(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := f.extents(child, out, int(level)-1, budget); err != nil {
			return err
		}
	}
	return nil
}

// extent copies one run of blocks to its place in out.
func (f *FS) extent(e, out []byte) error {
	le := binary.LittleEndian
	length := int64(le.Uint16(e[4:]))
	if length > 32768 {
		return nil // allocated and never written: reads as zeros
	}
	at := int64(le.Uint32(e)) * f.blockSize
	start := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
	if start <= 0 || start+length > f.blocks {
		return corrupt("an extent of blocks %d to %d", start, start+length)
	}
	if at >= int64(len(out)) {
		return nil // allocated beyond the end
	}
	part := out[at:min(at+length*f.blockSize, int64(len(out)))]
	if _, err := f.r.ReadAt(part, start*f.blockSize); err != nil {
		return fmt.Errorf("cannot read block %d: %w", start, err)
	}
	return nil
}

// pointers fills out by the block pointers of ext2 and ext3: 12 direct, then one, two and three
// levels of indirection.
func (f *FS) pointers(i *inode, out []byte) error {
	rest := out
	for k := range 15 {
		if len(rest) == 0 {
			return nil
		}
		n := int64(binary.LittleEndian.Uint32(i.block[4*k:]))
		var err error
		if rest, err = f.pointer(n, max(0, k-11), rest); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		return corrupt("a file longer than its block pointers")
	}
	return nil
}

// pointer fills the head of out from one pointer and gives what is still to fill. Each call takes at
// least one block off out, which bounds the walk by the file's size.
func (f *FS) pointer(n int64, level int, out []byte) ([]byte, error) {
	if n == 0 {
		span := f.blockSize
		for range level {
			span *= f.blockSize / 4
		}
		return out[min(span, int64(len(out))):], nil
	}
	if level == 0 {
		part := out[:min(f.blockSize, int64(len(out)))]
		if n >= f.blocks {
			return nil, corrupt("block %d", n)
		}
		if _, err := f.r.ReadAt(part, n*f.blockSize); err != nil {
			return nil, fmt.Errorf("cannot read block %d: %w", n, err)
		}
		return out[len(part):], nil
	}
	table, err := f.block(n)
	if err != nil {
		return nil, err
	}
	for k := 0; k+4 <= len(table) && len(out) > 0; k += 4 {
		if out, err = f.pointer(int64(binary.LittleEndian.Uint32(table[k:])), level-1, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *FS) block(n int64) ([]byte, error) {
	if n <= 0 || n >= f.blocks {
		return nil, corrupt("block %d", n)
	}
	b := make([]byte, f.blockSize)
	if _, err := f.r.ReadAt(b, n*f.blockSize); err != nil {
		return nil, fmt.Errorf("cannot read block %d: %w", n, err)
	}
	return b, nil
}
