// Package ext4 reads files out of ext2, ext3 and ext4 file systems that nobody trusts. It only reads,
// needs neither root nor a mount, and every size that the disk names is held against a bound before
// memory is taken or a loop begins (https://www.kernel.org/doc/html/latest/filesystems/ext4/).
package ext4

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// Features that change the layout (INCOMPAT); a disk with any other is refused.
const (
	featRecover  = 0x4 // the journal was not replayed; what is in place is read
	featExtents  = 0x40
	feat64bit    = 0x80
	featReadable = 0x2 | featRecover | featExtents | feat64bit | 0x100 /* mmp */ | 0x200 /* flex_bg */ |
		0x400 /* ea_inode */ | 0x2000 /* csum_seed */ | 0x4000 /* largedir */ | 0x8000 /* inline_data */ |
		0x10000 /* encrypt */ | 0x20000 /* casefold */
)

// Inode flags that the reader must know.
const (
	flagEncrypted = 0x800
	flagExtents   = 0x80000
	flagInline    = 0x10000000
)

const rootInode = 2

// ErrCorrupt is the cause of all errors about a disk that contradicts itself or asks for too much.
var ErrCorrupt = tree.ErrCorrupt

func corrupt(format string, args ...any) error { return tree.Corrupt("ext4: "+format, args...) }

// Node is one name in the tree; its types are those of package tree.
type Node = tree.Node

// The types in Node.Mode that callers ask for.
const (
	TypeMask = tree.TypeMask
	TypeDir  = tree.TypeDir
	TypeFile = tree.TypeFile
)

// FS is an open file system.
type FS struct {
	*tree.Tree
	v *volume
}

// volume is the disk below it: a tree.Reader.
type volume struct {
	r         io.ReaderAt
	blockSize int64
	blocks    int64
	free      int64
	inodes    uint32
	perGroup  uint32
	inodeSize int64
	descSize  int64
	descStart int64 // bytes
	uuid      string
	dirty     bool
}

// Open reads the superblock of a file system of at most size bytes that begins at offset 0 of r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	r = tree.Whole(r)
	sb := make([]byte, 1024)
	if _, err := r.ReadAt(sb, 1024); err != nil {
		return nil, fmt.Errorf("cannot read the superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(sb[56:]) != 0xef53 {
		return nil, corrupt("no superblock")
	}
	incompat := le.Uint32(sb[96:])
	if unknown := incompat &^ featReadable; unknown != 0 {
		return nil, fmt.Errorf("the ext4 features %#x cannot be read", unknown)
	}
	f := &volume{r: r, inodes: le.Uint32(sb[0:]), perGroup: le.Uint32(sb[40:]), inodeSize: 128, descSize: 32, dirty: incompat&featRecover != 0}
	shift := le.Uint32(sb[24:])
	if shift > 6 {
		return nil, corrupt("blocks of 2^%d KiB", shift)
	}
	f.blockSize = 1024 << shift
	f.blocks, f.free = int64(le.Uint32(sb[4:])), int64(le.Uint32(sb[12:]))
	if incompat&feat64bit != 0 {
		f.blocks |= int64(le.Uint32(sb[336:])&0x7fff) << 32
		f.free |= int64(le.Uint32(sb[344:])&0x7fff) << 32
		f.descSize = int64(le.Uint16(sb[254:]))
	}
	if le.Uint32(sb[76:]) > 0 {
		f.inodeSize = int64(le.Uint16(sb[88:]))
	}
	if f.inodeSize < 128 || f.inodeSize > f.blockSize || f.descSize < 32 || f.descSize > f.blockSize || f.perGroup == 0 {
		return nil, corrupt("inodes of %d bytes, %d a group, descriptors of %d bytes", f.inodeSize, f.perGroup, f.descSize)
	}
	if f.blocks <= 0 || f.blocks > size/f.blockSize || f.free > f.blocks {
		return nil, corrupt("%d blocks of %d bytes, %d free, on %d bytes", f.blocks, f.blockSize, f.free, size)
	}
	f.descStart = (int64(le.Uint32(sb[20:])) + 1) * f.blockSize
	f.uuid = formatUUID(sb[104:120])
	return &FS{Tree: tree.New(r, f), v: f}, nil
}

func formatUUID(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// UUID is the file system's identifier as blkid prints it.
func (f *FS) UUID() string { return f.v.uuid }

// UsedBytes is what files and metadata take.
func (f *FS) UsedBytes() int64 { return (f.v.blocks - f.v.free) * f.v.blockSize }

// Dirty reports whether the journal holds changes that are not in place yet.
func (f *FS) Dirty() bool { return f.v.dirty }

// inode is the part of an inode that reading its content needs.
type inode struct {
	flags uint32
	acl   uint32 // block of extended attributes, counted in sectors
	secs  uint32 // sectors in use
	block [60]byte
}

// Root implements tree.Reader.
func (f *volume) Root() uint64 { return rootInode }

// Inode implements tree.Reader.
func (f *volume) Inode(n uint64) (*tree.Inode, error) {
	if n == 0 || n > uint64(f.inodes) {
		return nil, corrupt("inode %d of %d", n, f.inodes)
	}
	group, index := int64((n-1)/uint64(f.perGroup)), int64((n-1)%uint64(f.perGroup))
	var desc [64]byte
	if _, err := f.r.ReadAt(desc[:min(f.descSize, 64)], f.descStart+group*f.descSize); err != nil {
		return nil, fmt.Errorf("cannot read group %d: %w", group, err)
	}
	table := int64(binary.LittleEndian.Uint32(desc[8:]))
	if f.descSize >= 64 {
		table |= int64(binary.LittleEndian.Uint32(desc[40:])) << 32
	}
	if table <= 0 || table >= f.blocks {
		return nil, corrupt("the inodes of group %d are in block %d", group, table)
	}
	var raw [128]byte
	if _, err := f.r.ReadAt(raw[:], table*f.blockSize+index*f.inodeSize); err != nil {
		return nil, fmt.Errorf("cannot read inode %d: %w", n, err)
	}
	le := binary.LittleEndian
	own := &inode{flags: le.Uint32(raw[32:]), acl: le.Uint32(raw[104:]), secs: le.Uint32(raw[28:])}
	copy(own.block[:], raw[40:100])
	i := &tree.Inode{Number: n, Mode: le.Uint16(raw[0:]), Links: uint32(le.Uint16(raw[26:])), Own: own}
	i.UID = uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[120:]))<<16
	i.GID = uint32(le.Uint16(raw[24:])) | uint32(le.Uint16(raw[122:]))<<16
	i.Size = int64(le.Uint32(raw[4:])) | int64(le.Uint32(raw[108:])&0x7fffffff)<<32
	i.Place = f.place(i, own)
	return i, nil
}

// place is where the first block that an inode names lies, without descending.
func (f *volume) place(i *tree.Inode, own *inode) int64 {
	le := binary.LittleEndian
	head := own.block[:]
	switch {
	case !i.Is(TypeFile) || i.Size == 0 || own.flags&flagInline != 0:
		return 0
	case own.flags&flagExtents == 0:
		return int64(le.Uint32(head)) * f.blockSize
	case le.Uint16(head) != extentMagic || le.Uint16(head[2:]) == 0:
		return 0
	case le.Uint16(head[6:]) > 0:
		return (int64(le.Uint32(head[16:])) | int64(le.Uint16(head[20:]))<<32) % f.blocks * f.blockSize
	}
	return (int64(le.Uint32(head[20:])) | int64(le.Uint16(head[18:]))<<32) % f.blocks * f.blockSize
}
