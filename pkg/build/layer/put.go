package layer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// window is what one worker compares at a time.
const window = 4 << 20

// Put keeps the disk file at path, which nobody writes to now, as the layer of a key on its parent (nil: on
// nothing), with a note for whoever gets it. An existing layer of the key is replaced; where that one is in use, or
// the parent is detached, nothing is kept and the state is detached. The parent's lease goes over to the result.
func (s *Store) Put(ctx context.Context, key string, parent *State, path string, note any) (*State, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	text, err := json.Marshal(note)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeStore, "The note of a layer cannot be written.")
	}
	st := &State{key: key, Note: text}
	h := head{Boot: s.cfg.BootID, Note: text}
	var below []entry
	if parent != nil {
		if parent.detached {
			return Detached(), nil
		}
		h.Parent, h.ParentID, below = parent.key, parent.id, parent.blocks
	}
	work, err := disk.NewWork(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer work.Close() //nolint:errcheck // Sweep takes what stays
	dir := filepath.Join(work.Path, "layer")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, noSpace(err, "The layer cannot be made.")
	}
	d := &differ{below: below}
	if err := d.diff(ctx, path, filepath.Join(dir, dataFile)); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, noSpace(err, "The layer cannot be written.")
	}
	table := encodeTable(d.lines())
	h.Size, h.Stored = d.size, int64(d.slots)*blockBytes
	h.ID = identity(h, table)
	err = os.WriteFile(filepath.Join(dir, tableFile), table, 0o600)
	if err == nil {
		err = writeHead(dir, h)
	}
	if err != nil {
		return nil, noSpace(err, "The layer cannot be written.")
	}
	st.id, st.size, st.blocks = h.ID, h.Size, d.blocks()
	return s.commit(st, parent, dir, work.Path)
}

// commit gives a whole layer its name.
func (s *Store) commit(st, parent *State, dir, trash string) (*State, error) {
	lease, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(lease.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeStore, "The layer cannot be leased.")
	}
	to := s.path(st.key)
	if old, err := s.lease(st.key, true); err == nil {
		err := os.Rename(to, filepath.Join(trash, "replaced"))
		if err = errors.Join(err, old.Close()); err != nil {
			return nil, errors.Join(errs.Wrap(err, errs.Internal, CodeStore, "The older layer cannot be replaced."), lease.Close())
		}
	}
	if err := os.Rename(dir, to); err != nil {
		lease.Close() //nolint:errcheck // nothing was written through it
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
			return Detached(), nil
		}
		return nil, errs.Wrap(err, errs.Internal, CodeStore, "The layer cannot be committed.")
	}
	st.lease.files = append(st.lease.files, lease)
	if parent != nil {
		st.lease.files = append(st.lease.files, parent.lease.files...)
		parent.lease.files = nil
	}
	return st, nil
}

// differ compares a disk file with what is known of its parent.
type differ struct {
	below []entry
	size  int64

	mu    sync.Mutex
	slots uint32
	parts [][]entry // by window: the blocks that are not zeros; slot is zeroSlot for those that did not change
}

// diff reads the file's data once and writes the blocks that changed to the file at to.
func (d *differ) diff(ctx context.Context, path, to string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	d.size = info.Size()
	d.parts = make([][]entry, (d.size+window-1)/window)
	var next int
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			w := &windowReader{differ: d, in: in, out: out, buf: make([]byte, window)}
			for {
				d.mu.Lock()
				i := next
				next++
				d.mu.Unlock()
				if i >= len(d.parts) {
					return nil
				}
				if err := errors.Join(ctx.Err(), w.read(i)); err != nil {
					return err
				}
			}
		})
	}
	return errors.Join(g.Wait(), out.Close())
}

// windowReader is one worker's.
type windowReader struct {
	differ  *differ
	in, out *os.File
	buf     []byte
}

var zeros = make([]byte, blockBytes)

// read compares one window.
func (w *windowReader) read(i int) error {
	d := w.differ
	start := int64(i) * window
	end := min(start+window, d.size)
	first := uint32(start / blockBytes)
	known := d.below[sort.Search(len(d.below), func(k int) bool { return d.below[k].block >= first }):]
	var changed []int // indexes in found
	var found []entry
	for pos := start; pos < end; {
		from, to, err := dataAt(w.in, pos, end)
		if err != nil {
			return err
		}
		if from >= end {
			break
		}
		buf := w.buf[from-start : to-start]
		if _, err := io.ReadFull(io.NewSectionReader(w.in, from, to-from), buf); err != nil {
			return err
		}
		clear(w.buf[to-start : (to-start+blockBytes-1)/blockBytes*blockBytes]) // behind the end of a disk with an odd size
		for off := from; off < to; off += blockBytes {
			b := w.buf[off-start : off-start+blockBytes]
			if bytes.Equal(b, zeros) {
				continue
			}
			e := entry{block: uint32(off / blockBytes), slot: zeroSlot, sum: sumOf(b)}
			for len(known) > 0 && known[0].block < e.block {
				known = known[1:]
			}
			if len(known) == 0 || known[0].block != e.block || known[0].sum != e.sum {
				changed = append(changed, len(found))
			}
			found = append(found, e)
		}
		pos = to
	}
	d.parts[i] = found
	return w.store(found, changed, start)
}

// store writes the changed blocks of a window side by side.
func (w *windowReader) store(found []entry, changed []int, start int64) error {
	if len(changed) == 0 {
		return nil
	}
	d := w.differ
	d.mu.Lock()
	slot := d.slots
	d.slots += uint32(len(changed))
	d.mu.Unlock()
	for i := 0; i < len(changed); {
		n := 1
		for i+n < len(changed) && found[changed[i+n]].block == found[changed[i]].block+uint32(n) {
			n++
		}
		from := int64(found[changed[i]].block)*blockBytes - start
		if _, err := w.out.WriteAt(w.buf[from:from+int64(n)*blockBytes], int64(slot)*blockBytes); err != nil {
			return err
		}
		for k := range n {
			found[changed[i+k]].slot = slot + uint32(k)
		}
		slot += uint32(n)
		i += n
	}
	return nil
}

// dataAt finds the next piece of a sparse file that is not a hole, in whole blocks and before end; from is end where there is none.
func dataAt(f *os.File, pos, end int64) (from, to int64, err error) {
	from, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && from >= end {
		return end, end, nil
	}
	if err != nil {
		return 0, 0, err
	}
	to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	from = max(from/blockBytes*blockBytes, pos)
	return from, min((to+blockBytes-1)/blockBytes*blockBytes, end), nil
}

// lines are what the layer's table holds: what changed, and what became zeros.
func (d *differ) lines() []entry {
	var out []entry
	below := d.below
	gone := func(until uint32) {
		for len(below) > 0 && below[0].block < until {
			out = append(out, entry{block: below[0].block, slot: zeroSlot, sum: zeroSum})
			below = below[1:]
		}
	}
	for _, part := range d.parts {
		for _, e := range part {
			gone(e.block)
			if len(below) > 0 && below[0].block == e.block {
				below = below[1:]
			}
			if e.slot != zeroSlot {
				out = append(out, e)
			}
		}
	}
	gone(uint32((d.size + blockBytes - 1) / blockBytes))
	return out
}

// blocks are all that are not zeros.
func (d *differ) blocks() []entry {
	var out []entry
	for _, part := range d.parts {
		out = append(out, part...)
	}
	return out
}
