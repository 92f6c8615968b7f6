package native

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// adopt makes the base of a recipe that stands on an image: its disk, grown if the recipe wants a larger one. The
// image keeps its boot loader; a kernel or arguments that the recipe names are added.
func (m *making) adopt(ctx context.Context) error {
	b := m.req.Base
	fault := func(err error) error {
		return errs.Wrap(err, errs.KindOf(err), CodeBase, "The image of %s %s cannot be built on.", b.Family, b.Version).
			At(errs.Where{File: m.recipe.Path, Field: "from.family"})
	}
	if err := m.keepsLayout(); err != nil {
		return err
	}
	if err := disk.Convert(ctx, disk.Image{Path: b.Path, Format: b.Format}, disk.Image{Path: m.rawPath(), Format: disk.Raw}, nil); err != nil {
		return fault(err)
	}
	old, err := m.findRoot(int64(m.req.Recipe.Disk.Size))
	if err != nil {
		return fault(err)
	}
	if old < m.note.Root.Length {
		if err := m.growFilesystem(ctx, old); err != nil {
			return fault(err)
		}
	}
	if err := m.mount(ctx, journaled); err != nil {
		return fault(err)
	}
	if m.recipe.Kernel.Package != recipe.DefaultKernel {
		if err := m.packages(ctx, []string{m.recipe.Kernel.Package}); err != nil {
			return errs.Wrap(err, errs.KindOf(err), codeOr(err, CodePackages), "The kernel cannot be installed.").At(errs.Where{File: m.recipe.Path, Field: "kernel.package"})
		}
	}
	if args := m.recipe.Kernel.Arguments; args != "" {
		text := "# Written when the image was built.\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX " + args + "\"\n"
		if err := m.offline(ctx, "mkdir -p /etc/default/grub.d\nprintf %s "+quote(text)+" >/etc/default/grub.d/90_kiln.cfg\n"); err != nil {
			return fault(err)
		}
		return m.bootFiles(ctx, asked{grub: true})
	}
	return nil
}

// findRoot notes where the root is, and gives the length of its file system. If want is more than the disk has, the
// disk, its partition table and the root's partition grow first.
func (m *making) findRoot(want int64) (old int64, err error) {
	f, err := os.OpenFile(m.rawPath(), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	parts, err := disk.Partitions(f, size)
	if err != nil {
		return 0, err
	}
	root, err := disk.FindRoot(f, parts)
	if err != nil {
		return 0, err
	}
	if kind := disk.Filesystem(f, root.Start, root.Length); kind != "ext4" {
		return 0, errs.New(errs.Invalid, CodeBase, "Its root is %s; the native builder works on ext4.", kind)
	}
	old = root.Length
	if want > size {
		if root, err = growTable(f, size, want, parts, root); err != nil {
			return 0, err
		}
	}
	super := make([]byte, 16)
	if _, err := f.ReadAt(super, root.Start+1024+0x68); err != nil { // s_uuid of ext4's superblock
		return 0, err
	}
	m.note.Root = rootPlace{Start: root.Start, Length: root.Length,
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", super[:4], super[4:6], super[6:8], super[8:10], super[10:])}
	return old, nil
}

// growTable makes a disk larger and gives the root what was added. It must be the last partition of a GPT, as it is
// in Kiln's and in Debian's images.
func growTable(f *os.File, size, want int64, parts []disk.Partition, root disk.Partition) (disk.Partition, error) {
	last := slices.MaxFunc(parts, func(a, b disk.Partition) int { return int(a.Start>>20 - b.Start>>20) })
	if root.UUID == "" || last.Index != root.Index {
		return root, errs.New(errs.Invalid, CodeDiskSize, "The disk has %d bytes and cannot grow: its root is not the last partition of a GPT. Leave disk.size out.", size)
	}
	id := make([]byte, 16)
	if _, err := f.ReadAt(id, 512+56); err != nil { // DiskGUID of the header
		return root, err
	}
	// The old copy of the table is not one any more.
	if _, err := f.WriteAt(make([]byte, disk.GPTReserve), size-disk.GPTReserve); err != nil {
		return root, err
	}
	if err := f.Truncate(want); err != nil {
		return root, err
	}
	root.Length = (want - root.Start - disk.GPTReserve) >> 20 << 20
	parts[slices.IndexFunc(parts, func(p disk.Partition) bool { return p.Index == root.Index })] = root
	le := binary.LittleEndian
	guid := fmt.Sprintf("%08X-%04X-%04X-%X-%X", le.Uint32(id), le.Uint16(id[4:]), le.Uint16(id[6:]), id[8:10], id[10:])
	return root, disk.WriteGPT(f, want, guid, parts)
}

// growFilesystem gives the root all of its partition. That happens in a file of its own: growing a mounted system
// takes a capability that many containers lack, and resize2fs cuts a file to the size of the file system in it.
func (m *making) growFilesystem(ctx context.Context, old int64) error {
	alone := filepath.Join(m.work, "root.raw")
	root := m.note.Root
	if err := m.moveRoot(alone, m.rawPath(), root.Start, root.Start+old, -root.Start); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := m.host(ctx, "e2fsck", "-f", "-p", alone); err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) { // 1: it mended something
		return errs.Wrap(err, errs.Invalid, CodeBase, "Its file system is damaged.")
	}
	if err := m.host(ctx, "resize2fs", alone, fmt.Sprintf("%dk", root.Length/1024)); err != nil {
		return errs.Wrap(err, errs.Internal, CodeBase, "Its file system cannot grow.")
	}
	if err := m.moveRoot(m.rawPath(), alone, 0, root.Length, root.Start); err != nil {
		return err
	}
	return os.Remove(alone)
}

// moveRoot copies a range between two disk files. What it lands on is emptied first.
func (m *making) moveRoot(to, from string, begin, end, shift int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if info.Size() < end+shift {
		if err := out.Truncate(end + shift); err != nil {
			return err
		}
	}
	if err := unix.Fallocate(int(out.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, begin+shift, end-begin); err != nil {
		return err
	}
	return copyData(out, in, begin, end, shift)
}
