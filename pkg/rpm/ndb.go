package rpm

import "encoding/binary"

// The parts of ndb (https://github.com/rpm-software-management/rpm/blob/rpm-4.19.x/lib/backend/ndb/rpmpkg.c): pages of
// slots, each of which says where in the file, counted in blocks of 16 bytes, a package's header lies.
const (
	ndbMagic    = "RpmP"
	ndbSlot     = "Slot"
	ndbBlob     = "BlbS"
	ndbPage     = 4096
	ndbBlock    = 16
	ndbHeader   = 2 * ndbBlock // the first two slots of the first page
	maxNDBPages = 4096
)

func readNDB(data []byte, add func([]byte) error) error {
	if len(data) < ndbHeader {
		return corrupt("ndb of %d bytes", len(data))
	}
	version, pages := binary.LittleEndian.Uint32(data[4:]), binary.LittleEndian.Uint32(data[12:])
	if version != 0 || pages == 0 || pages > maxNDBPages || uint64(pages)*ndbPage > uint64(len(data)) {
		return corrupt("ndb of version %d with %d pages of slots", version, pages)
	}
	for slot := data[ndbHeader : pages*ndbPage]; len(slot) > 0; slot = slot[ndbBlock:] {
		if string(slot[:4]) != ndbSlot {
			return corrupt("ndb: a slot that is none")
		}
		number, block := binary.LittleEndian.Uint32(slot[4:]), uint64(binary.LittleEndian.Uint32(slot[8:]))
		if number == 0 {
			continue // free
		}
		at := block * ndbBlock
		if at+ndbBlock > uint64(len(data)) {
			return corrupt("ndb: a package beyond the end of the file")
		}
		blob := data[at:]
		size := uint64(binary.LittleEndian.Uint32(blob[12:]))
		if string(blob[:4]) != ndbBlob || binary.LittleEndian.Uint32(blob[4:]) != number || ndbBlock+size > uint64(len(blob)) {
			return corrupt("ndb: package %d is not where its slot says", number)
		}
		if err := add(blob[ndbBlock : ndbBlock+size]); err != nil {
			return err
		}
	}
	return nil
}
