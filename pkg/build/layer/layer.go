// Package layer keeps the states of disks between the steps of builds.
//
// A layer is the difference of a whole disk to its parent layer, in blocks, with the checksum of every block: what
// it takes to write the disk again is one copy in the order of the disk. A layer appears by one rename, so it is
// whole or it is not there. Whoever uses a layer holds a lease on it (a shared lock of the kernel, which ends with
// the process), and only what nobody uses is removed.
//
// Files are not forced to stable storage, which would cost more than making a small layer: each layer notes the
// boot of the machine in which it was written, and after another boot its checksums are checked once.
package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// Codes of the errors of a Store.
const (
	CodeStore   = "kiln.layer.store"   // the folder cannot be read or written
	CodeMissing = "kiln.layer.missing" // there is no such layer, or no longer
	CodeKey     = "kiln.layer.key"     // not a key
	CodeBroken  = "kiln.layer.broken"  // the bytes do not have the checksums that were noted
)

// Config says where layers live and how many. Only Dir is needed.
type Config struct {
	Dir      string        // made where it is missing; on a file system with room for MaxBytes
	MaxBytes int64         // of all layers on the disk; default 20 GiB
	MaxAge   time.Duration // since the last use; default 14 days
	Now      func() time.Time
	BootID   string // of the machine; default from /proc
	Log      logrus.FieldLogger
}

// Store is a folder of layers. Several processes may use one at the same time.
type Store struct {
	cfg Config
	mu  sync.Mutex
	ok  map[string]string // ids of layers that this process has checked, by key
}

// Open makes the folder and removes what killed processes left half made.
func Open(cfg Config) (*Store, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 20 << 30
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 14 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	if cfg.BootID == "" {
		raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, errs.Wrap(err, errs.Internal, CodeStore, "The boot of this machine has no name.")
		}
		cfg.BootID = strings.TrimSpace(string(raw))
	}
	s := &Store{cfg: cfg, ok: map[string]string{}}
	for _, dir := range []string{s.layers(), s.claims()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errs.Wrap(err, errs.Internal, CodeStore, "The folder of the layers cannot be made.")
		}
	}
	if _, err := disk.Sweep(cfg.Dir); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) layers() string { return filepath.Join(s.cfg.Dir, "layers") }
func (s *Store) claims() string { return filepath.Join(s.cfg.Dir, "claims") }

func (s *Store) path(key string) string { return filepath.Join(s.layers(), key) }

var keyForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func checkKey(key string) error {
	if !keyForm.MatchString(key) {
		return errs.New(errs.Invalid, CodeKey, "%q is not the key of a layer", key)
	}
	return nil
}

// Has reports whether the layer and all below it are there. It opens no lease.
func (s *Store) Has(key string) bool {
	parent := ""
	for first := true; ; first = false {
		h, err := s.readHead(key)
		if err != nil || !first && h.ID != parent {
			return false
		}
		if h.Parent == "" {
			return true
		}
		key, parent = h.Parent, h.ParentID
	}
}

// Lease keeps a layer and those below it from being removed, until Release or the end of the process.
type Lease struct{ files []*os.File }

// Release ends it. It may be called twice.
func (l *Lease) Release() {
	if l == nil {
		return
	}
	for _, f := range l.files {
		f.Close() //nolint:errcheck // closing gives the lock back
	}
	l.files = nil
}

// lease locks one layer's folder as shared; errs.NotFound where it went away.
func (s *Store) lease(key string, exclusive bool) (*os.File, error) {
	missing := errs.New(errs.NotFound, CodeMissing, "There is no layer %.12s.", key)
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, missing
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return nil, errors.Join(missing, f.Close()) // it is being removed
	}
	// The folder that we locked may have been renamed between opening and locking.
	mine, err := f.Stat()
	now, nowErr := os.Stat(s.path(key))
	if err != nil || nowErr != nil || !os.SameFile(mine, now) {
		return nil, errors.Join(missing, f.Close())
	}
	return f, nil
}

// Claim waits until no other build, of any process, makes the layer of the key, and holds that right until release
// is called or the process ends.
func (s *Store) Claim(ctx context.Context, key string) (release func(), err error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	path := filepath.Join(s.claims(), key)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, errs.Wrap(err, errs.Internal, CodeStore, "The claim on a layer cannot be made.")
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && samePath(f, path) {
			return func() {
				os.Remove(path) //nolint:errcheck // an empty file that stays is used again
				f.Close()       //nolint:errcheck // closing gives the lock back
			}, nil
		}
		f.Close() //nolint:errcheck // nothing was written
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errs.Wrap(err, errs.Internal, CodeStore, "The claim on a layer cannot be made.")
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another build that makes layer %.12s: %w", key, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func samePath(f *os.File, path string) bool {
	mine, err := f.Stat()
	now, nowErr := os.Stat(path)
	return err == nil && nowErr == nil && os.SameFile(mine, now)
}
