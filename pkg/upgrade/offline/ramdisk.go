package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/reuse"
)

// maxScratch bounds what update-initramfs may write while it works, in bytes.
const maxScratch = 3 << 30

// ramDisks makes the initial RAM disks of kernels. One that was made in an image with the same inputs is taken as it is;
// else it is made on top of the image and not in it, so that what it was made of is still there afterwards to be noted.
func (r *run) ramDisks(ctx context.Context, root *os.Root, versions []string) error {
	var left []string
	for _, v := range versions {
		done, err := r.ramDisk(ctx, root, v)
		if err != nil {
			return err
		}
		if !done {
			left = append(left, v)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return r.tool(ctx, sandbox.Spec{Args: append([]string{"/bin/sh", controlInside + "/finish"}, left...), Env: ramDiskEnv(), RootDisk: r.rootDisk()})
}

// ramDiskEnv are variables for update-initramfs. Without SHELL each bash reads the users for it, and what is made would depend
// on them; nothing in an initial RAM disk's making looks at it.
func ramDiskEnv() []string { return []string{"SHELL=/bin/sh"} }

// ramDisk is false where the image's own program has to do it in the image.
func (r *run) ramDisk(ctx context.Context, root *os.Root, version string) (bool, error) {
	cache := r.cfg.Caches.Results
	mode, file := "-c", "boot/initrd.img-"+version
	if _, err := root.Lstat(file); err == nil {
		mode = "-u"
	}
	if cache == nil || strings.ContainsAny(r.work.Path, `,:\`) { // what overlay's options cannot say
		return false, nil
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeRequest, "the host's kernel does not say its name")
	}
	family := reuse.Family("initial RAM disk 2", runtime.GOARCH, unix.ByteSliceToString(host.Release[:]), r.facts.FileSystem, mode, version)
	kept, why, err := cache.Find(ctx, family, root)
	if err != nil {
		return false, err
	}
	if kept != nil {
		defer kept.Close() //nolint:errcheck // read only
		r.tell("The initial RAM disk of %s is that of an image with the same inputs.", version)
		return true, place(root, file, kept.File, kept.Mode)
	}
	if why != "" {
		r.tell("No kept initial RAM disk of %s fits: %s.", version, why)
	}
	return r.makeRAMDisk(ctx, root, family, mode, version)
}

// makeRAMDisk runs update-initramfs on a layer above the image, puts its one result into the image and keeps it.
func (r *run) makeRAMDisk(ctx context.Context, root *os.Root, family, mode, version string) (done bool, err error) {
	layer, err := r.mountLayer(ctx)
	if err != nil {
		r.cfg.Log.WithError(err).Info("no layer above the image: the initial RAM disk is made in it")
		return false, nil
	}
	defer func() { err = errors.Join(err, layer.close(ctx)) }()
	var looks reuse.Looks
	var output sandbox.Tail
	spec := sandbox.Spec{Args: []string{"/usr/sbin/update-initramfs", mode, "-k", version}, Env: ramDiskEnv(), RootDisk: r.rootDisk(), Trace: looks.See}
	if err := r.inTree(ctx, layer.merged, io.MultiWriter(r.log, &output), spec); err != nil {
		return false, aptError(err, output.String())
	}
	file := "boot/initrd.img-" + version
	upper, err := layer.tmpfs.Root()
	if err != nil {
		return false, err
	}
	defer upper.Close() //nolint:errcheck // read only
	if only, err := onlyChange(upper, file); err != nil || !only {
		return false, err // hooks that write elsewhere must do so in the image
	}
	result, err := upper.Open(filepath.Join(upperDir, file))
	if err != nil {
		return false, cannotRead(err, file)
	}
	defer result.Close() //nolint:errcheck // read only
	info, err := result.Stat()
	if err != nil {
		return false, cannotRead(err, file)
	}
	ignored := []string{"/" + file, "/" + file + ".new", "/" + file + ".bak", "/" + file + ".dpkg-bak"}
	if !looks.Devices() {
		if err := r.cfg.Caches.Results.Keep(ctx, family, &looks, root, ignored, result); err != nil {
			r.cfg.Log.WithError(err).Warn("an initial RAM disk cannot be kept for other images")
		}
	}
	return true, place(root, file, result, info.Mode())
}

// place puts a file into the image as update-initramfs does: under another name, then renamed.
func place(root *os.Root, name string, from *os.File, mode fs.FileMode) error {
	part := name + ".new"
	out, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return cannotRead(err, part)
	}
	_, err = io.Copy(out, io.NewSectionReader(from, 0, 1<<40))
	if err := errors.Join(err, out.Chmod(mode.Perm()), out.Close()); err != nil {
		return cannotRead(err, part)
	}
	if err := root.Rename(part, name); err != nil {
		return cannotRead(err, name)
	}
	return nil
}

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

// onlyChange reports whether a file is all that the layer adds to the image or takes from it.
func onlyChange(tmpfs *os.Root, file string) (bool, error) {
	only := true
	err := fs.WalkDir(tmpfs.FS(), upperDir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path != upperDir+"/"+file {
			only = false
		}
		return err
	})
	if err != nil {
		return false, cannotRead(err, file)
	}
	info, err := tmpfs.Lstat(filepath.Join(upperDir, file))
	return only && err == nil && info.Mode().IsRegular(), nil
}
