// Package xfs reads files out of XFS file systems, version 4 and 5, that nobody trusts. It only reads, needs neither
// root nor a mount, verifies the checksums of version 5, and holds every size that the disk names against a bound
// (XFS Algorithms & Data Structures, https://git.kernel.org/pub/scm/fs/xfs/xfs-documentation.git; fs/xfs/libxfs of
// Linux 6.12 where that is silent: sparse inodes, bigtime and nrext64).
//
// It is our own because the Go libraries there are were not made for this: masahiro331/go-xfs-filesystem panics on
// damaged disks and knows no 64-bit extent counters, asalih/go-xfs and aoiflux/libxfs are weeks old with no other
// user, and none of them shares paths, walks and bounds with the readers of other file systems.
package xfs

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// Features that change the layout (sb_features_incompat); a disk with any other is refused.
const (
	featFileType = 0x1
	featReadable = featFileType | 0x2 /* sparse inodes */ | 0x4 /* metadata UUID */ | 0x8 /* bigtime */ | 0x10 /* needs repair */ |
		0x20 /* nrext64 */ | 0x40 /* exchange range */ | 0x80 /* parent pointers */

	version4     = 4
	version5     = 5
	versionMask  = 0xf
	versionDirV2 = 0x2000
	versionMore  = 0x8000 // sb_features2 is valid
	more2Type    = 0x200  // directories keep file types (version 4)
)

func corrupt(format string, args ...any) error { return tree.Corrupt("xfs: "+format, args...) }

// FS is an open file system.
type FS struct {
	*tree.Tree
	v *volume
}

// volume is the disk below it: a tree.Reader.
type volume struct {
	r         io.ReaderAt
	v5        bool
	fileType  bool // directory entries have a type
	blockSize int64
	blocks    int64 // of the whole file system
	free      int64
	groups    int64 // allocation groups
	perGroup  int64 // blocks of a group
	groupLog  uint  // bits of a block's number inside its group
	inodeSize int64
	perBlock  uint // inodes of a block, log 2
	dirBlock  int64
	root      uint64
	uuid      string
}

// Open reads the superblock of a file system of at most size bytes that begins at offset 0 of r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	r = tree.Whole(r)
	sb := make([]byte, 512)
	if _, err := r.ReadAt(sb, 0); err != nil {
		return nil, fmt.Errorf("cannot read the superblock: %w", err)
	}
	be := binary.BigEndian
	if string(sb[:4]) != "XFSB" {
		return nil, corrupt("no superblock")
	}
	v := &volume{
		r: r, blockSize: int64(be.Uint32(sb[4:])), blocks: int64(be.Uint64(sb[8:])), free: int64(be.Uint64(sb[144:])),
		groups: int64(be.Uint32(sb[88:])), perGroup: int64(be.Uint32(sb[84:])), groupLog: uint(sb[124]),
		inodeSize: int64(be.Uint16(sb[104:])), perBlock: uint(sb[123]), root: be.Uint64(sb[56:]),
	}
	if err := v.features(sb); err != nil {
		return nil, err
	}
	if err := v.geometry(sb, size); err != nil {
		return nil, err
	}
	if v.v5 && !v.sumAt(sb, 224) { // the checksum covers the sector
		sector := make([]byte, min(32<<10, max(512, int64(be.Uint16(sb[102:])))))
		if _, err := r.ReadAt(sector, 0); err != nil || !v.sumAt(sector, 224) {
			return nil, corrupt("the superblock's checksum is wrong")
		}
	}
	h := hex.EncodeToString(sb[32:48])
	v.uuid = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	return &FS{Tree: tree.New(r, v), v: v}, nil
}

// features takes the version and refuses what this reader does not know.
func (v *volume) features(sb []byte) error {
	be := binary.BigEndian
	version := be.Uint16(sb[100:])
	switch version & versionMask {
	case version4:
		if version&versionDirV2 == 0 {
			return fmt.Errorf("xfs directories of version 1 cannot be read")
		}
		v.fileType = version&versionMore != 0 && be.Uint32(sb[200:])&more2Type != 0
	case version5:
		incompat := be.Uint32(sb[216:])
		if unknown := incompat &^ featReadable; unknown != 0 {
			return fmt.Errorf("the xfs features %#x cannot be read", unknown)
		}
		v.v5, v.fileType = true, incompat&featFileType != 0
	default:
		return fmt.Errorf("xfs version %d cannot be read", version&versionMask)
	}
	return nil
}

// geometry holds the sizes against each other and against the disk.
func (v *volume) geometry(sb []byte, size int64) error {
	dirLog := uint(sb[192])
	switch {
	case v.blockSize < 512 || v.blockSize > 64<<10 || v.blockSize&(v.blockSize-1) != 0:
		return corrupt("blocks of %d bytes", v.blockSize)
	case v.inodeSize < 256 || v.inodeSize > 2048 || v.inodeSize<<v.perBlock != v.blockSize:
		return corrupt("inodes of %d bytes, 2^%d a block of %d", v.inodeSize, v.perBlock, v.blockSize)
	case dirLog > 7 || v.blockSize<<dirLog > 64<<10:
		return corrupt("directory blocks of 2^%d blocks", dirLog)
	case v.blocks <= 0 || v.blocks > size/v.blockSize || v.free < 0 || v.free > v.blocks:
		return corrupt("%d blocks of %d bytes, %d free, on %d bytes", v.blocks, v.blockSize, v.free, size)
	case v.groups <= 0 || v.perGroup <= 0 || v.groupLog > 31 || v.perGroup > 1<<v.groupLog || v.perGroup*(v.groups-1) >= v.blocks:
		return corrupt("%d groups of %d blocks (2^%d)", v.groups, v.perGroup, v.groupLog)
	}
	v.dirBlock = v.blockSize << dirLog
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumAt verifies a checksum that lies at an offset of what it covers and counts as zero itself. Alone among the
// numbers of XFS it is little-endian.
func (v *volume) sumAt(b []byte, at int) bool {
	sum := crc32.Update(0, castagnoli, b[:at])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, b[at+4:]) == binary.LittleEndian.Uint32(b[at:])
}

// UUID is the file system's identifier as blkid prints it.
func (f *FS) UUID() string { return f.v.uuid }

// UsedBytes is what files and metadata take, as of the last clean unmount.
func (f *FS) UsedBytes() int64 { return (f.v.blocks - f.v.free) * f.v.blockSize }

// place gives the byte where a run of blocks begins. A block's number has its group in the high bits.
func (v *volume) place(block uint64, count int64) (int64, error) {
	group, in := int64(block>>v.groupLog), int64(block&(1<<v.groupLog-1))
	if group < 0 || group >= v.groups || in+count > v.perGroup || group*v.perGroup+in+count > v.blocks {
		return 0, corrupt("blocks %d to %d of group %d", in, in+count, group)
	}
	return (group*v.perGroup + in) * v.blockSize, nil
}
