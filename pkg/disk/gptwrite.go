package disk

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

const (
	gptEntries    = 128
	gptEntryBytes = 128
	gptTableLBAs  = gptEntries * gptEntryBytes / sectorSize
	// GPTReserve is the room in bytes that WriteGPT needs at both ends of a disk (the first end rounded to 1 MiB by convention).
	GPTReserve = (2 + gptTableLBAs) * sectorSize
)

// WriteGPT writes a protective MBR (its 440 bytes of boot code stay as they are), the table and its copy at the
// end (UEFI 2.10, 5.3). size is the disk's in bytes, diskUUID and the partitions' UUIDs and types are GUIDs.
func WriteGPT(w io.WriterAt, size int64, diskUUID string, parts []Partition) error {
	last := size/sectorSize - 1
	table := make([]byte, gptEntries*gptEntryBytes)
	for _, p := range parts {
		if p.Index < 1 || p.Index > gptEntries || p.Start < GPTReserve || p.Length <= 0 || p.Start+p.Length > size-GPTReserve+sectorSize ||
			p.Start%sectorSize != 0 || p.Length%sectorSize != 0 {
			return errs.New(errs.Invalid, CodePartitions, "Partition %d (bytes %d to %d) does not fit on a disk of %d bytes.", p.Index, p.Start, p.Start+p.Length, size)
		}
		if err := putEntry(table[(p.Index-1)*gptEntryBytes:], p); err != nil {
			return err
		}
	}
	disk, err := parseGUID(diskUUID)
	if err != nil {
		return err
	}
	mbr := make([]byte, 72) // from byte 440: signature, one entry of type 0xee over the whole disk, 55aa
	copy(mbr[6:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(mbr[18:], uint32(min(last, 0xffffffff)))
	mbr[70], mbr[71] = 0x55, 0xaa
	for _, block := range []struct {
		b   []byte
		off int64
	}{
		{table, 2 * sectorSize}, {gptHeader(1, last, 2, last, disk, table), sectorSize},
		{table, (last - gptTableLBAs) * sectorSize}, {gptHeader(last, 1, last-gptTableLBAs, last, disk, table), last * sectorSize},
		{mbr, 440},
	} {
		if _, err := w.WriteAt(block.b, block.off); err != nil {
			return fullOr(err, CodePartitions, "The partition table cannot be written.")
		}
	}
	return nil
}

func gptHeader(self, other, tableLBA, last int64, disk [16]byte, table []byte) []byte {
	h := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(h, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], uint64(self))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], 2+gptTableLBAs) // first sector for partitions
	le.PutUint64(h[48:], uint64(last-1-gptTableLBAs))
	copy(h[56:], disk[:])
	le.PutUint64(h[72:], uint64(tableLBA))
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntryBytes)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h
}

func putEntry(e []byte, p Partition) error {
	kind, err := parseGUID(p.Type)
	if err != nil {
		return err
	}
	id, err := parseGUID(p.UUID)
	if err != nil {
		return err
	}
	copy(e, kind[:])
	copy(e[16:], id[:])
	binary.LittleEndian.PutUint64(e[32:], uint64(p.Start/sectorSize))
	binary.LittleEndian.PutUint64(e[40:], uint64((p.Start+p.Length)/sectorSize-1))
	name := utf16.Encode([]rune(p.Name))
	for i, u := range name[:min(len(name), 35)] {
		binary.LittleEndian.PutUint16(e[56+2*i:], u)
	}
	return nil
}

// parseGUID reads the text form into the mixed-endian one.
func parseGUID(text string) (out [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		return out, errs.New(errs.Invalid, CodePartitions, "%q is not a GUID.", text)
	}
	for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		out[i] = b[from]
	}
	return out, nil
}
