package layer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// State is a disk as a layer keeps it, and the lease on that layer. A State that is detached stands for a disk that
// no layer keeps: what is put on it is not kept either.
type State struct {
	Note json.RawMessage // as it was put

	key, id  string
	size     int64
	blocks   []entry // every block that is not zeros, by number
	lease    Lease
	detached bool
}

// Key is that of the layer; "" for a detached state.
func (s *State) Key() string { return s.key }

// Kept reports whether a layer holds this state.
func (s *State) Kept() bool { return !s.detached }

// Release gives up the lease.
func (s *State) Release() {
	if s != nil {
		s.lease.Release()
	}
}

// Detached is the state of a disk that no layer keeps.
func Detached() *State { return &State{detached: true} }

// workers read and write disks at the same time: one waits for the memory while the other computes.
const workers = 2

// run is a piece of a disk that lies in one piece in a layer.
type run struct {
	from   *os.File
	at, to int64 // in the layer's data, and on the disk
	len    int64
}

// Get writes the disk of a layer as a new sparse file at path, which must not exist. errs.NotFound where the layer,
// or one below it, is not there or is damaged: then it is to be made anew.
func (s *Store) Get(ctx context.Context, key, path string) (*State, error) {
	st := &State{key: key}
	runs, files, err := s.gather(ctx, st)
	defer closeAll(files)
	if err == nil {
		err = s.write(ctx, path, st.size, runs)
	}
	if err != nil {
		st.Release()
		os.Remove(path) //nolint:errcheck // may not be there
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	s.touch(key)
	return st, nil
}

// source is a block's place in the files of a chain.
type source struct {
	entry
	file *os.File
}

// gather leases and reads the chain from the layer down, and lays it together: the newest layer that has a block wins.
func (s *Store) gather(ctx context.Context, st *State) ([]run, []*os.File, error) {
	var files []*os.File
	var all []source
	wantID := ""
	for key := st.key; key != ""; {
		if err := ctx.Err(); err != nil {
			return nil, files, err
		}
		lease, err := s.lease(key, false)
		if err != nil {
			return nil, files, err
		}
		st.lease.files = append(st.lease.files, lease)
		h, entries, err := s.load(key)
		if err == nil && wantID != "" && h.ID != wantID {
			err = errs.New(errs.NotFound, CodeMissing, "The layer %.12s was made anew; what stands on the old one is lost.", key)
		}
		if err != nil {
			s.discard(key, err)
			return nil, files, errs.Wrap(err, errs.NotFound, CodeMissing, "The layer %.12s cannot be used.", st.key)
		}
		if st.id == "" {
			st.id, st.size, st.Note = h.ID, h.Size, h.Note
		}
		f, err := os.Open(filepath.Join(s.path(key), dataFile))
		if err != nil {
			return nil, files, errs.Wrap(err, errs.NotFound, CodeMissing, "The layer %.12s cannot be used.", key)
		}
		files = append(files, f)
		if err := s.verify(ctx, key, h, entries, f); err != nil {
			s.discard(key, err)
			return nil, files, errs.Wrap(err, errs.NotFound, CodeMissing, "The layer %.12s cannot be used.", key)
		}
		for _, e := range entries {
			if int64(e.block)*blockBytes < st.size {
				all = append(all, source{entry: e, file: f})
			}
		}
		key, wantID = h.Parent, h.ParentID
	}
	slices.SortStableFunc(all, func(a, b source) int { return cmp.Compare(a.block, b.block) })
	all = slices.CompactFunc(all, func(a, b source) bool { return a.block == b.block }) // keeps the first: the newest
	return lay(st, all), files, nil
}

// lay notes the blocks of the state and joins neighbours.
func lay(st *State, all []source) []run {
	var runs []run
	for _, e := range all {
		if e.slot == zeroSlot {
			continue
		}
		st.blocks = append(st.blocks, e.entry)
		at, to := int64(e.slot)*blockBytes, int64(e.block)*blockBytes
		if n := len(runs); n > 0 {
			if last := &runs[n-1]; last.from == e.file && last.at+last.len == at && last.to+last.len == to && last.len < 32<<20 {
				last.len += blockBytes
				continue
			}
		}
		runs = append(runs, run{from: e.file, at: at, to: to, len: blockBytes})
	}
	return runs
}

func (s *Store) write(ctx context.Context, path string, size int64, runs []run) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		return noSpace(err, "The disk of a layer cannot be made.")
	}
	g, ctx := errgroup.WithContext(ctx)
	share := (len(runs) + workers - 1) / workers
	for part := range slices.Chunk(runs, max(share, 1)) {
		g.Go(func() error {
			buf := make([]byte, 1<<20)
			for _, r := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := copyRun(f, r, min(r.len, size-r.to), buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	if err = errors.Join(err, f.Close()); err != nil {
		return noSpace(err, "The disk of a layer cannot be written.")
	}
	return nil
}

// copyRun lets the kernel copy (and share blocks, where the file system can), or copies.
func copyRun(to *os.File, r run, length int64, buf []byte) error {
	at, off := r.at, r.to
	for length > 0 {
		n, err := unix.CopyFileRange(int(r.from.Fd()), &at, int(to.Fd()), &off, int(length), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		length -= int64(n)
	}
	for length > 0 {
		n, err := r.from.ReadAt(buf[:min(int64(len(buf)), length)], at)
		if n == 0 {
			return fmt.Errorf("a layer's data ends early: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		if _, err := to.WriteAt(buf[:n], off); err != nil {
			return err
		}
		at, off, length = at+int64(n), off+int64(n), length-int64(n)
	}
	return nil
}

// verify holds the data against the checksums, once for every boot of the machine after the one that wrote it.
func (s *Store) verify(ctx context.Context, key string, h head, entries []entry, f *os.File) error {
	s.mu.Lock()
	known := s.ok[key] == h.ID
	s.mu.Unlock()
	if known || h.Boot == s.cfg.BootID {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	share := (len(entries) + workers - 1) / workers
	for part := range slices.Chunk(entries, max(share, 1)) {
		g.Go(func() error {
			buf := make([]byte, blockBytes)
			for _, e := range part {
				if e.slot == zeroSlot {
					continue
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if _, err := f.ReadAt(buf, int64(e.slot)*blockBytes); err != nil {
					return errs.Wrap(err, errs.Internal, CodeBroken, "The layer %.12s is damaged.", key)
				}
				if sumOf(buf) != e.sum {
					return errs.New(errs.Internal, CodeBroken, "The layer %.12s is damaged.", key)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.mu.Lock()
	s.ok[key] = h.ID
	s.mu.Unlock()
	h.Boot = s.cfg.BootID
	if err := writeHead(s.path(key), h); err != nil {
		s.cfg.Log.WithError(err).Warnf("the check of the layer %.12s cannot be noted", key)
	}
	return nil
}

// discard takes a damaged layer away, so that it is made anew.
func (s *Store) discard(key string, why error) {
	if errs.CodeOf(why) != CodeBroken {
		return
	}
	s.cfg.Log.WithError(why).Warn("a damaged layer is removed")
	os.Remove(filepath.Join(s.path(key), headFile)) //nolint:errcheck // what stays is found damaged again
}

func sumOf(b []byte) (out sum) {
	full := sha256.Sum256(b)
	copy(out[:], full[:])
	return out
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() //nolint:errcheck // only read
	}
}

func noSpace(err error, detail string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Wrap(err, errs.TooLarge, CodeStore, "%s There is no space left.", detail)
	}
	return errs.Wrap(err, errs.Internal, CodeStore, "%s", detail)
}
