package layer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Stats is what a store holds.
type Stats struct {
	Layers int
	Bytes  int64 // on the disk
}

// Swept is what Sweep removed.
type Swept struct {
	Layers int
	Bytes  int64
}

// kept is one layer as Sweep sees it.
type kept struct {
	key      string
	head     head
	bytes    int64
	used     time.Time
	children int
}

// touch notes the use of a layer and of those below it: none of them is older than what stands on it.
func (s *Store) touch(key string) {
	now := s.cfg.Now()
	for range 1 << 10 {
		h, err := s.readHead(key)
		if err != nil {
			return
		}
		os.Chtimes(filepath.Join(s.path(key), headFile), now, now) //nolint:errcheck // a layer that looks older is removed earlier
		if h.Parent == "" {
			return
		}
		key = h.Parent
	}
}

// Stats counts the layers.
func (s *Store) Stats() (Stats, error) {
	all, err := s.list()
	var out Stats
	for _, k := range all {
		out.Layers++
		out.Bytes += k.bytes
	}
	return out, err
}

func (s *Store) list() (map[string]*kept, error) {
	entries, err := os.ReadDir(s.layers())
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeStore, "The layers cannot be listed.")
	}
	out := map[string]*kept{}
	for _, e := range entries {
		k := &kept{key: e.Name()}
		dir := filepath.Join(s.layers(), e.Name())
		if h, err := s.readHead(e.Name()); err == nil {
			k.head = h
		}
		if info, err := os.Stat(filepath.Join(dir, headFile)); err == nil {
			k.used = info.ModTime() // that of a broken one stays zero: it goes first
		}
		for _, name := range []string{headFile, tableFile, dataFile} {
			var st unix.Stat_t
			if unix.Stat(filepath.Join(dir, name), &st) == nil {
				k.bytes += st.Blocks * 512
			}
		}
		out[k.key] = k
	}
	for _, k := range out {
		if below := out[k.head.Parent]; below != nil && below.head.ID == k.head.ParentID {
			below.children++
		}
	}
	return out, nil
}

// Sweep removes layers that nobody used for Config.MaxAge, and then the longest unused ones until the rest has at
// most Config.MaxBytes. A layer that is in use stays, and one that others stand on goes after them. What was lost
// with a layer below it, and what killed processes left half made, goes too.
func (s *Store) Sweep() (Swept, error) {
	var out Swept
	if _, err := disk.Sweep(s.cfg.Dir); err != nil {
		return out, err
	}
	all, err := s.list()
	if err != nil {
		return out, err
	}
	var total int64
	leaves := make([]*kept, 0, len(all))
	for _, k := range all {
		total += k.bytes
		leaves = append(leaves, k)
	}
	slices.SortFunc(leaves, func(a, b *kept) int { return a.used.Compare(b.used) })
	now := s.cfg.Now()
	for again := true; again; {
		again = false
		for _, k := range leaves {
			lost := !s.Has(k.key)
			if all[k.key] == nil || k.children > 0 || !lost && total <= s.cfg.MaxBytes && now.Sub(k.used) <= s.cfg.MaxAge {
				continue
			}
			if err := s.remove(k.key); errs.Is(err, errs.NotFound) {
				continue // in use, or gone
			} else if err != nil {
				return out, err
			}
			delete(all, k.key)
			if below := all[k.head.Parent]; below != nil && below.head.ID == k.head.ParentID {
				below.children--
				again = true // it may be a leaf now
			}
			total -= k.bytes
			out.Layers++
			out.Bytes += k.bytes
		}
	}
	return out, nil
}

// remove takes a layer's name away first, so that no half of it is ever seen. errs.NotFound where it is in use.
func (s *Store) remove(key string) error {
	lock, err := s.lease(key, true)
	if err != nil {
		return errs.Wrap(err, errs.NotFound, CodeMissing, "The layer %.12s is in use.", key)
	}
	defer lock.Close() //nolint:errcheck // a folder
	work, err := disk.NewWork(s.cfg.Dir)
	if err != nil {
		return err
	}
	err = os.Rename(s.path(key), filepath.Join(work.Path, "removed"))
	if err = errors.Join(err, work.Close()); err != nil {
		return errs.Wrap(err, errs.Internal, CodeStore, "The layer %.12s cannot be removed.", key)
	}
	return nil
}
