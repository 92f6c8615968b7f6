package ext4

import (
	"encoding/binary"
	"fmt"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

const (
	extentMagic = 0xf30a
	maxDepth    = 5       // the deepest extent tree that the kernel makes
	maxPointed  = 1 << 30 // bytes of a file of block pointers (ext2, ext3): a file system made today has few of them
)

// Extents implements tree.Reader.
func (f *volume) Extents(i *tree.Inode, fn func(tree.Extent) error) error {
	own := i.Own.(*inode)
	switch {
	case own.flags&flagEncrypted != 0:
		return tree.ErrEncrypted
	case own.flags&flagInline != 0:
		if i.Size > int64(len(own.block)) {
			return fmt.Errorf("inline data of %d bytes cannot be read", i.Size)
		}
		return fn(tree.Extent{Length: i.Size, Data: func() ([]byte, error) { return own.block[:i.Size], nil }})
	case own.flags&flagExtents == 0:
		if i.Size > maxPointed {
			return corrupt("a file of %d bytes with block pointers", i.Size)
		}
		return f.pointers(i, own, fn)
	}
	// Every extent and node may be visited once; a tree that needs more than the file has blocks is a loop.
	budget := i.Size/f.blockSize + 64
	return f.node(own.block[:], maxDepth, &budget, fn)
}

// node tells the runs below one node of an extent tree.
func (f *volume) node(node []byte, depth int, budget *int64, fn func(tree.Extent) error) error {
	le := binary.LittleEndian
	if le.Uint16(node) != extentMagic {
		return corrupt("no extent header")
	}
	entries, level := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if (entries+1)*12 > len(node) || level > depth {
		return corrupt("an extent node of %d entries at level %d", entries, level)
	}
	for k := range entries {
		if *budget--; *budget < 0 {
			return corrupt("an extent tree without end")
		}
		e := node[12*(k+1) : 12*(k+2)]
		if level == 0 {
			if err := f.extent(e, fn); err != nil {
				return err
			}
			continue
		}
		child, err := f.block(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := f.node(child, level-1, budget, fn); err != nil {
			return err
		}
	}
	return nil
}

// extent tells one run of blocks.
func (f *volume) extent(e []byte, fn func(tree.Extent) error) error {
	le := binary.LittleEndian
	at, length := int64(le.Uint32(e))*f.blockSize, int64(le.Uint16(e[4:]))
	if length > 32768 || length == 0 {
		return nil // allocated and never written: reads as zeros
	}
	start := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
	if start <= 0 || start+length > f.blocks {
		return corrupt("an extent of blocks %d to %d", start, start+length)
	}
	return fn(tree.Extent{At: at, Length: length * f.blockSize, Disk: start * f.blockSize})
}

// pointed is a walk along block pointers; neighbours on the disk become one run.
type pointed struct {
	f    *volume
	size int64 // bytes of the file
	at   int64 // bytes of the file behind
	run  tree.Extent
	fn   func(tree.Extent) error
}

// pointers tells the runs of a file of ext2 or ext3: 12 direct pointers, then one, two and three levels of
// indirection.
func (f *volume) pointers(i *tree.Inode, own *inode, fn func(tree.Extent) error) error {
	p := &pointed{f: f, size: i.Size, fn: fn}
	for k := range 15 {
		if p.at >= p.size {
			return p.flush()
		}
		if err := p.pointer(int64(binary.LittleEndian.Uint32(own.block[4*k:])), max(0, k-11)); err != nil {
			return err
		}
	}
	if p.at < p.size {
		return corrupt("a file longer than its block pointers")
	}
	return p.flush()
}

// pointer takes one pointer. Each call takes at least one block off the file, which bounds the walk by its size.
func (p *pointed) pointer(n int64, level int) error {
	if n == 0 {
		span := p.f.blockSize
		for range level {
			span *= p.f.blockSize / 4
		}
		p.at += span
		return nil
	}
	if level == 0 {
		return p.block(n)
	}
	table, err := p.f.block(n)
	if err != nil {
		return err
	}
	for k := 0; k+4 <= len(table) && p.at < p.size; k += 4 {
		if err := p.pointer(int64(binary.LittleEndian.Uint32(table[k:])), level-1); err != nil {
			return err
		}
	}
	return nil
}

func (p *pointed) block(n int64) error {
	if n >= p.f.blocks {
		return corrupt("block %d", n)
	}
	at, place := p.at, n*p.f.blockSize
	p.at += p.f.blockSize
	if p.run.Length > 0 && p.run.At+p.run.Length == at && p.run.Disk+p.run.Length == place {
		p.run.Length += p.f.blockSize
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	p.run = tree.Extent{At: at, Length: p.f.blockSize, Disk: place}
	return nil
}

func (p *pointed) flush() error {
	if p.run.Length == 0 {
		return nil
	}
	run := p.run
	p.run = tree.Extent{}
	return p.fn(run)
}

func (f *volume) block(n int64) ([]byte, error) {
	if n <= 0 || n >= f.blocks {
		return nil, corrupt("block %d", n)
	}
	b := make([]byte, f.blockSize)
	if _, err := f.r.ReadAt(b, n*f.blockSize); err != nil {
		return nil, fmt.Errorf("cannot read block %d: %w", n, err)
	}
	return b, nil
}

// maxDir bounds one directory, in bytes.
const maxDir = 32 << 20

// Names implements tree.Reader. Hashed directories read the same: their inner nodes look like empty entries to old
// readers.
func (f *volume) Names(d *tree.Inode, fn func(name string, inode uint64) error) error {
	own := d.Own.(*inode)
	if own.flags&flagInline != 0 {
		return corrupt("a directory inside its inode") // its entries have no block layout; Linux distributions do not use it
	}
	if own.flags&flagEncrypted != 0 {
		return tree.ErrEncrypted
	}
	data, err := tree.ReadAll(f.r, f, d, maxDir)
	if err != nil {
		return err
	}
	for len(data) >= 8 {
		block := data[:min(f.blockSize, int64(len(data)))]
		data = data[len(block):]
		for len(block) >= 8 {
			n := binary.LittleEndian.Uint32(block)
			length := int(binary.LittleEndian.Uint16(block[4:]))
			if length == 0 && f.blockSize == 65536 || length == 65535 {
				length = len(block)
			}
			size := int(block[6])
			if length < 8 || length > len(block) || size > length-8 {
				return corrupt("a directory entry of %d bytes with a name of %d", length, size)
			}
			if name := string(block[8 : 8+size]); n != 0 && size > 0 && name != "." && name != ".." {
				if err := fn(name, uint64(n)); err != nil {
					return err
				}
			}
			block = block[length:]
		}
	}
	return nil
}

// maxTarget bounds where a symbolic link points, in bytes, as in the kernel.
const maxTarget = 4096

// Target implements tree.Reader. Short targets are in the inode itself.
func (f *volume) Target(i *tree.Inode) (string, error) {
	own := i.Own.(*inode)
	if i.Size > maxTarget {
		return "", corrupt("a symbolic link of %d bytes", i.Size)
	}
	if i.Size < int64(len(own.block)) && own.flags&flagExtents == 0 && (own.secs == 0 || own.acl != 0) {
		return string(own.block[:i.Size]), nil
	}
	data, err := tree.ReadAll(f.r, f, i, maxTarget)
	return string(data), err
}
