//go:build ceph

package ceph

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"strconv"
	"syscall"

	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/cache/verify"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// piece is an RBD object: whole objects at once need no reading before writing.
const (
	order = 22
	piece = 1 << order
)

// Put implements cache.Backend: the bytes are written under a name of their own by parallel writers, read back,
// and frozen in a snapshot; the rename makes them the copy. Zeros take no room.
func (p *pool) Put(ctx context.Context, name string, r io.Reader, size int64, digest string) (cache.Stat, error) {
	if err := check(name); err != nil {
		return cache.Stat{}, err
	}
	part := name + partMark + p.newID()
	s, err := p.write(ctx, part, r, size, digest)
	if err == nil {
		err = p.commit(ctx, part, name, s)
	}
	if err != nil {
		return cache.Stat{}, errors.Join(err, p.remove(part))
	}
	s.Path = p.path(name)
	return s, nil
}

func (p *pool) write(ctx context.Context, part string, r io.Reader, size int64, digest string) (s cache.Stat, err error) {
	if err := ctx.Err(); err != nil {
		return s, err
	}
	options := rbd.NewRbdImageOptions()
	defer options.Destroy()
	if err := options.SetUint64(rbd.ImageOptionOrder, order); err != nil {
		return s, fault(err, "choosing the object size")
	}
	if err := rbd.CreateImage(p.ioctx, part, uint64(max(size, 1)), options); err != nil {
		return s, fault(err, "making "+part)
	}
	image, err := rbd.OpenImage(p.ioctx, part, rbd.NoSnapshot) // its watch tells Sweep that somebody writes
	if err != nil {
		return s, fault(err, "opening "+part)
	}
	defer func() { err = errors.Join(err, closing(image)) }()
	w := writer{image: image, size: max(size, 1), parallel: p.cfg.Writers}
	n, sum, err := w.copy(ctx, r, size)
	if err != nil {
		return s, err
	}
	if err := verify.Check(n, sum, size, digest); err != nil {
		return s, err
	}
	if err := p.readBack(ctx, image, n, sum); err != nil {
		return s, err
	}
	s = cache.Stat{Size: n, Digest: verify.Digest(sum)}
	return s, seal(image, s)
}

// writer writes pieces side by side and grows the image where its size was not announced.
type writer struct {
	image    *rbd.Image
	size     int64 // of the image
	parallel int
}

// copy answers how many bytes came and their SHA-512.
func (w *writer) copy(ctx context.Context, r io.Reader, announced int64) (n int64, sum []byte, err error) {
	hash := sha512.New()
	group, inner := errgroup.WithContext(ctx)
	free := make(chan []byte, w.parallel)
	for range w.parallel {
		free <- make([]byte, piece)
	}
	for err == nil {
		var buffer []byte
		select {
		case buffer = <-free:
		case <-inner.Done():
			err = inner.Err()
			continue
		}
		var got int
		got, err = verify.Fill(r, buffer)
		hash.Write(buffer[:got])
		offset := n
		n += int64(got)
		switch {
		case err != nil && !errors.Is(err, io.EOF), inner.Err() != nil:
			continue
		case announced > 0 && n > announced:
			err = verify.Check(n, nil, announced, "")
			continue
		case got == 0:
			continue
		}
		if growErr := w.grow(n); growErr != nil {
			err = growErr
			continue
		}
		group.Go(func() error {
			defer func() { free <- buffer }()
			return w.put(buffer[:got], offset)
		})
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if groupErr := group.Wait(); groupErr != nil { // it is why inner ended
		err = groupErr
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = w.finish(n)
	}
	return n, hash.Sum(nil), err
}

// grow doubles the image, so that a long stream needs few resizes.
func (w *writer) grow(n int64) error {
	if n <= w.size {
		return nil
	}
	w.size = max(2*w.size, n, 64*piece)
	if err := w.image.Resize(uint64(w.size)); err != nil {
		return fault(err, "growing an image")
	}
	return nil
}

var zeros = make([]byte, piece)

func (w *writer) put(b []byte, offset int64) error {
	if bytes.Equal(b, zeros[:len(b)]) {
		return nil
	}
	if _, err := w.image.WriteAt(b, offset); err != nil {
		return fault(err, "writing an image")
	}
	return nil
}

// finish cuts the image to the bytes that came. An RBD image of no bytes cannot have a snapshot in all versions.
func (w *writer) finish(n int64) error {
	if w.size > max(n, 1) {
		if err := w.image.Resize(uint64(max(n, 1))); err != nil {
			return fault(err, "cutting an image")
		}
	}
	if err := w.image.Flush(); err != nil {
		return fault(err, "writing an image")
	}
	return nil
}

// readBack holds what the cluster has against what was sent.
func (p *pool) readBack(ctx context.Context, image *rbd.Image, size int64, sum []byte) error {
	hash := sha512.New()
	buffers := make([][]byte, p.cfg.Writers)
	for i := range buffers {
		buffers[i] = make([]byte, piece)
	}
	for offset := int64(0); offset < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var group errgroup.Group
		var lengths []int
		for i := 0; i < len(buffers) && offset < size; i++ {
			length := int(min(piece, size-offset))
			at, buffer := offset, buffers[i][:length]
			group.Go(func() error { return readFull(image, buffer, at) })
			lengths = append(lengths, length)
			offset += int64(length)
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for i, length := range lengths {
			hash.Write(buffers[i][:length])
		}
	}
	if !bytes.Equal(hash.Sum(nil), sum) {
		return errs.New(errs.Unavailable, "kiln.ceph.damaged", "the pool %s gives back other bytes than were written", p.cfg.Pool)
	}
	return nil
}

func readFull(image *rbd.Image, b []byte, offset int64) error {
	n, err := image.ReadAt(b, offset)
	if err != nil && (!errors.Is(err, io.EOF) || n < len(b)) {
		return fault(err, "reading an image back")
	}
	return nil
}

// seal writes what the copy is, and freezes it as Glance does.
func seal(image *rbd.Image, s cache.Stat) error {
	err := image.SetMetadata(keyDigest, s.Digest)
	if err == nil {
		err = image.SetMetadata(keySize, strconv.FormatInt(s.Size, 10))
	}
	if err != nil {
		return fault(err, "describing an image")
	}
	snapshot, err := image.CreateSnapshot(Snapshot)
	if err == nil {
		err = snapshot.Protect()
	}
	if err != nil {
		return fault(err, "making the snapshot")
	}
	return nil
}

// commit gives the part its name. The same copy stays where it is, since volumes may hang on it.
func (p *pool) commit(ctx context.Context, part, name string, s cache.Stat) error {
	for range 5 { // others may put the same name
		if err := ctx.Err(); err != nil {
			return err
		}
		err := rbd.GetImage(p.ioctx, part).Rename(name)
		if err == nil {
			return nil
		}
		if !is(err, syscall.EEXIST) {
			return fault(err, "naming the copy "+name)
		}
		old, err := p.Stat(ctx, name)
		if err == nil && old.Digest == s.Digest {
			return p.remove(part)
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if err := p.remove(name); err != nil {
			return err
		}
	}
	return errs.New(errs.Conflict, "kiln.cache.busy", "others write the copy %s at the same time", name)
}
