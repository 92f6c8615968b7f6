//go:build ceph

package ceph

import (
	"context"
	"errors"
	"io"
	"math"
	"strconv"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// connect opens a connection whose questions end in time.
func connect(cfg Config) (*rados.Conn, error) {
	conn, err := rados.NewConnWithUser(cfg.User)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.ceph.config", "the Ceph user %q", cfg.User)
	}
	if err := conn.ReadConfigFile(cfg.Conf); err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.ceph.config", "%s cannot be read", cfg.Conf)
	}
	seconds := strconv.Itoa(max(1, int(math.Ceil(cfg.Timeout.Seconds()))))
	for _, option := range []string{"rados_mon_op_timeout", "rados_osd_op_timeout", "client_mount_timeout"} {
		if err := conn.SetConfigOption(option, seconds); err != nil {
			return nil, errs.Wrap(err, errs.Invalid, "kiln.ceph.config", "the Ceph option %s", option)
		}
	}
	if err := conn.Connect(); err != nil {
		return nil, fault(err, "connecting as "+cfg.User)
	}
	return conn, nil
}

// OpenLocations connects to the Ceph of the configuration; its Pool is not used. The user needs the caps
// `profile rbd-read-only pool=<Glance's>`. errs.Unavailable where Ceph is away, errs.Invalid for a bad configuration.
func OpenLocations(ctx context.Context, cfg Config) (Locations, error) {
	cfg.complete()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	fsid, err := conn.GetFSID()
	if err != nil {
		conn.Shutdown()
		return nil, fault(err, "asking for the fsid")
	}
	return &locations{conn: conn, fsid: fsid}, nil
}

type locations struct {
	conn *rados.Conn
	fsid string
}

// Close implements io.Closer.
func (l *locations) Close() error {
	l.conn.Shutdown()
	return nil
}

// Open implements Locations.
func (l *locations) Open(ctx context.Context, text string) (Disk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at, err := ParseLocation(text)
	if err != nil {
		return nil, err
	}
	if at.FSID != l.fsid {
		return nil, errs.New(errs.NotFound, CodeElsewhere, "the location is in the Ceph %s, not in %s", at.FSID, l.fsid)
	}
	ioctx, err := l.conn.OpenIOContext(at.Pool)
	if err != nil {
		return nil, noPool(err, at)
	}
	image, err := rbd.OpenImageReadOnly(ioctx, at.Image, at.Snapshot)
	if err != nil {
		ioctx.Destroy()
		if errors.Is(err, rbd.ErrNotFound) {
			return nil, errs.New(errs.NotFound, "kiln.ceph.not_found", "there is no %s@%s in the pool %s", at.Image, at.Snapshot, at.Pool)
		}
		return nil, noPool(err, at)
	}
	size, err := image.GetSize()
	if err != nil {
		return nil, errors.Join(fault(err, "asking for the size of "+at.Image), image.Close())
	}
	return &snapshot{image: image, ioctx: ioctx, size: int64(size)}, nil
}

// noPool tells a pool that Kiln's user does not see from a Ceph that is away.
func noPool(err error, at Location) error {
	if known := fault(err, "opening "+at.Image+" in the pool "+at.Pool); errs.CodeOf(known) != "kiln.ceph.denied" && !errors.Is(err, rados.ErrNotFound) {
		return known
	}
	return errs.Wrap(err, errs.NotFound, CodeElsewhere, "Kiln's Ceph user may not read the pool %s", at.Pool)
}

// snapshot implements Disk. librbd knows no context: the options of the connection bound each read.
type snapshot struct {
	image *rbd.Image
	ioctx *rados.IOContext
	size  int64
}

// Size implements Disk.
func (s *snapshot) Size() int64 { return s.size }

// ReadRange implements remote.Source.
func (s *snapshot) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.image.ReadAt(p, off)
	if err != nil && (!errors.Is(err, io.EOF) || n < len(p)) {
		return n, fault(err, "reading an image")
	}
	return n, nil
}

// Close implements io.Closer.
func (s *snapshot) Close() error {
	err := closing(s.image)
	s.ioctx.Destroy()
	return err
}
