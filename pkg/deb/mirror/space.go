package mirror

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// space keeps the cache below its bound by dropping what was used the longest ago.
type space struct {
	mu    sync.Mutex
	max   int64
	total int64
	files map[string]usage
}

type usage struct {
	size int64
	at   time.Time
}

// open counts what an earlier life left and removes its half-made files.
func (s *space) open(dir string, limit int64) error {
	s.max, s.files = limit, map[string]usage{}
	halves, err := os.ReadDir(filepath.Join(dir, partial))
	if err != nil {
		return err
	}
	for _, e := range halves {
		if err := os.Remove(filepath.Join(dir, partial, e.Name())); err != nil {
			return err
		}
	}
	root := filepath.Join(dir, "files")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s.files[name] = usage{size: info.Size(), at: info.ModTime()}
		s.total += info.Size()
		return nil
	})
}

func (s *space) used(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.files[name]; ok {
		s.files[name] = usage{size: u.size, at: time.Now()}
	}
}

// forget removes a file and its count.
func (s *space) forget(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	s.total -= s.files[name].size
	delete(s.files, name)
	return nil
}

// added counts a new or replaced file and makes room. Whoever reads a dropped file keeps it open.
func (s *space) added(name string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += size - s.files[name].size
	s.files[name] = usage{size: size, at: time.Now()}
	if s.total <= s.max {
		return
	}
	names := make([]string, 0, len(s.files))
	for n := range s.files {
		if n != name {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(s.files[a].at.Compare(s.files[b].at), cmp.Compare(a, b))
	})
	for _, n := range names {
		if s.total <= s.max {
			return
		}
		if err := os.Remove(n); err != nil && !os.IsNotExist(err) {
			continue // counted still; tried again at the next addition
		}
		s.total -= s.files[n].size
		delete(s.files, n)
	}
}
