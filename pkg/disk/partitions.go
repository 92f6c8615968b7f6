package disk

import (
	"encoding/binary"
	"io"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

const sectorSize = 512

// Codes of the errors that Partitions and FindRoot give.
const (
	CodePartitions = "kiln.disk.partitions" // no readable partition table and no file system
	CodeNoRoot     = "kiln.disk.no_root"    // no partition that can be a Linux root
)

// Partition types as Partition.Type gives them (UEFI 2.10 table 5.7, Discoverable Partitions Specification).
const (
	TypeBIOSBoot  = "21686148-6449-6E6F-744E-656564454649"
	TypeEFI       = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	TypeLinux     = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	TypeRootAMD64 = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
	TypeRootARM64 = "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
	TypeSwap      = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
	TypeWhole     = "whole" // no table: one file system on the whole disk
)

// Partition is one range of a disk.
type Partition struct {
	Index  int    // as the kernel numbers it, from 1; 0 for a disk without a table
	Type   string // GPT: the type GUID in capitals; MBR: "0x83"; no table: TypeWhole
	Start  int64  // bytes from the beginning of the disk
	Length int64  // bytes
	Name   string // GPT only
	UUID   string // GPT only: the partition's own GUID, in capitals
}

// Partitions reads the table of a disk as the guest sees it (for qcow2: through a reader of the virtual disk).
// GPT is taken if its checksums hold, from its copy at the end if need be; then MBR with logical partitions; a
// disk without a table that begins with a file system is one partition of TypeWhole.
func Partitions(r io.ReaderAt, size int64) ([]Partition, error) {
	if size < 2*sectorSize {
		return nil, errs.New(errs.Invalid, CodeTruncated, "The disk has only %d bytes.", size)
	}
	if Filesystem(r, 0, size) != "" {
		return []Partition{{Type: TypeWhole, Length: size}}, nil
	}
	mbr := make([]byte, sectorSize)
	if err := readAt(r, mbr, 0); err != nil {
		return nil, err
	}
	if parts, found, err := readGPT(r, size); found || err != nil {
		return parts, err
	}
	if mbr[510] == 0x55 && mbr[511] == 0xaa {
		return readMBR(r, size, mbr)
	}
	return nil, errs.New(errs.Invalid, CodePartitions, "The disk has neither a partition table nor a file system that Kiln knows.")
}

// FindRoot picks the partition that holds the Linux root: one with a root type if there is one, else the largest
// ext4 (or ext2, ext3) one, else the largest of xfs and btrfs.
func FindRoot(r io.ReaderAt, parts []Partition) (Partition, error) {
	var best Partition
	bestRank := 0
	for _, p := range parts {
		rank := 0
		switch Filesystem(r, p.Start, p.Length) {
		case "ext4", "ext3", "ext2":
			rank = 2
		case "xfs", "btrfs":
			rank = 1
		default:
			continue
		}
		if p.Type == TypeRootAMD64 || p.Type == TypeRootARM64 {
			rank = 3
		}
		if rank > bestRank || rank == bestRank && p.Length > best.Length {
			best, bestRank = p, rank
		}
	}
	if bestRank == 0 {
		return Partition{}, errs.New(errs.Invalid, CodeNoRoot, "None of the %d partitions holds a Linux file system that Kiln can read.", len(parts))
	}
	return best, nil
}

// Filesystem names what lies at off by its magic: ext2, ext3, ext4, xfs, btrfs, vfat, swap, squashfs, LVM2_member,
// crypto_LUKS, or "" for anything else (also if it cannot be read).
func Filesystem(r io.ReaderAt, off, length int64) string {
	at := func(pos int64, n int) []byte {
		b := make([]byte, n)
		if pos+int64(n) > length || readAt(r, b, off+pos) != nil {
			return nil
		}
		return b
	}
	is := func(pos int64, magic string) bool { return string(at(pos, len(magic))) == magic }
	if sb := at(1024, 264); sb != nil && sb[56] == 0x53 && sb[57] == 0xef {
		return extKind(sb)
	}
	for _, m := range []struct {
		pos         int64
		magic, name string
	}{
		{0, "XFSB", "xfs"}, {0x10040, "_BHRfS_M", "btrfs"}, {0, "hsqs", "squashfs"}, {4086, "SWAPSPACE2", "swap"},
		{0, "LUKS\xba\xbe", "crypto_LUKS"}, {512 + 24, "LVM2 001", "LVM2_member"},
		{24, "LVM2 001", "LVM2_member"}, {1024 + 24, "LVM2 001", "LVM2_member"}, {1536 + 24, "LVM2 001", "LVM2_member"}, {82, "FAT32   ", "vfat"},
		{54, "FAT16   ", "vfat"}, {54, "FAT12   ", "vfat"},
	} {
		if is(m.pos, m.magic) {
			return m.name
		}
	}
	return ""
}

// extKind tells ext2, 3 and 4 apart as libblkid does: by the journal and by features that only ext4 has.
func extKind(sb []byte) string {
	compat, incompat, ro := binary.LittleEndian.Uint32(sb[92:]), binary.LittleEndian.Uint32(sb[96:]), binary.LittleEndian.Uint32(sb[100:])
	const journal, extents, bits64, flexBG, hugeFile, extraIsize = 0x4, 0x40, 0x80, 0x200, 0x8, 0x40
	switch {
	case incompat&(extents|bits64|flexBG) != 0 || ro&(hugeFile|extraIsize) != 0:
		return "ext4"
	case compat&journal != 0:
		return "ext3"
	}
	return "ext2"
}
