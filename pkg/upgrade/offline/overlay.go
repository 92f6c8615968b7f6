package offline

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
)

// maxScratch bounds what a program may write above an image, in bytes: update-initramfs needs most.
const maxScratch = 3 << 30

// layer is a writable view of the image that leaves it as it is.
type layer struct{ tmpfs, merged *disk.Mount }

const upperDir = "upper"

func (r *run) mountLayer(ctx context.Context) (*layer, error) {
	tmpfs, err := r.session.MountTmpfs(ctx, maxScratch)
	if err != nil {
		return nil, err
	}
	l := &layer{tmpfs: tmpfs}
	root, err := tmpfs.Root()
	if err == nil {
		err = errors.Join(root.Mkdir(upperDir, 0o755), root.Mkdir("work", 0o755), root.Close())
	}
	if err == nil {
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s/%s,workdir=%s/work", r.mount.Path(), tmpfs.Path(), upperDir, tmpfs.Path())
		l.merged, err = r.session.Mount(ctx, "overlay", "overlay", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, options)
	}
	if err != nil {
		return nil, errors.Join(err, l.close(ctx))
	}
	return l, nil
}

func (l *layer) close(ctx context.Context) error {
	var err error
	if l.merged != nil {
		err = l.merged.Unmount(ctx)
	}
	return errors.Join(err, l.tmpfs.Unmount(ctx))
}
