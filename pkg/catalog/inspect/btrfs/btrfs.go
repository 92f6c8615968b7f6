// Package btrfs reads files out of btrfs file systems on one device that nobody trusts: all subvolumes, inline, regular
// and preallocated extents, and the compressions zlib, lzo and zstd. It only reads, needs neither root nor a mount,
// verifies the checksums of all metadata, and holds every size that the disk names against a bound
// (https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html; include/uapi/linux/btrfs_tree.h of Linux 6.12 where
// that is silent).
//
// It is our own because there is no Go library for it: dennwc/btrfs asks the kernel, git.lukeshu.com/btrfs-progs-ng is
// a recovery tool under the GPL, and go-filesystems/btrfs calls itself unfit for production and knows no compression.
package btrfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// Features that change the layout (incompat_flags); a disk with any other is refused.
const (
	featMetadataUUID = 0x400
	featReadable     = 0x1 /* mixed backref */ | 0x2 /* default subvolume */ | 0x4 /* mixed groups */ | 0x8 /* lzo */ | 0x10 /* zstd */ |
		0x20 /* big metadata */ | 0x40 /* extended inode references */ | 0x80 /* raid56 */ | 0x100 /* skinny metadata */ | 0x200 /* no holes */ |
		featMetadataUUID | 0x800 /* raid1c34 */ | 0x10000 /* simple quota */
)

const (
	superAt   = 64 << 10
	superSize = 4096
	magic     = "_BHRfS_M"
)

func corrupt(format string, args ...any) error { return tree.Corrupt("btrfs: "+format, args...) }

// FS is an open subvolume, with those that lie in it.
type FS struct {
	*tree.Tree
	v *volume
}

// volume is the disk below all subvolumes.
type volume struct {
	r          io.ReaderAt
	size       int64
	used       int64
	sectorSize int64
	nodeSize   int64
	sum        func([]byte) []byte
	fsid       []byte // in the header of every node
	uuid       string
	chunks     []chunk // by logical address
	root       subtree // of trees

	mu    sync.Mutex
	nodes map[uint64][]byte
	zstds sync.Pool
}

// subtree is where a B-tree begins.
type subtree struct {
	addr  uint64
	level byte
}

// Open reads the superblock and the map of a file system of at most size bytes that begins at offset 0 of r, and opens
// its default subvolume.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	r = tree.Whole(r)
	sb := make([]byte, superSize)
	if _, err := r.ReadAt(sb, superAt); err != nil {
		return nil, fmt.Errorf("cannot read the superblock: %w", err)
	}
	v := &volume{r: r, size: size, nodes: map[uint64][]byte{}}
	if err := v.super(sb); err != nil {
		return nil, err
	}
	if err := v.readChunks(sb); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	v.root = subtree{le.Uint64(sb[80:]), sb[198]}
	id, err := v.defaultSubvolume()
	if err != nil {
		return nil, err
	}
	return v.open(id)
}

// super takes what the superblock says.
func (v *volume) super(sb []byte) error {
	le := binary.LittleEndian
	if string(sb[64:72]) != magic || le.Uint64(sb[48:]) != superAt {
		return corrupt("no superblock")
	}
	switch kind := le.Uint16(sb[196:]); kind {
	case 0:
		v.sum = func(b []byte) []byte { return le.AppendUint32(nil, crc32.Checksum(b, castagnoli)) }
	case 1:
		v.sum = func(b []byte) []byte { return le.AppendUint64(nil, xxhash.Sum64(b)) }
	case 2:
		v.sum = func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	default:
		return fmt.Errorf("btrfs checksums of kind %d cannot be verified", kind)
	}
	if !v.verified(sb) {
		return corrupt("the superblock's checksum is wrong")
	}
	if unknown := le.Uint64(sb[188:]) &^ featReadable; unknown != 0 {
		return fmt.Errorf("the btrfs features %#x cannot be read", unknown)
	}
	if devices := le.Uint64(sb[136:]); devices != 1 {
		return fmt.Errorf("a btrfs of %d devices cannot be read", devices)
	}
	v.sectorSize, v.nodeSize = int64(le.Uint32(sb[144:])), int64(le.Uint32(sb[148:]))
	for _, n := range []int64{v.sectorSize, v.nodeSize} {
		if n < 4<<10 || n > 64<<10 || n&(n-1) != 0 {
			return corrupt("sectors of %d bytes, nodes of %d", v.sectorSize, v.nodeSize)
		}
	}
	total, used := le.Uint64(sb[112:]), le.Uint64(sb[120:])
	if total > uint64(v.size) || used > total {
		return corrupt("%d bytes, %d used, on %d", total, used, v.size)
	}
	v.used, v.fsid = int64(used), sb[32:48]
	if le.Uint64(sb[188:])&featMetadataUUID != 0 {
		v.fsid = sb[571:587]
	}
	h := hex.EncodeToString(sb[32:48])
	v.uuid = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// verified holds the checksum at the beginning against all that follows it.
func (v *volume) verified(b []byte) bool {
	const room = 32
	sum := v.sum(b[room:])
	return bytes.Equal(sum, b[:len(sum)])
}

// UUID is the file system's identifier as blkid prints it.
func (f *FS) UUID() string { return f.v.uuid }

// UsedBytes is what files and metadata of all subvolumes take.
func (f *FS) UsedBytes() int64 { return f.v.used }
