package disk

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// growAlign is what the end of a grown partition is rounded down to, in bytes, as partitioning tools do.
const growAlign = 1 << 20

// ReaderWriterAt is a disk that can be changed in place.
type ReaderWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// GrowLast makes the last partition of a disk reach to the new end of the disk, from bytes to to bytes, and gives the
// partition as it is then. Only the table is written: its own entry and, for GPT, both headers with the copy moved to the
// new end (UEFI 2.10, 5.3). Everything else in the table (attributes, GUIDs, boot code) stays as it is. A disk without a
// table has nothing to be written. CodePartitions where p is not the last one or cannot grow.
func GrowLast(f ReaderWriterAt, from, to int64, p Partition) (Partition, error) {
	if p.Type == TypeWhole {
		p.Length = to
		return p, nil
	}
	parts, err := Partitions(f, from)
	if err != nil {
		return p, err
	}
	for _, o := range parts {
		if o.Start > p.Start {
			return p, errs.New(errs.Invalid, CodePartitions, "Partition %d cannot grow: partition %d lies behind it.", p.Index, o.Index)
		}
	}
	if p.UUID != "" {
		return growGPT(f, from, to, p)
	}
	return growMBR(f, to, p)
}

func growMBR(f ReaderWriterAt, to int64, p Partition) (Partition, error) {
	const mostSectors = 1<<32 - 1
	if p.Index > 4 {
		return p, errs.New(errs.Invalid, CodePartitions, "Partition %d is a logical one, which Kiln cannot grow.", p.Index)
	}
	length := (to - p.Start) / growAlign * growAlign
	if length/sectorSize > mostSectors {
		return p, errs.New(errs.Invalid, CodePartitions, "Partition %d cannot have more than 2 TiB in an MBR table.", p.Index)
	}
	b := make([]byte, 4)
	binary.LittleEndian.PutUint32(b, uint32(length/sectorSize))
	if _, err := f.WriteAt(b, 446+16*int64(p.Index-1)+12); err != nil {
		return p, fullOr(err, CodePartitions, "The partition table cannot be written.")
	}
	p.Length = length
	return p, nil
}

func growGPT(f ReaderWriterAt, from, to int64, p Partition) (Partition, error) {
	le := binary.LittleEndian
	if _, _, err := gptAt(f, from, sectorSize, 1); err != nil {
		return p, err
	}
	h := make([]byte, sectorSize)
	if err := readAt(f, h, sectorSize); err != nil {
		return p, err
	}
	if string(h[:8]) != "EFI PART" {
		return p, errs.New(errs.Invalid, CodePartitions, "The disk's first partition table is damaged or has sectors of 4096 bytes.")
	}
	length, width, tableAt := le.Uint32(h[12:]), int64(le.Uint32(h[84:])), int64(le.Uint64(h[72:]))*sectorSize
	table := make([]byte, int64(le.Uint32(h[80:]))*width)
	if err := readAt(f, table, tableAt); err != nil {
		return p, err
	}
	tableSectors := (int64(len(table)) + sectorSize - 1) / sectorSize
	last := to/sectorSize - 1
	usable := last - tableSectors - 1
	end := (usable + 1) * sectorSize / growAlign * growAlign
	if end <= p.Start+p.Length {
		return p, nil
	}
	p.Length = end - p.Start
	le.PutUint64(table[int64(p.Index-1)*width+40:], uint64(end/sectorSize-1))
	oldBackup := int64(le.Uint64(h[32:])) * sectorSize
	le.PutUint64(h[32:], uint64(last))
	le.PutUint64(h[48:], uint64(usable))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	backup := append([]byte(nil), h...)
	le.PutUint64(backup[24:], uint64(last))
	le.PutUint64(backup[32:], 1)
	le.PutUint64(backup[72:], uint64(last-tableSectors))
	for _, b := range [][]byte{h, backup} {
		clear(b[16:20])
		le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:length]))
	}
	protective := make([]byte, 4)
	le.PutUint32(protective, uint32(min(last, 0xffffffff)))
	writes := []block{{table, (last - tableSectors) * sectorSize}, {backup, last * sectorSize}, {table, tableAt}, {h, sectorSize}, {protective, 446 + 12}}
	if oldBackup > sectorSize && oldBackup <= from-sectorSize && oldBackup != last*sectorSize {
		writes = append(writes, block{make([]byte, sectorSize), oldBackup}) // a tool that finds it would take the disk for its old size
	}
	for _, b := range writes {
		if _, err := f.WriteAt(b.data, b.at); err != nil {
			return p, fullOr(err, CodePartitions, "The partition table cannot be written.")
		}
	}
	return p, nil
}

type block struct {
	data []byte
	at   int64
}
