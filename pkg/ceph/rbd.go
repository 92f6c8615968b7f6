//go:build ceph

package ceph

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// pool implements Backend. It is safe for many goroutines.
type pool struct {
	cfg   Config
	conn  *rados.Conn
	ioctx *rados.IOContext
	newID func() string
}

// Open connects to the cluster; errs.Unavailable where that is away, errs.Invalid for a bad configuration.
func Open(ctx context.Context, cfg Config) (Backend, error) {
	cfg.complete()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	ioctx, err := conn.OpenIOContext(cfg.Pool)
	if err != nil {
		conn.Shutdown()
		if errors.Is(err, rados.ErrNotFound) {
			return nil, errs.Wrap(err, errs.Invalid, "kiln.ceph.config", "there is no Ceph pool %q", cfg.Pool)
		}
		return nil, fault(err, "opening the pool "+cfg.Pool)
	}
	ioctx.SetNamespace(cfg.Namespace)
	return &pool{cfg: cfg, conn: conn, ioctx: ioctx, newID: func() string { return uuid.NewString()[:8] }}, nil
}

// Close implements io.Closer. Readers must be closed before.
func (p *pool) Close() error {
	p.ioctx.Destroy()
	p.conn.Shutdown()
	return nil
}

// What a whole copy says of itself, beside its bytes.
const (
	keyDigest = "kiln_digest"
	keySize   = "kiln_size" // of the copy; an RBD image cannot have 0 bytes in all versions
)

// Stat implements cache.Backend. Path is pool/image.
func (p *pool) Stat(ctx context.Context, name string) (s cache.Stat, err error) {
	err = p.reading(ctx, name, func(image *rbd.Image) error {
		s, err = p.stat(image, name)
		return err
	})
	return s, err
}

// reading opens a copy for a short look at it.
func (p *pool) reading(ctx context.Context, name string, look func(*rbd.Image) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(name); err != nil {
		return err
	}
	image, err := rbd.OpenImageReadOnly(p.ioctx, name, rbd.NoSnapshot)
	if err != nil {
		return p.missing(err, name)
	}
	err = look(image)
	return errors.Join(err, closing(image))
}

func (p *pool) missing(err error, name string) error {
	if errors.Is(err, rbd.ErrNotFound) {
		return errs.New(errs.NotFound, "kiln.cache.not_found", "there is no copy %s in the pool %s", name, p.cfg.Pool)
	}
	return fault(err, "opening the copy "+name)
}

func closing(image *rbd.Image) error {
	if err := image.Close(); err != nil {
		return fault(err, "closing an image")
	}
	return nil
}

func (p *pool) stat(image *rbd.Image, name string) (cache.Stat, error) {
	digest, err := image.GetMetadata(keyDigest)
	if err != nil { // made by another than Kiln
		return cache.Stat{}, p.missing(err, name)
	}
	text, err := image.GetMetadata(keySize)
	if err != nil {
		return cache.Stat{}, p.missing(err, name)
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return cache.Stat{}, errs.Wrap(err, errs.NotFound, "kiln.cache.not_found", "the record of copy %s in the pool %s is damaged", name, p.cfg.Pool)
	}
	return cache.Stat{Size: size, Digest: digest, Path: p.path(name)}, nil
}

// path is how rbd's command line calls an image.
func (p *pool) path(name string) string {
	if p.cfg.Namespace != "" {
		return p.cfg.Pool + "/" + p.cfg.Namespace + "/" + name
	}
	return p.cfg.Pool + "/" + name
}

// List implements cache.Backend.
func (p *pool) List(ctx context.Context) ([]string, error) {
	all, err := p.images(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(name string) bool { return check(name) != nil })
	slices.Sort(all)
	return all, nil
}

func (p *pool) images(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := rbd.GetImageNames(p.ioctx)
	if err != nil {
		return nil, fault(err, "listing the pool "+p.cfg.Pool)
	}
	return all, nil
}

// Open implements cache.Backend. The reader is an io.ReaderAt, too; it reads the snapshot.
func (p *pool) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	s, err := p.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	image, err := rbd.OpenImageReadOnly(p.ioctx, name, Snapshot)
	if err != nil {
		return nil, p.missing(err, name)
	}
	return &reader{SectionReader: io.NewSectionReader(imageAt{image}, 0, s.Size), image: image}, nil
}

type reader struct {
	*io.SectionReader
	image *rbd.Image
}

// Close implements io.Closer.
func (r *reader) Close() error { return closing(r.image) }

// imageAt turns librbd's errors into Kiln's.
type imageAt struct{ image *rbd.Image }

// ReadAt implements io.ReaderAt.
func (a imageAt) ReadAt(b []byte, offset int64) (int, error) {
	n, err := a.image.ReadAt(b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fault(err, "reading an image")
	}
	return n, err
}

// Delete implements cache.Backend. A copy that volumes are cloned from goes to the trash, from where Sweep takes it
// when the last of them is gone.
func (p *pool) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(name); err != nil {
		return err
	}
	return p.remove(name)
}

var _ cache.ChildCounter = (*pool)(nil)

// Children implements cache.ChildCounter.
func (p *pool) Children(ctx context.Context, name string) (n int, err error) {
	err = p.reading(ctx, name, func(image *rbd.Image) error {
		snapshots, err := image.GetSnapshotNames()
		if err != nil {
			return fault(err, "listing snapshots")
		}
		for _, s := range snapshots {
			if err := image.SetSnapshot(s.Name); err != nil {
				return fault(err, "reading the snapshot "+s.Name)
			}
			children, err := image.ListChildrenAttributes()
			if err != nil {
				return fault(err, "listing the clones of "+name)
			}
			n += len(children)
		}
		return nil
	})
	if errs.Is(err, errs.NotFound) {
		err = nil
	}
	return n, err
}

// removeTries bounds how often a name is followed that other writers give to another image meanwhile.
const removeTries = 10

// remove takes an image away with its snapshots; no error where it is gone.
func (p *pool) remove(name string) error {
	var err error
	for try := range removeTries {
		// ESTALE: the name stood for one image when it was looked up and for another when it was used. EBUSY: another
		// remover has the image open at this moment, to take its snapshots away.
		if err = p.removeOnce(name); !is(err, syscall.ESTALE) && !is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(time.Duration(try) * 100 * time.Millisecond)
	}
	return err
}

func (p *pool) removeOnce(name string) error {
	image, err := rbd.OpenImage(p.ioctx, name, rbd.NoSnapshot)
	if errors.Is(err, rbd.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fault(err, "opening "+name)
	}
	if err := errors.Join(dropSnapshots(image), closing(image)); err != nil {
		return err
	}
	err = rbd.RemoveImage(p.ioctx, name)
	switch {
	case err == nil, errors.Is(err, rbd.ErrNotFound):
		return nil
	case is(err, syscall.ENOTEMPTY), is(err, syscall.EBUSY): // clones, or a reader
		if err := rbd.GetImage(p.ioctx, name).Trash(0); err != nil && !errors.Is(err, rbd.ErrNotFound) {
			return fault(err, "moving "+name+" to the trash")
		}
		return nil
	}
	return fault(err, "removing "+name)
}

// dropSnapshots unprotects and removes; with clone v2 one that has clones leaves for the trash's namespace.
func dropSnapshots(image *rbd.Image) error {
	snapshots, err := image.GetSnapshotNames()
	if err != nil {
		return fault(err, "listing snapshots")
	}
	for _, info := range snapshots {
		s := image.GetSnapshot(info.Name)
		protected, err := s.IsProtected()
		if err == nil && protected {
			err = s.Unprotect()
		}
		if err == nil {
			err = s.Remove()
		}
		if err != nil && !errors.Is(err, rbd.ErrNotFound) && !is(err, syscall.EBUSY) && !is(err, syscall.EINVAL) {
			return fault(err, "removing the snapshot "+info.Name)
		}
	}
	return nil
}

// Sweep implements cache.Backend: half copies that nobody writes any more, and trash that nothing hangs on. A writer
// that was killed counts as living until its watch ends (30 s, osd_client_watch_timeout).
func (p *pool) Sweep(ctx context.Context) error {
	names, err := p.images(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, name := range names {
		if strings.Contains(name, partMark) && ctx.Err() == nil {
			all = errors.Join(all, p.sweepPart(name))
		}
	}
	trash, err := rbd.GetTrashList(p.ioctx)
	if err != nil {
		return errors.Join(all, fault(err, "listing the trash"))
	}
	for _, t := range trash {
		if err := p.sweepTrash(t.Id); err != nil {
			all = errors.Join(all, fault(err, "removing "+t.Name+" from the trash"))
		}
	}
	return all
}

// sweepTrash removes an image from the trash, unless clones hang on it or somebody still has it open. Its snapshots go
// first: two removers at once may have left one.
func (p *pool) sweepTrash(id string) error {
	image, err := rbd.OpenImageById(p.ioctx, id, rbd.NoSnapshot)
	if err == nil {
		err = errors.Join(dropSnapshots(image), closing(image))
	}
	if err != nil && !errors.Is(err, rbd.ErrNotFound) {
		return err
	}
	err = rbd.TrashRemove(p.ioctx, id, false)
	if errors.Is(err, rbd.ErrNotFound) || is(err, syscall.ENOTEMPTY) || is(err, syscall.EBUSY) || is(err, syscall.EPERM) {
		return nil
	}
	return err
}

func (p *pool) sweepPart(name string) error {
	image, err := rbd.OpenImageReadOnly(p.ioctx, name, rbd.NoSnapshot) // that is no watcher
	if errors.Is(err, rbd.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fault(err, "opening "+name)
	}
	watchers, err := image.ListWatchers()
	created, timeErr := image.GetCreateTimestamp()
	if err := errors.Join(err, timeErr, image.Close()); err != nil {
		return fault(err, "looking at "+name)
	}
	if len(watchers) > 0 || time.Since(time.Unix(created.Sec, created.Nsec)) < p.cfg.MinAge {
		return nil
	}
	return p.remove(name)
}
