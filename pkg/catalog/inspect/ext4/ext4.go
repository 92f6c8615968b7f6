// Package ext4 reads files out of ext2, ext3 and ext4 file systems that nobody trusts. It only reads,
// needs neither root nor a mount, and every size that the disk names is held against a bound before
// memory is taken or a loop begins (https://www.kernel.org/doc/html/latest/filesystems/ext4/).
package ext4

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
var ErrCorrupt = errors.New("damaged ext4 file system")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// FS is an open file system.
type FS struct {
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
	r = whole{r}
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
	f := &FS{r: r, inodes: le.Uint32(sb[0:]), perGroup: le.Uint32(sb[40:]), inodeSize: 128, descSize: 32, dirty: incompat&featRecover != 0}
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
	return f, nil
}

// whole drops the io.EOF that a reader may give beside all the bytes that were asked for.
type whole struct{ io.ReaderAt }

func (w whole) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func formatUUID(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// UUID is the file system's identifier as blkid prints it.
func (f *FS) UUID() string { return f.uuid }

// UsedBytes is what files and metadata take.
func (f *FS) UsedBytes() int64 { return (f.blocks - f.free) * f.blockSize }

// Dirty reports whether the journal holds changes that are not in place yet.
func (f *FS) Dirty() bool { return f.dirty }

// inode is the part of an inode that reading needs.
type inode struct {
	mode  uint16
	size  int64
	flags uint32
	acl   uint32 // block of extended attributes, counted in sectors
	secs  uint32 // sectors in use
	uid   uint32
	gid   uint32
	links uint16
	block [60]byte
}

func (i *inode) isDir() bool     { return i.mode&0xf000 == 0x4000 }
func (i *inode) isRegular() bool { return i.mode&0xf000 == 0x8000 }
func (i *inode) isLink() bool    { return i.mode&0xf000 == 0xa000 }

// fileMode translates the type and permission bits.
func (i *inode) fileMode() fs.FileMode {
	m := fs.FileMode(i.mode & 0o777)
	for bit, mode := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.mode&bit != 0 {
			m |= mode
		}
	}
	switch {
	case i.isDir():
		m |= fs.ModeDir
	case i.isLink():
		m |= fs.ModeSymlink
	case !i.isRegular():
		m |= fs.ModeIrregular
	}
	return m
}

func (f *FS) readInode(n uint32) (*inode, error) {
	if n == 0 || n > f.inodes {
		return nil, corrupt("inode %d of %d", n, f.inodes)
	}
	group, index := int64((n-1)/f.perGroup), int64((n-1)%f.perGroup)
	desc := make([]byte, f.descSize)
	if _, err := f.r.ReadAt(desc, f.descStart+group*f.descSize); err != nil {
		return nil, fmt.Errorf("cannot read group %d: %w", group, err)
	}
	table := int64(binary.LittleEndian.Uint32(desc[8:]))
	if f.descSize >= 64 {
		table |= int64(binary.LittleEndian.Uint32(desc[40:])) << 32
	}
	if table <= 0 || table >= f.blocks {
		return nil, corrupt("the inodes of group %d are in block %d", group, table)
	}
	raw := make([]byte, 128)
	if _, err := f.r.ReadAt(raw, table*f.blockSize+index*f.inodeSize); err != nil {
		return nil, fmt.Errorf("cannot read inode %d: %w", n, err)
	}
	le := binary.LittleEndian
	i := &inode{mode: le.Uint16(raw), flags: le.Uint32(raw[32:]), acl: le.Uint32(raw[104:]), secs: le.Uint32(raw[28:])}
	i.uid = uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[120:]))<<16
	i.gid = uint32(le.Uint16(raw[24:])) | uint32(le.Uint16(raw[122:]))<<16
	i.links = le.Uint16(raw[26:])
	i.size = int64(le.Uint32(raw[4:])) | int64(le.Uint32(raw[108:])&0x7fffffff)<<32
	copy(i.block[:], raw[40:100])
	return i, nil
}
