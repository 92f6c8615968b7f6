package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// maxLoaded bounds the records that are kept in memory: one of a large upgrade takes some 30 MB.
const maxLoaded = 4

// loaded is a record that was read before, and whether all of its pack was found to be as recorded.
type loaded struct {
	dir     string
	rec     *Record
	text    fileID
	checked fileID // of the pack
}

// fileID tells a file from any other one that may take its name, and from itself after a change.
type fileID struct {
	inode         uint64
	size          int64
	changed, data unix.Timespec
}

func idOf(f *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, err
	}
	return fileID{st.Ino, st.Size, st.Ctim, st.Mtim}, nil
}

// load reads a record, which nobody may change: others have it too.
func (s *Store) load(dir string) (*Record, error) {
	f, err := os.Open(filepath.Join(dir, "record.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	id, err := idOf(f)
	if err != nil {
		return nil, err
	}
	if l := s.known(dir); l != nil && l.text == id {
		return l.rec, nil
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	sum, body, _ := bytes.Cut(text, []byte("\n"))
	if got := sha256.Sum256(body); string(sum) != hex.EncodeToString(got[:]) {
		return nil, errs.New(errs.Internal, CodeDamaged, "a record of the batch is damaged")
	}
	l := &loaded{dir: dir, rec: &Record{}, text: id}
	if err := json.Unmarshal(body, l.rec); err != nil {
		return nil, err
	}
	s.forget(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = slices.Insert(s.loaded, 0, l)
	s.loaded = s.loaded[:min(len(s.loaded), maxLoaded)]
	return l.rec, nil
}

// known gives what was read of a folder before, and notes the use.
func (s *Store) known(dir string) *loaded {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.loaded, func(l *loaded) bool { return l.dir == dir })
	if i < 0 {
		return nil
	}
	l := s.loaded[i]
	s.loaded = slices.Insert(slices.Delete(s.loaded, i, i+1), 0, l)
	return l
}

func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = slices.DeleteFunc(s.loaded, func(l *loaded) bool { return l.dir == dir })
}

// checked is the pack of a record that was found to be as recorded; the zero value where none was.
func (s *Store) checked(dir string) fileID {
	l := s.known(dir)
	if l == nil {
		return fileID{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.checked
}

func (s *Store) setChecked(dir string, id fileID) {
	if l := s.known(dir); l != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		l.checked = id
	}
}
