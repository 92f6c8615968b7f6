package record

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeStore is the code of errors about the folder of records.
const CodeStore = "kiln.upgrade.record_store"

// Bounds of a Store where it names none.
const (
	DefaultBytes = 20 << 30
	DefaultAge   = 7 * 24 * time.Hour
	// variants bounds the records of one key: images that have the same change but other inputs.
	variants = 6
	halfAge  = 6 * time.Hour // after which nobody is still writing
	halfMark = ".half-"

	refusedMark = ".refused"
	refusals    = 2
	missedMark  = ".missed"
	maxMissed   = 64 * 17 // bytes
	paceFile    = "pace"
	defaultPace = 300 * time.Millisecond
)

// Store keeps records in a folder. Several processes may have one folder: a record appears whole, by its rename, and one
// that is being read stays readable when it is removed. The zero value with a Dir works.
type Store struct {
	Dir   string
	Bytes int64         // of all records; default DefaultBytes
	Age   time.Duration // since its last use; default DefaultAge
	Now   func() time.Time

	mu     sync.Mutex
	loaded []*loaded // last used first
}

func (s *Store) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return errs.Wrap(err, errs.Internal, CodeStore, "the folder of recorded upgrades cannot be used")
}

// Kept is a record that is open. Close it.
type Kept struct {
	*Record
	pack  *os.File
	dir   string
	store *Store
}

// Close lets the record go; Drop also removes it, because it is damaged.
func (k *Kept) Close() error { return k.pack.Close() }

// Drop removes the record.
func (k *Kept) Drop() error {
	k.store.forget(k.dir)
	return errors.Join(k.pack.Close(), storeError(os.RemoveAll(k.dir)))
}

// Apply is Record.Apply with the record's own pack. Its content is held against the hashes the first time: not again while the
// file stays as it is.
func (k *Kept) Apply(ctx context.Context, t *Tree) (int, error) {
	id, err := idOf(k.pack)
	if err != nil {
		return 0, storeError(err)
	}
	a := &applier{rec: k.Record, tree: t, pack: k.pack}
	if k.store.checked(k.dir) == id {
		a.checked = int(k.pack.Fd())
	}
	n, err := a.apply(ctx)
	if err == nil {
		k.store.setChecked(k.dir, id)
	}
	return n, err
}

// Find gives the first record of a key that fits the tree. Where none does it is nil, and why says so of the last one;
// "" where there is no record. A record that cannot be read is removed.
func (s *Store) Find(ctx context.Context, key string, t *Tree) (found *Kept, why string, err error) {
	names, err := s.names(key)
	if err != nil {
		return nil, "", err
	}
	for _, name := range names {
		k, err := s.open(name)
		if err != nil {
			if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
				return nil, "", storeError(err)
			}
			continue
		}
		why, err = k.Fits(ctx, t)
		if err == nil && why == "" {
			now := s.now()
			err = storeError(os.Chtimes(k.dir, now, now))
		}
		if err != nil {
			return nil, "", errors.Join(err, k.Close())
		}
		if why == "" {
			return k, "", nil
		}
		if err := k.Close(); err != nil {
			return nil, "", storeError(err)
		}
	}
	return nil, why, nil
}

// Full reports whether a key has as many records as it may have, or was refused one as often.
func (s *Store) Full(key string) (bool, error) {
	names, err := s.names(key)
	if st, err := os.Stat(filepath.Join(s.Dir, key+refusedMark)); err == nil && st.Size() >= refusals {
		return true, nil
	}
	return len(names) >= variants, err
}

// Refused notes that a record could not be made: after two images of a key it is not tried again for a while.
func (s *Store) Refused(key string) error {
	f, err := os.OpenFile(filepath.Join(s.Dir, key+refusedMark), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return storeError(err)
	}
	_, err = f.WriteString("x")
	return storeError(errors.Join(err, f.Close()))
}

func (s *Store) names(key string) ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), key+"-") {
			names = append(names, e.Name())
		}
	}
	return names, storeError(err)
}

func (s *Store) open(name string) (*Kept, error) {
	dir := filepath.Join(s.Dir, name)
	rec, err := s.load(dir)
	if err != nil {
		return nil, err
	}
	k := &Kept{Record: rec, dir: dir, store: s}
	k.pack, err = os.Open(filepath.Join(dir, "pack"))
	return k, err
}

// Lock makes this caller the only one to record a key. takes is about how long that lasts: a caller who finds it begun waits
// only for its last half, and gets nil where that is far or others still record when it is long over.
func (s *Store) Lock(ctx context.Context, key string, takes time.Duration) (io.Closer, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, storeError(err)
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, key+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, storeError(err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			now := s.now()
			return f, storeError(os.Chtimes(f.Name(), now, now))
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, storeError(errors.Join(err, f.Close()))
		}
		st, err := f.Stat()
		if err != nil {
			return nil, storeError(errors.Join(err, f.Close()))
		}
		if since := s.now().Sub(st.ModTime()); since < takes/2 || since > 2*takes {
			return nil, storeError(f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Missed notes that there was no record for an image, and why. It is true where another image of the key missed one for the same
// reason before: then a record is worth its time.
func (s *Store) Missed(key, why string) (before bool, err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return false, storeError(err)
	}
	sum := sha256.Sum256([]byte(why))
	line := hex.EncodeToString(sum[:8]) + "\n"
	f, err := os.OpenFile(filepath.Join(s.Dir, key+missedMark), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return false, storeError(err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxMissed))
	if err == nil && !strings.Contains(string(text), line) && len(text) < maxMissed {
		_, err = f.WriteString(line) // of two at the same time both may be the first one
		return false, storeError(errors.Join(err, f.Close()))
	}
	return true, storeError(errors.Join(err, f.Close()))
}

// Pace is how long recording takes here for each change, by the last record.
func (s *Store) Pace() time.Duration {
	text, err := os.ReadFile(filepath.Join(s.Dir, paceFile))
	if pace, bad := time.ParseDuration(string(text)); err == nil && bad == nil {
		return min(max(pace, 10*time.Millisecond), 10*time.Second)
	}
	return defaultPace
}

// keepPace is told of a record that was made.
func (s *Store) keepPace(pace time.Duration) error {
	f, err := os.CreateTemp(s.Dir, paceFile+".part-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(pace.String())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.Dir, paceFile))
	}
	return err
}

// Draft is a record that is being made. Nobody sees it before Keep.
type Draft struct {
	store *Store
	key   string
	dir   string
	begin time.Time
	file  *os.File
	out   *bufio.Writer
}

// Write adds to the pack.
func (d *Draft) Write(p []byte) (int, error) { return d.out.Write(p) }

// Create begins a record. Keep or Discard must follow.
func (s *Store) Create(key string) (*Draft, error) {
	if err := s.sweep(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.Dir, halfMark)
	if err != nil {
		return nil, storeError(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "pack"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, storeError(errors.Join(err, os.RemoveAll(dir)))
	}
	return &Draft{store: s, key: key, dir: dir, begin: time.Now(), file: f, out: bufio.NewWriterSize(f, 1<<20)}, nil
}

// Discard removes what was written.
func (d *Draft) Discard() error {
	return storeError(errors.Join(d.file.Close(), os.RemoveAll(d.dir)))
}

// Keep makes the record visible. After a power cut it may be damaged, which its hashes tell.
func (d *Draft) Keep(rec *Record) error {
	body, err := json.Marshal(rec)
	if err == nil {
		sum := sha256.Sum256(body)
		err = os.WriteFile(filepath.Join(d.dir, "record.json"), append([]byte(hex.EncodeToString(sum[:])+"\n"), body...), 0o600)
	}
	if err := errors.Join(err, d.out.Flush(), d.file.Close()); err != nil {
		return storeError(errors.Join(err, os.RemoveAll(d.dir)))
	}
	to := filepath.Join(d.store.Dir, d.key+"-"+strings.TrimPrefix(filepath.Base(d.dir), halfMark))
	if err := os.Rename(d.dir, to); err != nil {
		return storeError(errors.Join(err, os.RemoveAll(d.dir)))
	}
	return errors.Join(storeError(d.store.keepPace(time.Since(d.begin)/time.Duration(max(1, len(rec.Share))))), d.store.sweep())
}

// sweep removes what is old, what nobody finished, and the least used records while there are too many bytes.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return storeError(os.MkdirAll(s.Dir, 0o700))
	}
	if err != nil {
		return storeError(err)
	}
	type kept struct {
		path  string
		used  time.Time
		bytes int64
	}
	var all []kept
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // removed by somebody else
		}
		path, age := filepath.Join(s.Dir, e.Name()), s.now().Sub(info.ModTime())
		if !e.IsDir() {
			if (strings.HasSuffix(e.Name(), missedMark) || strings.HasSuffix(e.Name(), refusedMark)) && age > orDefault(s.Age, DefaultAge) {
				err = os.Remove(path)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return storeError(err)
			}
			continue // nobody may remove a lock; it is empty
		}
		if half := strings.HasPrefix(e.Name(), halfMark); half && age > halfAge || !half && age > orDefault(s.Age, DefaultAge) {
			err = os.RemoveAll(path)
		} else if !half {
			k := kept{path: path, used: info.ModTime()}
			for _, name := range []string{"pack", "record.json"} {
				if st, err := os.Stat(filepath.Join(path, name)); err == nil {
					k.bytes += st.Size()
				}
			}
			total += k.bytes
			all = append(all, k)
			continue
		}
		if err != nil {
			return storeError(err)
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return a.used.Compare(b.used) })
	for _, k := range all {
		if total <= orDefault(s.Bytes, DefaultBytes) {
			break
		}
		if err := os.RemoveAll(k.path); err != nil {
			return storeError(err)
		}
		total -= k.bytes
	}
	return nil
}

func orDefault[T int64 | time.Duration](v, or T) T {
	if v > 0 {
		return v
	}
	return or
}
