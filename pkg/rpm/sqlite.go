package rpm

import (
	"encoding/binary"
	"maps"
)

// The parts of sqlite's file format that a table is read by (https://www.sqlite.org/fileformat2.html). The file is an
// image's: it is read and not executed, so that no view, trigger or endless query of its schema runs.
const (
	sqliteMagic    = "SQLite format 3\x00"
	sqliteHeader   = 100
	sqliteInterior = 0x05
	sqliteLeaf     = 0x0d
	sqliteDepth    = 20
)

// sqlite is one database.
type sqlite struct {
	data  []byte
	newer map[uint32][]byte // pages that the write-ahead log has
	size  int               // of a page
	use   int               // bytes of a page that hold content
	left  int               // pages that may still be visited
	copy  int               // bytes that may still be joined from several pages
}

func readSQLite(data, log []byte, add func([]byte) error) error {
	db := sqlite{data: data}
	if len(data) < sqliteHeader {
		return corrupt("sqlite of %d bytes", len(data))
	}
	db.size = int(binary.BigEndian.Uint16(data[16:]))
	if db.size == 1 {
		db.size = 64 << 10
	}
	db.use = db.size - int(data[20])
	if db.size < 512 || db.size&(db.size-1) != 0 || db.use < 480 {
		return corrupt("sqlite with pages of %d bytes", db.size)
	}
	db.newer = walPages(log, db.size)
	db.left = len(data)/db.size + len(db.newer) + 1
	db.copy = len(data) + len(log)
	root := uint32(0)
	err := db.table(1, 0, func(record []byte) error {
		row, err := columns(record, 4)
		if err == nil && string(row[0]) == "table" && string(row[1]) == "Packages" {
			root = uint32(bigEndian(row[3]))
		}
		return err
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return corrupt("sqlite without a table Packages")
	}
	return db.table(root, 0, func(record []byte) error {
		row, err := columns(record, 2)
		if err != nil {
			return err
		}
		return add(row[1])
	})
}

func bigEndian(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// page gives a page by its number, which counts from 1.
func (db *sqlite) page(n uint32) ([]byte, error) {
	if p, ok := db.newer[n]; ok {
		return p, nil
	}
	end := int64(n) * int64(db.size)
	if n == 0 || end > int64(len(db.data)) {
		return nil, corrupt("sqlite: page %d is beyond the end of the file", n)
	}
	return db.data[end-int64(db.size) : end], nil
}

// table reads all records of a table in their order.
func (db *sqlite) table(n uint32, depth int, read func([]byte) error) error {
	p, err := db.page(n)
	if err != nil {
		return err
	}
	if db.left--; db.left < 0 || depth > sqliteDepth {
		return corrupt("sqlite: a tree whose pages are used twice")
	}
	head := 0
	if n == 1 {
		head = sqliteHeader
	}
	kind, cells := p[head], int(binary.BigEndian.Uint16(p[head+3:]))
	at := head + 8
	if kind == sqliteInterior {
		at += 4
	}
	if kind != sqliteInterior && kind != sqliteLeaf || at+2*cells > db.use {
		return corrupt("sqlite: page %d is no part of a table", n)
	}
	for i := range cells {
		cell := int(binary.BigEndian.Uint16(p[at+2*i:]))
		if cell+4 > db.use {
			return corrupt("sqlite: a cell outside of its page")
		}
		if kind == sqliteInterior {
			err = db.table(binary.BigEndian.Uint32(p[cell:]), depth+1, read)
		} else {
			err = db.record(p[cell:db.use], read)
		}
		if err != nil {
			return err
		}
	}
	if kind == sqliteInterior {
		return db.table(binary.BigEndian.Uint32(p[head+8:]), depth+1, read)
	}
	return nil
}

// record joins a record that begins in a cell with what lies on pages of its own.
func (db *sqlite) record(cell []byte, read func([]byte) error) error {
	size, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || size > maxData || size > uint64(len(db.data)+len(db.newer)*db.size) {
		return corrupt("sqlite: a record of %d bytes", size)
	}
	cell, length := cell[n+m:], int(size)
	local := length
	if most, least := db.use-35, (db.use-12)*32/255-23; length > most {
		if local = least + (length-least)%(db.use-4); local > most {
			local = least
		}
	}
	if local > len(cell) || local < length && local+4 > len(cell) {
		return corrupt("sqlite: a record outside of its page")
	}
	if local == length {
		return read(cell[:local])
	}
	if db.copy -= length; db.copy < 0 {
		return corrupt("sqlite: records that have more bytes than the file")
	}
	whole := append(make([]byte, 0, length), cell[:local]...)
	for next := binary.BigEndian.Uint32(cell[local:]); len(whole) < length; {
		p, err := db.page(next)
		if err != nil {
			return err
		}
		whole = append(whole, p[4:min(db.use, 4+length-len(whole))]...)
		next = binary.BigEndian.Uint32(p)
	}
	return read(whole)
}

// varint reads an integer of up to nine bytes and says how many they are; 0 where there are too few.
func varint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 8 {
		c := b[n]
		n++
		v = v<<7 | uint64(c&0x7f)
		if c < 0x80 {
			return v, n
		}
	}
	if n == len(b) {
		return 0, 0
	}
	return v<<8 | uint64(b[n]), n + 1
}

// columns gives the first columns of a record as their bytes.
func columns(record []byte, count int) ([][]byte, error) {
	size, n := varint(record)
	if n == 0 || size > uint64(len(record)) || size < uint64(n) {
		return nil, corrupt("sqlite: a record without a head")
	}
	kinds, values := record[n:size], record[size:]
	var out [][]byte
	for len(out) < count {
		kind, n := varint(kinds)
		length := lengthOf(kind)
		if n == 0 || length > uint64(len(values)) {
			return nil, corrupt("sqlite: a record of too few columns")
		}
		out = append(out, values[:length])
		kinds, values = kinds[n:], values[length:]
	}
	return out, nil
}

// lengthOf is how many bytes a value of a serial type has.
func lengthOf(kind uint64) uint64 {
	switch {
	case kind >= 12:
		return (kind - 12) / 2
	case kind == 5:
		return 6
	case kind == 6 || kind == 7:
		return 8
	case kind >= 8:
		return 0
	}
	return kind
}

const (
	walHeader = 32
	walFrame  = 24
)

// walPages gives the pages of a write-ahead log up to its last transaction that was ended. Frames of an earlier life
// have other salts.
func walPages(log []byte, size int) map[uint32][]byte {
	if len(log) < walHeader || binary.BigEndian.Uint32(log)&^1 != 0x377f0682 || int(binary.BigEndian.Uint32(log[8:])) != size {
		return nil
	}
	salts, done, open := string(log[16:24]), map[uint32][]byte{}, map[uint32][]byte{}
	for rest := log[walHeader:]; len(rest) >= walFrame+size && string(rest[8:16]) == salts; rest = rest[walFrame+size:] {
		open[binary.BigEndian.Uint32(rest)] = rest[walFrame : walFrame+size]
		if binary.BigEndian.Uint32(rest[4:]) == 0 {
			continue
		}
		maps.Copy(done, open)
		clear(open)
	}
	return done
}
