package output

import (
	"context"
	"os"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// mountOptions keep a file system from being written, its journal included.
var mountOptions = map[string]string{
	"ext4": "ro,noexec,noload", "ext3": "ro,noexec,noload", "ext2": "ro,noexec", "xfs": "ro,noexec,norecovery,nouuid", "btrfs": "ro,noexec",
}

// withTree mounts the disk's root read-only and runs f with its path as the session, and as this process, sees it.
func (j *job) withTree(ctx context.Context, f func(s *disk.Session, inside, host string) error) (err error) {
	raw := j.from.Path
	if j.from.Format != disk.Raw {
		raw = filepath.Join(j.work, "disk.raw")
		if err := disk.Convert(ctx, j.from, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
			return err
		}
	}
	root, fs, err := findRoot(raw)
	if err != nil {
		return err
	}
	s, err := disk.OpenSession(ctx, j.work)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := s.Close(); err == nil {
			err = closeErr
		}
	}()
	m, err := s.MountRaw(ctx, raw, root.Start, root.Length, fs, mountOptions[fs])
	if err != nil {
		return err
	}
	return f(s, m.Path(), m.HostPath())
}

func findRoot(raw string) (root disk.Partition, fs string, err error) {
	f, err := os.Open(raw)
	if err != nil {
		return root, "", errs.Wrap(err, errs.Internal, CodeHost, "The disk cannot be opened.")
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return root, "", errs.Wrap(err, errs.Internal, CodeHost, "The disk cannot be read.")
	}
	parts, err := disk.Partitions(f, info.Size())
	if err != nil {
		return root, "", err
	}
	if root, err = disk.FindRoot(f, parts); err != nil {
		return root, "", err
	}
	return root, disk.Filesystem(f, root.Start, root.Length), nil
}
