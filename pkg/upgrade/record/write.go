package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// write makes the files with content, several at a time.
func (a *applier) write(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers())
	entries := a.rec.Entries
	for start := 0; start < len(entries); {
		end, dir := start+1, path.Dir(entries[start].Name)
		for end < len(entries) && end-start < 256 && path.Dir(entries[end].Name) == dir {
			end++
		}
		part := &applier{rec: &Record{Entries: entries[start:end]}, tree: a.tree, pack: a.pack, checked: a.checked}
		start = end
		group.Go(func() error {
			buf := make([]byte, 256<<10)
			return part.in(ctx, Entry.written, func(dir int, base string, e Entry) error {
				return part.file(dir, base, e, buf)
			})
		})
	}
	return group.Wait()
}

// emptied gives the file that is there, empty and without attributes, or a new one. A new one is slow where many others have just
// been removed: ext4 without a journal looks at each of those before it takes a number (recently_deleted in fs/ext4/ialloc.c).
func emptied(dir int, base string) (int, error) {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 {
			err = errors.Join(unix.Ftruncate(fd, 0), stripped(fd), touched(dir))
			if err == nil {
				return fd, nil
			}
		}
		unix.Close(fd) //nolint:errcheck // another one is made
	}
	if err := unlinked(dir, base); err != nil {
		return -1, err
	}
	return unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
}

// touched gives a folder the time that it has when a name in it is replaced: mandb(8) and others look for what is new only in
// folders that changed.
func touched(dir int) error {
	return unix.UtimesNanoAt(dir, ".", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0)
}

// stripped takes the attributes of a file away.
func stripped(fd int) error {
	var names [4096]byte
	n, err := unix.Flistxattr(fd, names[:])
	if n <= 0 || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	for name := range attributes(names[:n]) {
		err = errors.Join(err, unix.Fremovexattr(fd, name))
	}
	return err
}

// file writes one file.
func (a *applier) file(dir int, base string, e Entry, buf []byte) error {
	fd, err := emptied(dir, base)
	if err != nil {
		return err
	}
	if a.checked != 0 {
		err = errors.Join(a.send(fd, e), unix.Close(fd))
	} else {
		err = a.copy(os.NewFile(uintptr(fd), e.Name), e, buf)
	}
	if err != nil {
		return err
	}
	if err := dress(dir, base, e.After); err != nil {
		return err
	}
	return timed(dir, base, e)
}

// copy writes the content of a file, holds it against its hash, and closes the file.
func (a *applier) copy(out *os.File, e Entry, buf []byte) error {
	h := sha256.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(h, out)}, struct{ io.Reader }{io.NewSectionReader(a.pack, e.Offset, e.After.Size)}, buf)
	if err == nil && hex.EncodeToString(h.Sum(nil)) != e.After.Hash {
		err = damaged(e)
	}
	return errors.Join(err, out.Close())
}

func damaged(e Entry) error {
	return errs.New(errs.Internal, CodeDamaged, "the record of the batch is damaged at /%s", e.Name)
}

// send lets the kernel copy the content of a file from a pack that was checked.
func (a *applier) send(fd int, e Entry) error {
	at, end := e.Offset, e.Offset+e.After.Size
	for at < end {
		n, err := unix.Sendfile(fd, a.checked, &at, int(end-at))
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err != nil:
			return err
		case n == 0:
			return damaged(e) // the pack has become shorter
		}
	}
	return nil
}

// timed gives a file or link its package's time.
func timed(dir int, base string, e Entry) error {
	if e.Modified == 0 {
		return nil
	}
	ts := unix.NsecToTimespec(e.Modified)
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
