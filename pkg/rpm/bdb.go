package rpm

import "encoding/binary"

// The parts of a hash of Berkeley DB that are read
// (https://github.com/berkeleydb/libdb/blob/v5.3.28/src/dbinc/db_page.h). Headers are long, so each lies on a chain of
// pages of its own; what lies in the hash's pages itself is the database's own count.
const (
	bdbHash     = 0x061561
	bdbMeta     = 72 // bytes of the first page that say how to read the rest
	bdbPage     = 26 // bytes of a page's own header
	bdbUnsorted = 2  // types of pages
	bdbOverflow = 7
	bdbSorted   = 13
	bdbOffPage  = 3 // type of an entry: on pages of its own
)

// bdb is one such file.
type bdb struct {
	data  []byte
	order binary.ByteOrder
	size  uint64 // of a page
}

func readBDB(data []byte, add func([]byte) error) error {
	db := bdb{data: data, order: binary.LittleEndian}
	if db.order.Uint32(data[12:]) != bdbHash {
		db.order = binary.BigEndian
	}
	db.size = uint64(db.order.Uint32(data[20:]))
	if db.size < 512 || db.size > 64<<10 || db.size&(db.size-1) != 0 || data[24] != 0 {
		return corrupt("Berkeley DB with pages of %d bytes, or encrypted", db.size)
	}
	pages := min(uint64(db.order.Uint32(data[32:]))+1, uint64(len(data))/db.size)
	for n := range pages {
		page := data[n*db.size:][:db.size]
		if page[25] != bdbUnsorted && page[25] != bdbSorted {
			continue
		}
		if err := db.readPage(page, add); err != nil {
			return err
		}
	}
	return nil
}

// readPage reads the values of one page of the hash: entries are keys and values in turn.
func (db bdb) readPage(page []byte, add func([]byte) error) error {
	entries := uint64(db.order.Uint16(page[20:]))
	if entries%2 != 0 || bdbPage+2*entries > db.size {
		return corrupt("Berkeley DB: a page of %d entries", entries)
	}
	for i := uint64(1); i < entries; i += 2 {
		at := uint64(db.order.Uint16(page[bdbPage+2*i:]))
		if at+12 > db.size {
			if at < db.size && page[at] != bdbOffPage {
				continue
			}
			return corrupt("Berkeley DB: an entry outside of its page")
		}
		if page[at] != bdbOffPage {
			continue
		}
		blob, err := db.chain(uint64(db.order.Uint32(page[at+4:])), uint64(db.order.Uint32(page[at+8:])))
		if err != nil {
			return err
		}
		if err := add(blob); err != nil {
			return err
		}
	}
	return nil
}

// chain joins the pages of one long value. Its length bounds the chain, so that one that bites its tail ends.
func (db bdb) chain(page, length uint64) ([]byte, error) {
	if length > maxData || length > uint64(len(db.data)) {
		return nil, corrupt("Berkeley DB: a value of %d bytes", length)
	}
	value := make([]byte, 0, length)
	for page != 0 {
		if (page+1)*db.size > uint64(len(db.data)) {
			return nil, corrupt("Berkeley DB: page %d is beyond the end of the file", page)
		}
		p := db.data[page*db.size:][:db.size]
		used := uint64(db.order.Uint16(p[22:]))
		if p[25] != bdbOverflow || used == 0 || bdbPage+used > db.size || uint64(len(value))+used > length {
			return nil, corrupt("Berkeley DB: page %d is not a part of a value of %d bytes", page, length)
		}
		value = append(value, p[bdbPage:bdbPage+used]...)
		page = uint64(db.order.Uint32(p[16:]))
	}
	if uint64(len(value)) != length {
		return nil, corrupt("Berkeley DB: a value of %d bytes that should have %d", len(value), length)
	}
	return value, nil
}
