// Package pool keeps packages that were verified once, unpacked as far as a package can be: both archives in them are
// stored without compression, so that dpkg only copies. Many upgrades and processes share its folder.
package pool

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// Codes of the errors that a store gives.
const (
	CodeStore   = "kiln.upgrade.store"         // the store's folder cannot be read or written
	CodePackage = "kiln.upgrade.store_package" // a package that is not what its index names, or that cannot be repacked
)

// Config says where a store is. Dir is needed.
type Config struct {
	Dir      string        // made where it is missing
	MaxBytes int64         // of all packages; the longest unused go first; default 20 GiB
	MaxAge   time.Duration // a package that nobody used for so long goes; default 30 days
	Now      func() time.Time
	Log      logrus.FieldLogger
}

// Store is safe for many goroutines, and its folder for many processes.
type Store struct {
	cfg    Config
	mu     sync.Mutex
	making map[string]*making // by SHA-256
	used   int64              // bytes, as far as this process knows
}

type making struct {
	done chan struct{}
	err  error
}

// Folders of a store.
const (
	entriesDir = "packages" // <SHA-256 of the package>/{deb,control}: complete, or not there
	workDir    = "work"     // what is being made, and what upgrades are using
)

// Files of an entry.
const (
	debFile     = "deb"
	controlFile = "control"
)

// Open makes the folder, and removes what a killed process left in it and what is too old.
func Open(cfg Config) (*Store, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 20 << 30
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
	s := &Store{cfg: cfg, making: map[string]*making{}}
	for _, dir := range []string{entriesDir, workDir} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o755); err != nil {
			return nil, broken(err)
		}
	}
	if _, err := disk.Sweep(s.work()); err != nil {
		return nil, err
	}
	return s, s.evict(0)
}

func (s *Store) work() string { return filepath.Join(s.cfg.Dir, workDir) }

func (s *Store) entry(sum string) string { return filepath.Join(s.cfg.Dir, entriesDir, sum) }

func broken(err error) error {
	return disk.NoSpace(errs.Wrap(err, errs.Internal, CodeStore, "the store of packages cannot be used"), "the disk of the store of packages")
}

// Source is a package as the signed index names it, and where its bytes come from.
type Source struct {
	Name   string // of the package file: openssl_3.0.17-1~deb12u2_amd64.deb
	SHA256 string // hex
	Open   func(ctx context.Context) (io.ReadCloser, error)
}

// Bring makes sure that the store has the package: verified, and then repacked. It gives errs.Invalid CodePackage where
// the bytes are others than the hash names, or are no package that could be repacked.
func (s *Store) Bring(ctx context.Context, p Source) error {
	if raw, err := hex.DecodeString(p.SHA256); err != nil || len(raw) != 32 {
		return errs.New(errs.Invalid, CodePackage, "%.100q is no SHA-256 of %s", p.SHA256, p.Name)
	}
	for {
		if s.has(p.SHA256) {
			return nil
		}
		s.mu.Lock()
		m := s.making[p.SHA256]
		if m == nil {
			m = &making{done: make(chan struct{})}
			s.making[p.SHA256] = m
			s.mu.Unlock()
			m.err = s.add(ctx, p)
			s.mu.Lock()
			delete(s.making, p.SHA256)
			s.mu.Unlock()
			close(m.done)
			return m.err
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.done:
		}
		if m.err != nil && !errs.Is(m.err, errs.Cancelled) && !errors.Is(m.err, context.Canceled) {
			return m.err
		}
	}
}

// has also notes the use.
func (s *Store) has(sum string) bool {
	now := s.cfg.Now()
	return os.Chtimes(s.entry(sum), now, now) == nil
}

// add makes the entry beside its place; the rename is the moment at which it appears.
func (s *Store) add(ctx context.Context, p Source) (err error) {
	work, err := disk.NewWork(s.work())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	in, err := p.Open(ctx)
	if err != nil {
		return err
	}
	original := filepath.Join(work.Path, "original.deb")
	err = errors.Join(verified(in, original, p), in.Close())
	if err != nil {
		return err
	}
	made := filepath.Join(work.Path, "entry")
	if err := os.Mkdir(made, 0o755); err != nil {
		return broken(err)
	}
	size, err := repack(ctx, original, made)
	if err != nil {
		return err
	}
	if err := s.evict(size); err != nil {
		return err
	}
	if err := os.Rename(made, s.entry(p.SHA256)); err != nil && !s.has(p.SHA256) {
		return broken(err)
	}
	return nil
}

// Plan is a repository of just the packages of one upgrade. Its files stay whatever the store removes meanwhile.
type Plan struct {
	Dir  string // for a bind, read-only: the packages, and Packages with what apt must know of them
	work *disk.Work
}

// Close removes the repository; the packages stay in the store.
func (p *Plan) Close() error { return p.work.Close() }

// Lay makes the repository of packages that were brought. errs.NotFound where one is gone again: bring it once more.
// index gives the text of the repository's Packages file.
func (s *Store) Lay(packages []Source) (_ *Plan, index []byte, err error) {
	work, err := disk.NewWork(s.work())
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			work.Close() //nolint:errcheck // the sweep takes what stays
		}
	}()
	dir := filepath.Join(work.Path, "repository")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, nil, broken(err)
	}
	for _, p := range packages {
		entry := s.entry(p.SHA256)
		if filepath.Base(p.Name) != p.Name {
			return nil, nil, errs.New(errs.Invalid, CodePackage, "%q is no name of a package file", p.Name)
		}
		// A second name in the same file system: nothing is copied, and the store may drop its own.
		err := os.Link(filepath.Join(entry, debFile), filepath.Join(dir, p.Name))
		control, readErr := os.ReadFile(filepath.Join(entry, controlFile))
		if err := errors.Join(err, readErr); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errs.Wrap(err, errs.NotFound, CodeStore, "the package %s is no longer in the store", p.Name)
		} else if err != nil {
			return nil, nil, broken(err)
		}
		info, err := os.Stat(filepath.Join(dir, p.Name))
		if err != nil {
			return nil, nil, broken(err)
		}
		index = appendStanza(index, control, p.Name, info.Size())
	}
	return &Plan{Dir: dir, work: work}, index, nil
}
