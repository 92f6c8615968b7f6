package output

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

func procPath(dir int, name string) string { return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name }

// inode is a file with several names.
type inode struct {
	dev, ino uint64
}

type linked struct {
	path string
	left uint64 // names that were not seen yet
}

// layer writes a tree as one tar: sorted, whole seconds, owners by number, no access or change times.
type layer struct {
	tar    *tar.Writer
	room   int64 // bytes of files that may still come: a sparse file can promise any number
	links  map[inode]*linked
	newest time.Time
	files  int
	left   int // device nodes and sockets, which nothing in a container's image is
}

func writeLayer(ctx context.Context, w io.Writer, root string, limits Limits, room int64) (*layer, error) {
	l := &layer{tar: tar.NewWriter(w), room: room, links: map[inode]*linked{}}
	walk := walker{limits: limits, visit: l.add}
	if err := walk.walk(ctx, root); err != nil {
		return nil, err
	}
	if err := l.tar.Close(); err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeHost, "The archive cannot be written.")
	}
	return l, nil
}

func (l *layer) add(e *entry) error {
	h := &tar.Header{
		Name: e.path, Uid: int(e.stat.Uid), Gid: int(e.stat.Gid), Mode: int64(e.stat.Mode & 0o7777),
		ModTime: time.Unix(max(0, e.stat.Mtim.Sec), 0).UTC(), Format: tar.FormatPAX,
	}
	switch e.kind() {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, e.stat.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(e.dir, e.name, target)
		if err != nil {
			return damaged(err, e.path)
		}
		h.Linkname = string(target[:n])
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		l.left++
		return nil
	}
	if h.ModTime.After(l.newest) {
		l.newest = h.ModTime
	}
	l.files++
	if first := l.seen(e); first != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return l.write(h, nil)
	}
	attributes, err := e.attributes()
	if err != nil {
		return err
	}
	for name, value := range attributes {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
	if h.Typeflag != tar.TypeReg {
		return l.write(h, nil)
	}
	return l.file(h, e)
}

// seen gives the first name of a file that has several, where this is not the first.
func (l *layer) seen(e *entry) string {
	if e.kind() == unix.S_IFDIR || e.stat.Nlink < 2 {
		return ""
	}
	key := inode{e.stat.Dev, e.stat.Ino}
	have := l.links[key]
	if have == nil {
		l.links[key] = &linked{path: e.path, left: uint64(e.stat.Nlink) - 1} //nolint:unconvert // 32 bits on arm64
		return ""
	}
	if have.left--; have.left == 0 {
		delete(l.links, key)
	}
	return have.path
}

func (l *layer) file(h *tar.Header, e *entry) error {
	if l.room -= h.Size; l.room < 0 {
		return errs.New(errs.Invalid, CodeTree, "The files of the tree promise more bytes than its disk could hold, %.200q for one: it is sparse.", e.path)
	}
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return damaged(err, e.path)
	}
	f := os.NewFile(uintptr(fd), e.name)
	defer f.Close() //nolint:errcheck // only read
	return l.write(h, f)
}

func (l *layer) write(h *tar.Header, body *os.File) error {
	err := l.tar.WriteHeader(h)
	if err == nil && body != nil {
		var n int64
		n, err = io.CopyN(l.tar, body, h.Size)
		if errors.Is(err, io.EOF) {
			return errs.New(errs.Invalid, CodeTree, "%.200q ends after %d of %d bytes; the file system may be damaged.", h.Name, n, h.Size)
		}
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "%.200q cannot be put into the archive.", h.Name)
	}
	return nil
}
