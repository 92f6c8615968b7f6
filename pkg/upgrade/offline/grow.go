package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const (
	gib = 1 << 30
	// spare is kept free beside what the upgrade needs, in bytes: initial RAM disks, which apt knows nothing of, and what
	// the file system itself takes of new room.
	spare = 64 << 20
	// spareInodes are for what maintainer scripts make.
	spareInodes = 64
)

// shortage is what the file system has, and lacks for the plan.
type shortage struct {
	free, needed     int64 // bytes
	inodes, wanted   int64
	bytesEach        int64 // of the file system, for one inode
	lackInodes, lack int64 // 0 or less: enough
	base             int64 // of the disk before it grew the first time
}

// measure holds the plan against the room in the image's file system. Before there is a plan, it is what a sandbox needs:
// its mount points are made in the image.
func (r *run) measure(root *os.Root) error {
	st, err := statFileSystem(root)
	if err != nil {
		return err
	}
	r.short = shortage{free: int64(st.Bfree) * st.Bsize, needed: r.plan.grows, inodes: int64(st.Ffree), base: r.short.base}
	r.short.lack = r.short.needed - r.short.free
	if st.Files > 0 { // btrfs has as many as fit
		r.short.bytesEach = int64(st.Blocks) * st.Bsize / int64(st.Files)
		r.short.wanted = r.inodesWanted(root)
		r.short.lackInodes = r.short.wanted - r.short.inodes
	}
	return nil
}

func statFileSystem(root *os.Root) (st unix.Statfs_t, err error) {
	dir, err := root.Open(".")
	if err == nil {
		defer func() { _ = dir.Close() }()
		err = unix.Fstatfs(int(dir.Fd()), &st)
	}
	if err != nil {
		err = errs.Wrap(err, errs.Internal, CodeRequest, "the image's file system cannot be read")
	}
	return st, err
}

// inodesWanted is an estimate: dpkg keeps the old and the new files of one package side by side, and a package that is
// new has about as many as its elder sister (the kernel before).
func (r *run) inodesWanted(root *os.Root) int64 {
	lines := func(p deb.Package) int64 {
		for _, name := range []string{p.Name, p.Name + ":" + p.Architecture} {
			if text, err := readFile(root, "var/lib/dpkg/info/"+name+".list", maxStatus); err == nil {
				return int64(bytes.Count(text, []byte("\n")))
			}
		}
		return 0
	}
	var most, fresh int64
	for _, p := range r.plan.packages {
		if n := lines(p); n > 0 {
			most = max(most, n)
			continue
		}
		var sister int64
		stem, _, _ := strings.Cut(p.Name, "-")
		for _, o := range r.before {
			if strings.HasPrefix(o.Name, stem+"-") {
				sister = max(sister, lines(o))
			}
		}
		fresh += sister
	}
	return most + fresh + spareInodes
}

// makeRoom grows the disk where the plan does not fit and the policy allows it.
func (r *run) makeRoom(ctx context.Context) error {
	s := r.short
	if s.lack <= 0 && s.lackInodes <= 0 {
		return nil
	}
	if r.req.Policy.GrowGiB == 0 {
		return s.refused("rebuild the image with a larger disk, or let it grow")
	}
	size := r.facts.VirtualSize
	need := max(s.lack, 0) + max(s.lackInodes, 0)*s.bytesEach
	need += need/8 + spare
	if r.short.base == 0 {
		r.short.base = size
	}
	most := r.short.base + int64(r.req.Policy.GrowGiB)*gib
	if size+need > most {
		return s.refused("the policy lets the disk grow by %d GiB, which is less", r.req.Policy.GrowGiB)
	}
	to := min((size+need+gib-1)/gib*gib, most)
	return r.step(ctx, "grow", func(ctx context.Context) error { return r.grow(ctx, to) })
}

// refused names what is missing.
func (s shortage) refused(advice string, args ...any) error {
	if s.lack <= 0 {
		return errs.New(errs.TooLarge, CodeDiskFull, "the image's file system has %d inodes free and the upgrade needs about %d: %d inodes are missing; "+advice,
			append([]any{s.inodes, s.wanted, s.lackInodes}, args...)...)
	}
	return errs.New(errs.TooLarge, CodeDiskFull, "the image's file system has %d bytes free and the upgrade needs %d: %d bytes are missing; "+advice,
		append([]any{s.free, s.needed, s.lack}, args...)...)
}

// grow makes the copy's disk, its root partition and the file system larger.
func (r *run) grow(ctx context.Context, to int64) error {
	if err := errors.Join(r.mount.Unmount(ctx), r.freeLoop()); err != nil {
		return err
	}
	if err := r.growPartition(to); err != nil {
		return err
	}
	// Mounted so, a journal that was left is played back: resize2fs does not work on a file system that has one.
	if err := r.mountWith(ctx, r.withJournal()); err != nil {
		return err
	}
	if err := r.inRoot(func(root *os.Root) error { return growMounted(root, r.facts.FileSystem, r.root.Length) }); err != nil {
		return err
	}
	if err := r.mount.Unmount(ctx); err != nil {
		return err
	}
	if strings.HasPrefix(r.facts.FileSystem, "ext") {
		if err := r.resize2fs(ctx); err != nil {
			return err
		}
	}
	r.report.GrownTo, r.facts.VirtualSize = to, to
	return r.mountRoot(ctx)
}

func (r *run) growPartition(to int64) error {
	f, err := os.OpenFile(r.raw, os.O_RDWR, 0)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the copy cannot be opened")
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(to); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the copy cannot grow")
	}
	if r.root, err = disk.GrowLast(f, r.facts.VirtualSize, to, r.root); err != nil {
		return err
	}
	return f.Sync()
}

// resize2fs makes an ext file system fill its partition. The kernel could do it too, but asks for a capability
// (CAP_SYS_RESOURCE) that workers in containers rarely have.
func (r *run) resize2fs(ctx context.Context) error {
	// On a device, because it cuts a file to the length of the file system even when that begins at an offset.
	device, err := disk.AttachLoop(r.raw, r.root.Start, r.root.Length, false)
	if err != nil {
		return err
	}
	defer device.Close() //nolint:errcheck // resize2fs has written; its last user frees the device
	out, err := r.outside(ctx, r.session, "/usr/sbin/resize2fs", "-f", device.Name())
	var exit *exec.ExitError
	switch {
	case err == nil || ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return errs.New(errs.Invalid, CodeDiskFull, "the %s file system of the image cannot grow: %.500q", r.facts.FileSystem, out)
	}
	return errs.Wrap(err, errs.Unavailable, CodeDiskFull, "the image's file system cannot grow; install e2fsprogs")
}

// growMounted makes a mounted xfs or btrfs fill its device of length bytes: both grow only so. XFS_IOC_FSGROWFSDATA and
// BTRFS_IOC_RESIZE are what xfs_growfs and btrfs call.
func growMounted(root *os.Root, kind string, length int64) error {
	dir, err := root.Open(".")
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeDiskFull, "the image's file system cannot be opened")
	}
	defer func() { _ = dir.Close() }()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return errs.Wrap(err, errs.Internal, CodeDiskFull, "the image's file system cannot be read")
	}
	blocks := uint64(length / st.Bsize)
	const (
		xfsGeometry, xfsGrow, btrfsResize = 0x80705864, 0x4010586e, 0x50009403
		imaxpctAt                         = 28 // in struct xfs_fsop_geom_v1, linux/xfs_fs.h
	)
	do := func(request uintptr, arg []byte) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 { //nolint:gosec // an ioctl takes a pointer
			return errs.Wrap(errno, errs.Invalid, CodeDiskFull, "the %s file system of the image cannot grow", kind)
		}
		return nil
	}
	switch kind {
	case "xfs":
		geometry := make([]byte, 112)
		if err := do(xfsGeometry, geometry); err != nil {
			return err
		}
		arg := binary.NativeEndian.AppendUint64(nil, blocks)
		return do(xfsGrow, append(arg, geometry[imaxpctAt], geometry[imaxpctAt+1], geometry[imaxpctAt+2], geometry[imaxpctAt+3], 0, 0, 0, 0))
	case "btrfs":
		arg := make([]byte, 4096)
		copy(arg[8:], "max")
		return do(btrfsResize, arg)
	}
	return nil
}
