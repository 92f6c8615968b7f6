// Package tree is what every file system that Kiln reads has in common: paths and their links, whole files, pieces of
// files, and walks. What differs, how a disk keeps inodes, directories and contents, is behind Reader.
//
// The disks are hostile. Every loop here has a bound, no size that a disk names is taken for memory before it was held
// against a limit, and nothing follows a link out of the file system.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// ErrCorrupt is the cause of all errors about a disk that contradicts itself or asks for too much.
var ErrCorrupt = errors.New("damaged file system")

// ErrEncrypted says that a file's content needs a key that is not on the disk.
var ErrEncrypted = errors.New("the file is encrypted")

// ErrStop ends a loop over names or extents without being an error.
var ErrStop = errors.New("enough") // a signal, as fs.SkipAll is

// Corrupt is an error whose cause is ErrCorrupt.
func Corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// The types in Inode.Mode and Node.Mode.
const (
	TypeMask   = 0xf000
	TypeFIFO   = 0x1000
	TypeChar   = 0x2000
	TypeDir    = 0x4000
	TypeBlock  = 0x6000
	TypeFile   = 0x8000
	TypeLink   = 0xa000
	TypeSocket = 0xc000
)

// Inode is what a file system says about one file.
type Inode struct {
	Number uint64 // unique in the file system
	Mode   uint16 // type and permissions as stat(2) gives them
	UID    uint32
	GID    uint32
	Links  uint32
	Size   int64 // bytes
	Place  int64 // where its content begins on the disk, roughly; 0 where there is none. Reading in this order is reading forwards
	Own    any   // what the Reader keeps of it
}

// Is reports whether the inode is of a type.
func (i *Inode) Is(kind uint16) bool { return i.Mode&TypeMask == kind }

// Extent is one run of a file's content. Ranges of a file that no extent covers are zeros.
type Extent struct {
	At     int64                  // in the file, bytes
	Length int64                  // bytes
	Disk   int64                  // where it begins on the disk; only without Data
	Data   func() ([]byte, error) // gives its Length bytes where they do not lie on the disk as they are
}

// Reader is one kind of file system. Its methods are called by many goroutines at once.
type Reader interface {
	// Root is the number of the top directory.
	Root() uint64
	// Inode reads an inode. ErrCorrupt for a number that cannot be.
	Inode(number uint64) (*Inode, error)
	// Names calls fn for each name in a directory, "." and ".." left out, until fn gives an error, which it returns.
	Names(dir *Inode, fn func(name string, number uint64) error) error
	// Target is where a symbolic link points.
	Target(link *Inode) (string, error)
	// Extents calls fn for the runs of a file, in the order of the file, until fn gives an error, which it returns.
	// Runs beyond the file's size may be told. ErrEncrypted where there is no key.
	Extents(file *Inode, fn func(Extent) error) error
}

// Whole makes a reader that either fills what it is asked for or fails: an early end is io.ErrUnexpectedEOF, and the
// io.EOF that a reader may give beside all the bytes is dropped.
func Whole(r io.ReaderAt) io.ReaderAt { return whole{r} }

type whole struct{ io.ReaderAt }

func (w whole) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Bounds of what a Tree remembers, so that the many paths below /etc or /usr/share/doc cost one look at each folder.
const (
	keptNames  = 200_000
	keptInodes = 20_000
)

// Tree is an open file system. It is safe for many goroutines.
type Tree struct {
	r  io.ReaderAt
	fs Reader

	mu     sync.Mutex
	dirs   map[uint64]map[string]uint64
	names  int // in dirs
	inodes map[uint64]*Inode
	mounts map[uint64]*Tree // by the inode of the mount point
}

// New makes the tree of a file system that lies on r.
func New(r io.ReaderAt, fsys Reader) *Tree {
	return &Tree{r: Whole(r), fs: fsys, dirs: map[uint64]map[string]uint64{}, inodes: map[uint64]*Inode{}, mounts: map[uint64]*Tree{}}
}

// inode reads an inode and remembers it.
func (t *Tree) inode(number uint64) (*Inode, error) {
	t.mu.Lock()
	i, ok := t.inodes[number]
	t.mu.Unlock()
	if ok {
		return i, nil
	}
	i, err := t.fs.Inode(number)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.inodes) >= keptInodes {
		clear(t.inodes)
	}
	t.inodes[number] = i
	return i, nil
}

// dir gives the names of a directory, remembered.
func (t *Tree) dir(i *Inode) (map[string]uint64, error) {
	t.mu.Lock()
	names, ok := t.dirs[i.Number]
	t.mu.Unlock()
	if ok {
		return names, nil
	}
	names = map[string]uint64{}
	err := t.scan(i, func(name string, number uint64) error {
		names[name] = number
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names+len(names) > keptNames {
		clear(t.dirs)
		t.names = 0
	}
	t.dirs[i.Number] = names
	t.names += len(names)
	return names, nil
}

// maxNames bounds the names of one directory.
const maxNames = 2_000_000

// scan calls fn for the names of a directory; fs.ErrNotExist where i is none, as for a path through a file.
func (t *Tree) scan(i *Inode, fn func(name string, number uint64) error) error {
	if !i.Is(TypeDir) {
		return fs.ErrNotExist
	}
	count := 0
	err := t.fs.Names(i, func(name string, number uint64) error {
		if count++; count > maxNames {
			return Corrupt("a directory of more than %d names", maxNames)
		}
		return fn(name, number)
	})
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}
