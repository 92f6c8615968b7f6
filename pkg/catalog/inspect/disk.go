package inspect

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// system is an open disk with its root found.
type system struct {
	header disk.Header
	guest  io.ReaderAt // the disk as the guest sees it
	parts  []disk.Partition
	root   disk.Partition
	kind   string // of the root's file system
	fsys   *ext4.FS
}

// open finds the root file system of an image whose header was checked.
func open(ctx context.Context, r io.ReaderAt, header disk.Header) (*system, error) {
	raw, err := openDisk(bounded{ctx: ctx, r: r}, header)
	if err != nil {
		return nil, unreadable(ctx, err)
	}
	s := &system{header: header, guest: newPages(raw, header.VirtualSize)}
	if s.parts, err = disk.Partitions(s.guest, header.VirtualSize); err != nil {
		return nil, unreadable(ctx, err)
	}
	if err := s.findRoot(); err != nil {
		return nil, unreadable(ctx, err)
	}
	return s, nil
}

// findRoot takes the partition that the partition table calls a root, or else the first, largest first, that has a system
// on it: a partition for /srv may well be larger than the root.
func (s *system) findRoot() error {
	likely, err := disk.FindRoot(s.guest, s.parts)
	if err != nil {
		return err
	}
	candidates := slices.Clone(s.parts)
	slices.SortStableFunc(candidates, func(a, b disk.Partition) int {
		switch {
		case a.Start == likely.Start:
			return -1
		case b.Start == likely.Start:
			return 1
		}
		return int(min(1, max(-1, b.Length-a.Length)))
	})
	var first error
	for _, p := range candidates {
		found, err := s.try(p)
		if found {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	return errs.New(errs.Invalid, CodeNoSystem, "no file system has an /etc/os-release: there is no Linux system on the image")
}

// try opens a partition and keeps it as the root where it has a system.
func (s *system) try(p disk.Partition) (found bool, err error) {
	kind := disk.Filesystem(s.guest, p.Start, p.Length)
	switch {
	case kind == "xfs" || kind == "btrfs":
		return false, errs.New(errs.Invalid, CodeFileSystem,
			"the root file system is %s; Kiln reads facts from ext2, ext3 and ext4 only", kind)
	case !strings.HasPrefix(kind, "ext"):
		return false, nil
	}
	fsys, err := ext4.Open(io.NewSectionReader(s.guest, p.Start, p.Length), p.Length)
	if err != nil {
		return false, err
	}
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		_, err := fsys.Stat(name)
		if err == nil {
			s.root, s.kind, s.fsys = p, kind, fsys
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
			Start: p.Start, Size: p.Length, Root: p.Start == s.root.Start,
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
