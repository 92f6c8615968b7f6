package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// blockBytes is what a layer stores as one: small enough that scattered changes of a file system stay small, large
// enough that the table of 4 GiB has 262,144 lines.
const blockBytes = 16 << 10

// Names in a layer's folder.
const (
	headFile  = "head.json"
	tableFile = "table" // lines of tableLine bytes: block, slot, checksum
	dataFile  = "data"  // slots of blockBytes
)

// sumBytes of SHA-256 are kept of a block: 128 bits.
const sumBytes = 16

const tableLine = 4 + 4 + sumBytes

// zeroSlot marks a block that has nothing but zeros, which is not stored.
const zeroSlot = 0xffffffff

type sum [sumBytes]byte

// zeroSum is the checksum of blocks that were never written; that of a real block of zeros is not used.
var zeroSum sum

// head is what is known of a layer without reading its table.
type head struct {
	ID       string          `json:"id"`        // hex SHA-256 of the table, the size and the parent's id
	Parent   string          `json:"parent"`    // key; "" for a layer that stands on nothing
	ParentID string          `json:"parent_id"` // a parent made anew has the same key but not the same id
	Size     int64           `json:"size"`      // of the disk, bytes
	Stored   int64           `json:"stored"`    // bytes of data
	Boot     string          `json:"boot"`      // boot of the machine in which the files were written or last checked
	Note     json.RawMessage `json:"note"`      // the builder's
}

// entry is one line of a table.
type entry struct {
	block, slot uint32
	sum         sum
}

func (s *Store) readHead(key string) (head, error) {
	var h head
	if err := checkKey(key); err != nil {
		return h, err
	}
	raw, err := os.ReadFile(filepath.Join(s.path(key), headFile))
	if err != nil {
		return h, errs.Wrap(err, errs.NotFound, CodeMissing, "There is no layer %.12s.", key)
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, errs.Wrap(err, errs.Internal, CodeBroken, "The layer %.12s cannot be read.", key)
	}
	return h, nil
}

func writeHead(dir string, h head) error {
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, headFile+".new")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, headFile))
}

func encodeTable(entries []entry) []byte {
	out := make([]byte, 0, len(entries)*tableLine)
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint32(out, e.block)
		out = binary.LittleEndian.AppendUint32(out, e.slot)
		out = append(out, e.sum[:]...)
	}
	return out
}

func decodeTable(raw []byte) ([]entry, bool) {
	if len(raw)%tableLine != 0 {
		return nil, false
	}
	out := make([]entry, len(raw)/tableLine)
	for i := range out {
		line := raw[i*tableLine:]
		out[i].block = binary.LittleEndian.Uint32(line)
		out[i].slot = binary.LittleEndian.Uint32(line[4:])
		copy(out[i].sum[:], line[8:tableLine])
	}
	return out, true
}

// identity names a layer by its content.
func identity(h head, table []byte) string {
	sum := sha256.New()
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(h.Size))
	for _, part := range [][]byte{[]byte(h.Parent), []byte(h.ParentID), size[:], h.Note, table} {
		sum.Write(part)
		sum.Write([]byte{0})
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// load reads a layer's head and table, and checks that they belong together.
func (s *Store) load(key string) (head, []entry, error) {
	h, err := s.readHead(key)
	if err != nil {
		return h, nil, err
	}
	broken := errs.New(errs.Internal, CodeBroken, "The layer %.12s is damaged.", key)
	raw, err := os.ReadFile(filepath.Join(s.path(key), tableFile))
	if err != nil {
		return h, nil, broken
	}
	var note bytes.Buffer
	if json.Compact(&note, h.Note) == nil {
		h.Note = note.Bytes()
	}
	entries, ok := decodeTable(raw)
	if !ok || identity(h, raw) != h.ID {
		return h, nil, broken
	}
	for _, e := range entries {
		if int64(e.block)*blockBytes >= h.Size || e.slot != zeroSlot && int64(e.slot+1)*blockBytes > h.Stored {
			return h, nil, broken
		}
	}
	return h, entries, nil
}
