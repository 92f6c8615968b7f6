package inspect

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/btrfs"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/lvm"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// system is an open disk with its root found.
type system struct {
	header disk.Header
	guest  io.ReaderAt // the disk as the guest sees it
	parts  []disk.Partition
	places []place
	root   place
	fsys   fileSystem
	subvol string   // of btrfs, where the root is not its default one
	mounts []string // folders of the system that are file systems of their own
}

// place is where a file system lies: a partition, or a logical volume on one.
type place struct {
	part   disk.Partition
	volume string // "group/volume"; "" for the partition itself
	kind   string
	r      io.ReaderAt
	size   int64 // bytes
}

// open finds the root file system of an image whose header was checked.
func open(ctx context.Context, r io.ReaderAt, header disk.Header) (*system, error) {
	guest, err := openDisk(bounded{ctx: ctx, r: r}, header)
	if err != nil {
		return nil, unreadable(ctx, err)
	}
	s := &system{header: header, guest: guest}
	if s.parts, err = disk.Partitions(s.guest, header.VirtualSize); err != nil {
		return nil, unreadable(ctx, err)
	}
	if err := s.findRoot(); err != nil {
		return nil, unreadable(ctx, err)
	}
	return s, nil
}

// findPlaces lists the file systems that can be read, on partitions and on logical volumes. why is an error that says
// what else there is, for the case that none has a system.
func (s *system) findPlaces() (why error) {
	var physical []lvm.Physical
	var holder disk.Partition // of the first physical volume: its label stands for the others in the list of partitions
	for _, p := range s.parts {
		kind, r := disk.Filesystem(s.guest, p.Start, p.Length), io.NewSectionReader(s.guest, p.Start, p.Length)
		switch {
		case readable(kind):
			s.places = append(s.places, place{part: p, kind: kind, r: r, size: p.Length})
		case kind == "LVM2_member":
			if len(physical) == 0 {
				holder = p
			}
			physical = append(physical, lvm.Physical{Disk: r, Size: p.Length})
		case kind == "crypto_LUKS" && why == nil:
			why = errs.New(errs.Invalid, CodeFileSystem, "partition %d is encrypted; Kiln has no key for it", p.Index)
		}
	}
	if len(physical) == 0 {
		return why
	}
	volumes, left, err := lvm.Open(physical)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if kind := disk.Filesystem(v, 0, v.Size); readable(kind) {
			s.places = append(s.places, place{part: holder, volume: v.String(), kind: kind, r: v, size: v.Size})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		if why == nil {
			why = errs.New(errs.Invalid, CodeFileSystem, "the logical volume %s is of a kind that Kiln cannot read (%s)", clean(name), clean(left[name]))
		}
	}
	return why
}

// findRoot takes the place that the partition table calls a root, or else the first that has a system on it, ext4
// before others and then the largest: a partition for /srv may well be larger than the root.
func (s *system) findRoot() error {
	why := s.findPlaces()
	rank := func(p place) int {
		switch {
		case p.volume == "" && (p.part.Type == disk.TypeRootAMD64 || p.part.Type == disk.TypeRootARM64):
			return 0
		case strings.HasPrefix(p.kind, "ext"):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(s.places, func(a, b place) int {
		if ra, rb := rank(a), rank(b); ra != rb {
			return ra - rb
		}
		return int(min(1, max(-1, b.size-a.size)))
	})
	var first error
	for _, p := range s.places {
		found, err := s.try(p)
		if found {
			return err
		}
		if first == nil {
			first = err
		}
	}
	switch {
	case first != nil:
		return first
	case why != nil:
		return why
	case len(s.places) == 0:
		return errs.New(errs.Invalid, disk.CodeNoRoot, "none of the %d partitions holds a Linux file system that Kiln can read", len(s.parts))
	}
	return errs.New(errs.Invalid, CodeNoSystem, "no file system has an /etc/os-release: there is no Linux system on the image")
}

// try opens a file system and keeps it as the root where it has a system.
func (s *system) try(p place) (found bool, err error) {
	fsys, err := openFileSystem(p.kind, p.r, p.size)
	if err != nil {
		return false, err
	}
	found, err = s.keep(p, fsys, "")
	if found {
		return true, err
	}
	if b, ok := fsys.(*btrfs.FS); ok && err == nil {
		return s.trySubvolumes(p, b)
	}
	return false, err
}

// subvolumesMost is how many subvolumes are opened to find a system.
const subvolumesMost = 64

// trySubvolumes looks for a system outside the default subvolume of btrfs: installers make "@rootfs" (Debian), "@"
// (Ubuntu) or "root" (Fedora), and have the kernel told by rootflags=subvol=.
func (s *system) trySubvolumes(p place, b *btrfs.FS) (found bool, err error) {
	all, err := b.Subvolumes()
	if err != nil {
		return false, err
	}
	usual := []string{"root", "@", "@rootfs"}
	slices.SortStableFunc(all, func(a, b btrfs.Subvolume) int { return slices.Index(usual, b.Path) - slices.Index(usual, a.Path) })
	for _, v := range all[:min(len(all), subvolumesMost)] {
		fsys, err := b.Subvolume(v.ID)
		if err != nil {
			return false, err
		}
		if found, err = s.keep(p, fsys, clean(v.Path)); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// keep takes a file system as the root where it has a system. Where /usr lies elsewhere, only the link in /etc tells.
func (s *system) keep(p place, fsys fileSystem, subvol string) (found bool, err error) {
	if found, err = hasSystem(fsys); err != nil {
		return false, err
	}
	if !found {
		_, err := fsys.ReadLink("/etc/os-release")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	s.root, s.fsys, s.subvol, s.mounts = p, fsys, subvol, []string{}
	if err := s.mount(); err != nil || found {
		return found, err
	}
	return hasSystem(fsys)
}

func hasSystem(fsys fileSystem) (bool, error) {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		_, err := fsys.Stat(name)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// partitions describes the disk's layout.
func (s *system) partitions() []catalog.Partition {
	out := []catalog.Partition{}
	for _, p := range s.parts {
		out = append(out, catalog.Partition{
			Number: p.Index, Type: p.Type, Name: clean(p.Name), FileSystem: disk.Filesystem(s.guest, p.Start, p.Length),
			Start: p.Start, Size: p.Length, Root: p.Start == s.root.part.Start,
		})
	}
	return out
}

// firmware tells what the disk can boot with, as far as its layout says: boot code in the first sector, with a
// place for the rest of it where the table is GPT; an EFI system partition.
func (s *system) firmware() string {
	bios, uefi := s.bootCode(), false
	gpt, biosBoot := tableOf(s.parts) == "gpt", false
	for _, p := range s.parts {
		switch p.Type {
		case disk.TypeBIOSBoot:
			biosBoot = true
		case disk.TypeEFI, "0xef":
			uefi = uefi || disk.Filesystem(s.guest, p.Start, p.Length) == "vfat"
		}
	}
	bios = bios && (biosBoot || !gpt)
	switch {
	case bios && uefi:
		return "both"
	case bios:
		return "bios"
	case uefi:
		return "uefi"
	}
	return "none"
}

// bootCode reports whether the first sector holds a program (the table begins at byte 440).
func (s *system) bootCode() bool {
	sector := make([]byte, 440)
	if _, err := s.guest.ReadAt(sector, 0); err != nil {
		return false
	}
	return slices.ContainsFunc(sector, func(b byte) bool { return b != 0 })
}

// clean drops what is no text from what a disk says about itself.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
