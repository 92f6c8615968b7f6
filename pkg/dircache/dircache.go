// Package dircache keeps copies of images in a directory; Backend implements cache.Backend.
//
// A copy is two files: `NAME~RANDOM` with the bytes, and `NAME.json`, which says which of those is NAME's and what
// digest it has. The rename of the JSON is the one moment at which a copy appears or is replaced. A writer holds a lock
// on its file, so that Sweep can tell what a killed one left from what is being written.
package dircache

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Backend is a directory of copies. It is safe for many goroutines and many processes.
type Backend struct {
	dir   string
	root  *os.Root
	newID func() string
}

var _ cache.Backend = (*Backend)(nil)

// Open uses the directory, made where it is missing. Close ends it.
func Open(dir string) (*Backend, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault(err, "the path of the store")
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fault(err, "making the store")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault(err, "opening the store")
	}
	return &Backend{dir: dir, root: root, newID: uuid.NewString}, nil
}

// Close gives the directory back. Readers that are open go on.
func (b *Backend) Close() error { return b.root.Close() }

const metaSuffix = ".json"

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

func check(name string) error {
	if !goodName.MatchString(name) {
		return errs.New(errs.Invalid, "kiln.cache.name", "%q cannot be the name of a copy: use letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

// meta is what NAME.json holds.
type meta struct {
	Data   string `json:"data"` // the file's name
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

func (b *Backend) find(name string) (meta, error) {
	if err := check(name); err != nil {
		return meta{}, err
	}
	raw, err := b.root.ReadFile(name + metaSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return meta{}, errs.New(errs.NotFound, "kiln.cache.not_found", "there is no copy %s in %s", name, b.dir)
	}
	if err != nil {
		return meta{}, fault(err, "reading the copy "+name)
	}
	var m meta
	if err := json.Unmarshal(raw, &m); err != nil || m.Data == "" {
		return meta{}, errs.New(errs.NotFound, "kiln.cache.not_found", "the record of copy %s in %s is damaged", name, b.dir)
	}
	return m, nil
}

func (b *Backend) stat(m meta) cache.Stat {
	return cache.Stat{Size: m.Size, Digest: m.Digest, Path: filepath.Join(b.dir, m.Data)}
}

// Stat implements cache.Backend. Path is the file with the bytes, for hard links and for reading beside Kiln.
func (b *Backend) Stat(ctx context.Context, name string) (cache.Stat, error) {
	if err := ctx.Err(); err != nil {
		return cache.Stat{}, err
	}
	m, err := b.find(name)
	if err != nil {
		return cache.Stat{}, err
	}
	info, err := b.root.Lstat(m.Data)
	if err != nil || info.Size() != m.Size {
		return cache.Stat{}, errs.New(errs.NotFound, "kiln.cache.not_found", "the bytes of copy %s in %s are gone or cut", name, b.dir)
	}
	return b.stat(m), nil
}

// Open implements cache.Backend. A copy that is replaced or deleted while it is read stays whole for its reader.
func (b *Backend) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	for range 3 { // a Put may replace the file between the two steps
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := b.find(name)
		if err != nil {
			return nil, err
		}
		f, err := b.root.Open(m.Data)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fault(err, "opening the copy "+name)
		}
	}
	return nil, errs.New(errs.NotFound, "kiln.cache.not_found", "the bytes of copy %s in %s are gone", name, b.dir)
}

// Delete implements cache.Backend.
func (b *Backend) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := b.find(name)
	if errs.Is(err, errs.Invalid) {
		return err
	}
	if err := b.remove(name + metaSuffix); err != nil {
		return err
	}
	if m.Data == "" {
		return nil
	}
	return b.remove(m.Data)
}

// remove takes a file away; no error where it is gone.
func (b *Backend) remove(file string) error {
	if err := b.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault(err, "removing "+file)
	}
	return nil
}

// List implements cache.Backend.
func (b *Backend) List(ctx context.Context) ([]string, error) {
	files, err := b.files(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f, metaSuffix); ok && goodName.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (b *Backend) files(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(b.root.FS(), ".")
	if err != nil {
		return nil, fault(err, "listing the store")
	}
	files := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, e.Name())
		}
	}
	return files, nil
}

// dataOf splits a data file's name; ok is false for other files.
func dataOf(file string) (name string, ok bool) {
	name, random, found := strings.Cut(file, "~")
	return name, found && random != "" && goodName.MatchString(name)
}

// Sweep implements cache.Backend: it removes the files that no record names and that nobody is writing.
func (b *Backend) Sweep(ctx context.Context) error {
	files, err := b.files(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, file := range files {
		if name, ok := dataOf(file); ok {
			all = errors.Join(all, b.sweepFile(name, file))
		}
	}
	return all
}

func (b *Backend) sweepFile(name, file string) error {
	// A record that has no name yet lives as long as the writer of its bytes.
	data := strings.TrimSuffix(file, metaSuffix)
	f, err := b.root.Open(data)
	if errors.Is(err, fs.ErrNotExist) {
		return b.remove(file)
	}
	if err != nil {
		return fault(err, "opening "+data)
	}
	defer f.Close() //nolint:errcheck // only locked
	if alone, err := lock(f); err != nil || !alone {
		return err
	}
	// The record is read after the lock: a writer that was done meanwhile has named its file there.
	m, err := b.find(name)
	if err == nil && m.Data == file {
		return nil
	}
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	return b.remove(file)
}
