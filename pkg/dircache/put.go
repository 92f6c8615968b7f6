package dircache

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/cache/verify"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Put implements cache.Backend: the bytes are written, forced to the disk, and read back from it; only then
// the copy appears. A full disk is errs.TooLarge.
func (b *Backend) Put(ctx context.Context, name string, r io.Reader, size int64, digest string) (cache.Stat, error) {
	if err := check(name); err != nil {
		return cache.Stat{}, err
	}
	file := name + "~" + b.newID()
	f, err := b.root.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return cache.Stat{}, fault(err, "making "+file)
	}
	defer f.Close() //nolint:errcheck // written and forced to the disk before
	m, err := b.fill(ctx, f, r, size, digest)
	if err == nil {
		m.Data = file
		err = b.commit(name, m)
	}
	if err != nil {
		return cache.Stat{}, errors.Join(err, b.remove(file))
	}
	return b.stat(m), nil
}

// fill writes and verifies; the file is locked as long as it is open.
func (b *Backend) fill(ctx context.Context, f *os.File, r io.Reader, size int64, digest string) (meta, error) {
	if _, err := lock(f); err != nil {
		return meta{}, err
	}
	if size > 0 { // a disk that is too small is told before the transfer
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINTR) {
			return meta{}, fault(err, "making room")
		}
	}
	n, written, err := hashed(ctx, f, r)
	if err != nil {
		return meta{}, err
	}
	if err := verify.Check(n, written, size, digest); err != nil {
		return meta{}, err
	}
	if err := f.Sync(); err != nil {
		return meta{}, fault(err, "writing to the disk")
	}
	// What is in memory says nothing of the disk.
	_ = unix.Fadvise(int(f.Fd()), 0, n, unix.FADV_DONTNEED)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return meta{}, fault(err, "reading back")
	}
	_, read, err := hashed(ctx, io.Discard, f)
	if err != nil {
		return meta{}, err
	}
	if !bytes.Equal(read, written) {
		return meta{}, errs.New(errs.Unavailable, "kiln.cache.disk", "the disk of %s gives back other bytes than were written: look at its health", b.dir).After(time.Hour)
	}
	return meta{Size: n, Digest: verify.Digest(written)}, nil
}

// commit makes the file the copy's, and removes the one that it replaces.
func (b *Backend) commit(name string, m meta) error {
	old, err := b.find(name)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	temporary := m.Data + metaSuffix // Sweep sees a data file in it, too
	if err := b.write(temporary, raw); err != nil {
		return errors.Join(err, b.remove(temporary))
	}
	if err := b.syncDir(); err != nil { // the bytes' name, before a record speaks of it
		return errors.Join(err, b.remove(temporary))
	}
	if err := b.root.Rename(temporary, name+metaSuffix); err != nil {
		return errors.Join(fault(err, "naming the copy"), b.remove(temporary))
	}
	if err := b.syncDir(); err != nil {
		return err
	}
	if old.Data == "" || old.Data == m.Data {
		return nil
	}
	return b.remove(old.Data)
}

func (b *Backend) write(file string, raw []byte) error {
	f, err := b.root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return fault(err, "making "+file)
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fault(err, "writing "+file)
	}
	return nil
}

func (b *Backend) syncDir() error {
	d, err := b.root.Open(".")
	if err != nil {
		return fault(err, "opening the store")
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fault(err, "writing the store's folder")
	}
	return nil
}

// hashed copies and answers how many bytes and their SHA-512. The context is looked at between pieces.
func hashed(ctx context.Context, w io.Writer, r io.Reader) (int64, []byte, error) {
	sum := sha512.New()
	piece := make([]byte, 1<<20)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, nil, err
		}
		n, err := verify.Fill(r, piece)
		whole := errors.Is(err, io.EOF)
		if err != nil && !whole {
			return total, nil, err
		}
		sum.Write(piece[:n])
		if _, err := w.Write(piece[:n]); err != nil {
			return total, nil, fault(err, "writing")
		}
		total += int64(n)
		if whole {
			return total, sum.Sum(nil), nil
		}
	}
}

// lock takes a lock that ends with the file or the process; alone is false where somebody else has it.
func lock(f *os.File) (alone bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fault(err, "locking")
	}
	return true, nil
}

// fault turns an error of the operating system into Kiln's.
func fault(err error, doing string) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return errs.Wrap(err, errs.TooLarge, "kiln.cache.full", "the store's disk is full (%s)", doing)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ESTALE):
		return errs.Wrap(err, errs.Unavailable, "kiln.cache.disk", "the store's disk fails (%s)", doing).After(time.Hour)
	}
	return errs.Wrap(err, errs.Internal, "kiln.cache.directory", "%s failed", doing)
}
