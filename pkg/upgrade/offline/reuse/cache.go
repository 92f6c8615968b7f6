package reuse

import (
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
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// Config says where results are kept. Dir is needed.
type Config struct {
	Dir    string        // made where it is missing
	Most   int           // results; those longest unused go first; default 64
	Tries  int           // results of one family that are compared with an image; default 8
	MaxAge time.Duration // unused for so long, a result goes; default 30 days
	Now    func() time.Time
	Log    logrus.FieldLogger
}

// Cache is safe for many goroutines, and its folder for many processes.
type Cache struct {
	cfg Config

	mu     sync.Mutex
	making map[string]chan struct{} // closed when the result of a family is made, or not
}

// Folders and files: results/<family>/<random>/{record.json,result}, missed/<family>.
const (
	resultsDir = "results"
	missedDir  = "missed"
	workDir    = "work"
	recordFile = "record.json"
	resultFile = "result"
)

// maxRecord bounds a record's file, in bytes.
const maxRecord = 64 << 20

// Open makes the folder, and removes what killed processes left.
func Open(cfg Config) (*Cache, error) {
	if cfg.Most <= 0 {
		cfg.Most = 64
	}
	if cfg.Tries <= 0 {
		cfg.Tries = 8
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 30 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	c := &Cache{cfg: cfg, making: map[string]chan struct{}{}}
	for _, dir := range []string{resultsDir, missedDir, workDir} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o755); err != nil {
			return nil, broken(err)
		}
	}
	if _, err := disk.Sweep(c.work()); err != nil {
		return nil, err
	}
	return c, c.evict()
}

func (c *Cache) work() string { return filepath.Join(c.cfg.Dir, workDir) }

// Family names what results may stand for each other at all: the words are everything that the command depends on and
// that is no file of the image.
func Family(words ...string) string {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(w + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func broken(err error) error {
	if err == nil {
		return nil
	}
	return disk.NoSpace(errs.Wrap(err, errs.Internal, CodeReuse, "the folder with kept results cannot be used"), "the disk of the kept results")
}

type record struct {
	Inputs []input     `json:"inputs"`
	SHA256 string      `json:"sha256"` // of the result
	Mode   fs.FileMode `json:"mode"`
}

// Result is a kept file. It is open: the cache may remove its name.
type Result struct {
	*os.File
	Mode fs.FileMode
}

// Find gives a result of the family whose every input is in this tree as it was. nil where there is none; why then names
// the first difference to the newest one, for the log. The tree's own changes began at begun.
func (c *Cache) Find(ctx context.Context, family string, root *os.Root, begun time.Time) (result *Result, why string, err error) {
	dir := filepath.Join(c.cfg.Dir, resultsDir, family)
	found, err := newest(dir)
	if err != nil {
		return nil, "", err
	}
	for _, e := range found[:min(len(found), c.cfg.Tries)] {
		at := filepath.Join(dir, e.name)
		r, err := read(at)
		if err != nil {
			c.cfg.Log.WithError(err).Warnf("a kept result is damaged: %s", at)
			continue
		}
		other, err := differs(ctx, root, r.Inputs, begun)
		if err != nil {
			return nil, "", err
		}
		if other != "" {
			if why == "" {
				why = other
			}
			continue
		}
		f, err := os.Open(filepath.Join(at, resultFile))
		if err != nil {
			continue // removed meanwhile
		}
		if sum, err := sumOf(f); err != nil || sum != r.SHA256 {
			c.cfg.Log.Warnf("a kept result is damaged: %s", at)
			f.Close() //nolint:errcheck // read only
			continue
		}
		now := c.cfg.Now()
		os.Chtimes(at, now, now) //nolint:errcheck // only the order of removal
		return &Result{File: f, Mode: r.Mode}, "", nil
	}
	return nil, why, nil
}

// Made is a result, and how it came about.
type Made struct {
	Family  string
	Looks   *Looks
	Ignored []string  // names that do not count
	Begun   time.Time // when the tree's own changes did; only for Looks.Dated
	Result  *os.File
}

// Keep keeps a result, with what the command looked at as it was in the tree before: root must not have been changed by
// the command. It does nothing where not everything was seen.
func (c *Cache) Keep(ctx context.Context, root *os.Root, m Made) (err error) {
	if !m.Looks.Whole() {
		return nil
	}
	work, err := disk.NewWork(c.work())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	made := filepath.Join(work.Path, "result")
	if err := os.Mkdir(made, 0o755); err != nil {
		return broken(err)
	}
	r := record{}
	if r.Inputs, err = states(ctx, root, m); err != nil {
		return err
	}
	info, err := m.Result.Stat()
	if err != nil {
		return broken(err)
	}
	r.Mode = info.Mode().Perm()
	out, err := os.OpenFile(filepath.Join(made, resultFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return broken(err)
	}
	_, err = io.Copy(out, io.NewSectionReader(m.Result, 0, info.Size()))
	if err == nil {
		r.SHA256, err = sumOf(out)
	}
	text, jsonErr := json.Marshal(r)
	if err := errors.Join(err, jsonErr, out.Close(), os.WriteFile(filepath.Join(made, recordFile), text, 0o644)); err != nil {
		return broken(err)
	}
	dir := filepath.Join(c.cfg.Dir, resultsDir, m.Family)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return broken(err)
	}
	if err := os.Rename(made, filepath.Join(dir, filepath.Base(work.Path))); err != nil {
		return broken(err)
	}
	return c.evict()
}

// Begin is called before a result is made. Where this process is making one of the family already it waits for that first: then
// waited is true, and Find may have it now. ended must be called.
func (c *Cache) Begin(ctx context.Context, family string) (waited bool, ended func(), err error) {
	c.mu.Lock()
	other := c.making[family]
	if other == nil {
		done := make(chan struct{})
		c.making[family] = done
		c.mu.Unlock()
		return false, func() {
			c.mu.Lock()
			delete(c.making, family)
			c.mu.Unlock()
			close(done)
		}, nil
	}
	c.mu.Unlock()
	select {
	case <-other:
		return true, func() {}, nil
	case <-ctx.Done():
		return true, func() {}, ctx.Err()
	}
}

// Missed notes that no result of the family could be used, and why, and reports whether that was so before: keeping one costs
// time, which is well spent only where other images may want it.
func (c *Cache) Missed(family, why string) (again bool, err error) {
	f, err := os.OpenFile(filepath.Join(c.cfg.Dir, missedDir, Family(family, why)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, broken(err)
	}
	return false, broken(f.Close())
}

func sumOf(f *os.File) (string, error) {
	sum := sha256.New()
	_, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<40))
	return hex.EncodeToString(sum.Sum(nil)), err
}

func read(at string) (record, error) {
	var r record
	f, err := os.Open(filepath.Join(at, recordFile))
	if err != nil {
		return r, err
	}
	defer f.Close() //nolint:errcheck // read only
	err = json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&r)
	if err == nil && len(r.Inputs) == 0 {
		err = errors.New("no inputs")
	}
	return r, err
}

type kept struct {
	dir, name string
	used      time.Time
}

// newest gives the results of a family, the last used first.
func newest(dir string) ([]kept, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, broken(err)
	}
	var found []kept
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			found = append(found, kept{dir, e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(found, func(a, b kept) int { return b.used.Compare(a.used) })
	return found, nil
}

// evict removes what is too old or too much.
func (c *Cache) evict() error {
	families, err := os.ReadDir(filepath.Join(c.cfg.Dir, resultsDir))
	if err != nil {
		return broken(err)
	}
	var all []kept
	for _, f := range families {
		found, err := newest(filepath.Join(c.cfg.Dir, resultsDir, f.Name()))
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b kept) int { return b.used.Compare(a.used) })
	oldest := c.cfg.Now().Add(-c.cfg.MaxAge)
	missed, err := newest(filepath.Join(c.cfg.Dir, missedDir))
	if err != nil {
		return err
	}
	for _, m := range missed {
		if m.used.After(oldest) {
			continue
		}
		if err := os.Remove(filepath.Join(m.dir, m.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return broken(err)
		}
	}
	for i, k := range all {
		if i < c.cfg.Most && k.used.After(oldest) {
			continue
		}
		if err := c.discard(k); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cache) discard(k kept) error {
	trash, err := disk.NewWork(c.work())
	if err != nil {
		return err
	}
	err = os.Rename(filepath.Join(k.dir, k.name), filepath.Join(trash.Path, "gone"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // another process was quicker
	}
	return errors.Join(err, trash.Close())
}
