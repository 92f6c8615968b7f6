package pool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
)

// evict removes what nobody used for too long, and the longest unused until need more bytes fit.
func (s *Store) evict(need int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used += need; need > 0 && s.used <= s.cfg.MaxBytes {
		return nil
	}
	found, total, err := s.entries()
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b entry) int { return a.used.Compare(b.used) })
	oldest := s.cfg.Now().Add(-s.cfg.MaxAge)
	trash, err := disk.NewWork(s.work())
	if err != nil {
		return err
	}
	defer trash.Close() //nolint:errcheck // the sweep takes what stays
	for _, e := range found {
		if total+need <= s.cfg.MaxBytes && e.used.After(oldest) {
			break
		}
		// Gone at once: nobody must find half an entry.
		if err := os.Rename(s.entry(e.name), filepath.Join(trash.Path, e.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return broken(err)
		}
		s.cfg.Log.WithField("package", e.name).Debug("removed from the store")
		total -= e.size
	}
	s.used = total + need
	return nil
}

type entry struct {
	name string
	size int64
	used time.Time
}

func (s *Store) entries() (found []entry, total int64, err error) {
	names, err := os.ReadDir(filepath.Join(s.cfg.Dir, entriesDir))
	if err != nil {
		return nil, 0, broken(err)
	}
	for _, n := range names {
		info, err := n.Info()
		deb, debErr := os.Stat(filepath.Join(s.entry(n.Name()), debFile))
		if err != nil || debErr != nil {
			continue // another process removed it meanwhile
		}
		found = append(found, entry{name: n.Name(), size: deb.Size(), used: info.ModTime()})
		total += deb.Size()
	}
	return found, total, nil
}
