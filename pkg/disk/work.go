package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeWork is the code of errors about work folders.
const CodeWork = "kiln.disk.work"

const (
	ownerFile = ".kiln-owner" // locked (flock) for as long as the owner lives
	workMark  = "kiln-work-"
)

// Work is a folder for half-made files. It belongs to this process: Close removes it, and after a crash Sweep does.
type Work struct {
	Path  string
	owner *os.File
}

// NewWork makes a work folder in dir, which must exist and be on the file system where the results will live.
func NewWork(dir string) (*Work, error) {
	owner, err := os.CreateTemp(dir, workMark+"*.owner")
	if err != nil {
		return nil, fullOr(err, CodeWork, "The work folder cannot be made.")
	}
	fail := func(err error) (*Work, error) {
		owner.Close()           //nolint:errcheck // empty
		os.Remove(owner.Name()) //nolint:errcheck // Sweep takes it
		return nil, fullOr(err, CodeWork, "The work folder cannot be made.")
	}
	// Locked before it gets its name: Sweep never sees an owner file that is not locked yet.
	if err := unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fail(err)
	}
	path, err := os.MkdirTemp(dir, workMark+"*")
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(owner.Name(), filepath.Join(path, ownerFile)); err != nil {
		os.Remove(path) //nolint:errcheck // empty
		return fail(err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	return &Work{Path: abs, owner: owner}, nil
}

// Close removes the folder with all that is in it. Sessions in it must be closed first.
func (w *Work) Close() error {
	err := os.RemoveAll(w.Path)
	return errors.Join(err, w.owner.Close())
}

// Sweep removes what dead owners left in dir: work folders whose owner file is no longer locked, and folders and
// owner files that never got that far and are older than an hour. It says how many it removed. Call it at the start of a worker.
func Sweep(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, errs.Wrap(err, errs.Internal, CodeWork, "The folder of the work folders cannot be read.")
	}
	removed := 0
	var all error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if len(e.Name()) <= len(workMark) || e.Name()[:len(workMark)] != workMark || !abandoned(path, e) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			all = errors.Join(all, errs.Wrap(err, errs.Internal, CodeWork, "A left work folder cannot be removed."))
			continue
		}
		removed++
	}
	return removed, all
}

func abandoned(path string, e fs.DirEntry) bool {
	lock := path
	if e.IsDir() {
		lock = filepath.Join(path, ownerFile)
	}
	f, err := os.OpenFile(lock, os.O_RDWR, 0)
	if err != nil {
		info, statErr := e.Info()
		return errors.Is(err, fs.ErrNotExist) && statErr == nil && time.Since(info.ModTime()) > time.Hour
	}
	defer f.Close() //nolint:errcheck // closing gives the lock back
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	if e.IsDir() {
		return true
	}
	info, err := f.Stat() // a loose owner file: between its creation and its lock
	return err == nil && time.Since(info.ModTime()) > time.Hour
}
