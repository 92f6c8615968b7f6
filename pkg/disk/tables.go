package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

const (
	gptEntriesMost = 1024 // four times what any tool writes; bounds what a hostile table makes us read
	logicalMost    = 128  // logical partitions that are followed through extended ones
)

// readGPT tries the first header at both usual sector sizes and then the copy in the last sector. found is false
// where the disk has none; a header with a wrong checksum and no good copy is an error.
func readGPT(r io.ReaderAt, size int64) (parts []Partition, found bool, err error) {
	var first error
	for _, sector := range []int64{512, 4096} {
		for _, lba := range []int64{1, size/sector - 1} {
			if lba < 1 || (lba+1)*sector > size {
				continue
			}
			parts, seen, err := gptAt(r, size, sector, lba)
			if seen && err == nil {
				return parts, true, nil
			}
			if err != nil && first == nil {
				first = err
			}
		}
	}
	return nil, first != nil, first
}

func gptAt(r io.ReaderAt, size, sector, lba int64) ([]Partition, bool, error) {
	h := make([]byte, 512)
	if err := readAt(r, h, lba*sector); err != nil {
		return nil, false, err
	}
	if string(h[:8]) != "EFI PART" {
		return nil, false, nil
	}
	le := binary.LittleEndian
	length, sum := le.Uint32(h[12:]), le.Uint32(h[16:])
	if length < 92 || length > 512 {
		return nil, true, badTable("its header says that it is %d bytes long", length)
	}
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:length]) != sum {
		return nil, true, badTable("its header's checksum is wrong")
	}
	count, width, start := le.Uint32(h[80:]), le.Uint32(h[84:]), le.Uint64(h[72:])
	if count > gptEntriesMost || width < 128 || width > 4096 || width%8 != 0 || start > uint64(size/sector) {
		return nil, true, badTable("it has %d entries of %d bytes at sector %d", count, width, start)
	}
	table := make([]byte, int64(count)*int64(width))
	if err := readAt(r, table, int64(start)*sector); err != nil {
		return nil, true, err
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return nil, true, badTable("its entries' checksum is wrong")
	}
	var parts []Partition
	for i := range int(count) {
		e := table[i*int(width) : (i+1)*int(width)]
		if kind := guid(e[:16]); kind != "00000000-0000-0000-0000-000000000000" {
			from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
			if to < from || to >= uint64(size/sector) {
				return nil, true, badTable("partition %d lies outside the disk (sectors %d to %d)", i+1, from, to)
			}
			parts = append(parts, Partition{Index: i + 1, Type: kind, UUID: guid(e[16:32]), Name: utf16Name(e[56:128]),
				Start: int64(from) * sector, Length: int64(to-from+1) * sector})
		}
	}
	return parts, true, nil
}

// guid prints the mixed-endian form of UEFI 2.10, appendix A.
func guid(b []byte) string {
	le, be := binary.LittleEndian, binary.BigEndian
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), be.Uint16(b[8:]), b[10:16])
}

func utf16Name(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// readMBR reads the four primary entries and follows the chain of extended boot records.
func readMBR(r io.ReaderAt, size int64, mbr []byte) ([]Partition, error) {
	var parts []Partition
	for i := range 4 {
		kind, start, length := mbrEntry(mbr, i)
		if kind == 0 || length == 0 {
			continue
		}
		if start > size || length > size-start {
			return nil, badTable("partition %d lies outside the disk (bytes %d to %d)", i+1, start, start+length)
		}
		if kind == 0x05 || kind == 0x0f || kind == 0x85 {
			logical, err := readLogical(r, size, start)
			if err != nil {
				return nil, err
			}
			parts = append(parts, logical...)
			continue
		}
		parts = append(parts, Partition{Index: i + 1, Type: fmt.Sprintf("0x%02x", kind), Start: start, Length: length})
	}
	if len(parts) == 0 {
		return nil, errs.New(errs.Invalid, CodePartitions, "The partition table of the disk is empty.")
	}
	return parts, nil
}

func readLogical(r io.ReaderAt, size, base int64) ([]Partition, error) {
	var parts []Partition
	at := base
	for i := range logicalMost {
		ebr := make([]byte, sectorSize)
		if err := readAt(r, ebr, at); err != nil {
			return nil, err
		}
		if ebr[510] != 0x55 || ebr[511] != 0xaa {
			return nil, badTable("the record of logical partition %d has no signature", i+5)
		}
		if kind, start, length := mbrEntry(ebr, 0); kind != 0 {
			if start += at; start > size || length > size-start {
				return nil, badTable("logical partition %d lies outside the disk", i+5)
			}
			parts = append(parts, Partition{Index: i + 5, Type: fmt.Sprintf("0x%02x", kind), Start: start, Length: length})
		}
		kind, next, _ := mbrEntry(ebr, 1)
		if kind == 0 {
			return parts, nil
		}
		at = base + next
	}
	return nil, badTable("it has more than %d logical partitions, or they form a loop", logicalMost)
}

// mbrEntry gives type, start and length in bytes of entry i.
func mbrEntry(sector []byte, i int) (kind byte, start, length int64) {
	e := sector[446+16*i:]
	return e[4], int64(binary.LittleEndian.Uint32(e[8:])) * sectorSize, int64(binary.LittleEndian.Uint32(e[12:])) * sectorSize
}

func badTable(format string, args ...any) error {
	return errs.New(errs.Invalid, CodePartitions, "The partition table cannot be used: "+format+".", args...)
}
