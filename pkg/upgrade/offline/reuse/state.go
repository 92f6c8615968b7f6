package reuse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeReuse is the code of faults of the folder with what is kept, and of images that cannot be read.
const CodeReuse = "kiln.upgrade.reuse"

// input is a look with what was found.
type input struct {
	look
	Content bool     `json:"c,omitempty"`
	Dated   bool     `json:"t,omitempty"` // the time of its content too
	Only    []string `json:"o,omitempty"` // what counts of the content: patterns of names in a folder, or names of libraries
	State   string   `json:"s"`
}

const absent = "absent"

// maxInput bounds one input, in bytes.
const maxInput = 1 << 30

// states finds out how the looks are in a tree. Names below what is not there are left out: they cannot be there.
func states(ctx context.Context, root *os.Root, m Made) ([]input, error) {
	l := m.Looks
	var inputs []input
	dir, err := root.Open(".")
	if err != nil {
		return nil, unreadable(err, "/")
	}
	defer dir.Close() //nolint:errcheck // read only
	for _, at := range l.sorted() {
		if !below(at.Path, m.Ignored) {
			inputs = append(inputs, input{look: at, Content: l.seen[at], Dated: below(at.Path, l.Dated)})
		}
	}
	l.ease(int(dir.Fd()), inputs)
	for at := range l.roots {
		// In a root that the command made itself there is nothing of the image. In another one, names have other meanings.
		if was, err := state(int(dir.Fd()), input{look: at}, m.Begun); err != nil || was != absent {
			return nil, errs.New(errs.Invalid, CodeReuse, "the command changed its root to %s of the image: what it looked at there is not known", at.Path)
		}
	}
	err = each(ctx, inputs, func(in *input) (err error) {
		in.State, err = state(int(dir.Fd()), *in, m.Begun)
		return err
	})
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	for _, in := range inputs {
		if in.State == absent && !strings.Contains(in.Path, "..") {
			gone[in.Path] = true
		}
	}
	return slices.DeleteFunc(inputs, func(in input) bool {
		for at := path.Dir(in.Path); at != "/"; at = path.Dir(at) {
			if gone[at] {
				return true
			}
		}
		return false
	}), nil
}

// differs finds an input whose state is another one in this tree, or "".
func differs(ctx context.Context, root *os.Root, inputs []input, begun time.Time) (string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return "", unreadable(err, "/")
	}
	defer dir.Close() //nolint:errcheck // read only
	err = each(ctx, inputs, func(in *input) error {
		now, err := state(int(dir.Fd()), *in, begun)
		if err == nil && now != in.State {
			return otherError(fmt.Sprintf("%s was %.80q and is %.80q", in.Path, in.State, now))
		}
		return err
	})
	if other, ok := errors.AsType[otherError](err); ok {
		return string(other), nil
	}
	return "", err
}

type otherError string

func (e otherError) Error() string { return string(e) }

// each calls f for all inputs, on all processors, and gives the first error.
func each(ctx context.Context, inputs []input, f func(*input) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(inputs) && ctx.Err() == nil; i += workers {
				if err := f(&inputs[i]); err != nil {
					stop(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// inImage resolves names as the kernel does for a process whose root is the image.
const inImage = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// state tells how a name is below a root. Links are resolved as the kernel does for a process with that root.
func state(root int, in input, begun time.Time) (string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inImage}
	if !in.Follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := open(root, in.Path, how)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EXDEV):
		return absent, nil
	case err != nil:
		return "", unreadable(err, in.Path)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", unreadable(err, in.Path)
	}
	text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	if in.Dated {
		text += " " + dated(&st, begun)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", target)
		if err != nil {
			return "", unreadable(err, in.Path)
		}
		return text + " " + string(target[:n]), nil
	case unix.S_IFREG:
		if in.Content && in.Only != nil {
			sum, ok, err := cached(root, in)
			if ok || err != nil {
				return text + " " + sum, err
			}
		}
		text += fmt.Sprintf(" %d", st.Size)
		if in.Content && st.Size > 0 {
			sum, err := content(root, in.Path, how)
			return text + " " + sum, err
		}
	case unix.S_IFDIR:
		if in.Content {
			sum, err := folder(root, in, how)
			return text + " " + sum, err
		}
	}
	return text, nil
}

// dated is the time of a name. What replaces files gives their folder the time of the day: any such time means the same.
func dated(st *unix.Stat_t, begun time.Time) string {
	if at := time.Unix(st.Mtim.Unix()); st.Mode&unix.S_IFMT != unix.S_IFDIR || at.Before(begun) {
		return at.UTC().Format(time.RFC3339Nano)
	}
	return "now"
}

// open asks again where a rename elsewhere in the tree made the kernel give up.
func open(root int, path string, how unix.OpenHow) (int, error) {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		path = "."
	}
	for range 100 {
		fd, err := unix.Openat2(root, path, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// buffers are those of content, which is called for thousands of files.
var buffers = sync.Pool{New: func() any { return new([128 << 10]byte) }}

func content(root int, path string, how unix.OpenHow) (string, error) {
	how.Flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	fd, err := open(root, path, how)
	if err != nil {
		return "", unreadable(err, path)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() //nolint:errcheck // read only
	sum := sha256.New()
	buf, ok := buffers.Get().(*[128 << 10]byte)
	if !ok {
		buf = new([128 << 10]byte)
	}
	defer buffers.Put(buf)
	if n, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.LimitReader(f, maxInput), buf[:]); err != nil || n == maxInput {
		return "", unreadable(err, path)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// folder is the checksum of the names that count and their kinds.
func folder(root int, in input, how unix.OpenHow) (string, error) {
	how.Flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := open(root, in.Path, how)
	if err != nil {
		return "", unreadable(err, in.Path)
	}
	f := os.NewFile(uintptr(fd), in.Path)
	defer f.Close() //nolint:errcheck // read only
	entries, err := f.ReadDir(-1)
	if err != nil {
		return "", unreadable(err, in.Path)
	}
	var names []string
	for _, e := range entries {
		if in.Only == nil || fits(e.Name(), in.Only) {
			names = append(names, e.Name()+"\x00"+e.Type().String())
		}
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(names, "\n")))
	return hex.EncodeToString(sum[:]), nil
}

func unreadable(err error, path string) error {
	return errs.Wrap(err, errs.Invalid, CodeReuse, "%.200s of the image cannot be read", path)
}
