package native

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Layout of the disk: a BIOS boot partition for GRUB's core, an EFI system partition, what the recipe adds, and last
// the root up to the table's copy, so that it can grow. Numbered as Debian's own cloud images are: the root is 1.
const (
	bootStart  = 1 << 20
	bootLength = 1 << 20
	efiLength  = 64 << 20 // the smallest FAT16 that every firmware takes is 32 MiB; what is not used is a hole
	rootIndex  = 1
	extraIndex = 2 // and on
	bootIndex  = 14
	efiIndex   = 15
)

// place is one partition beside the root.
type place struct {
	disk.Partition
	Filesystem string `json:"filesystem"` // "ext4", "swap", "vfat", "" for none
	Label      string `json:"label"`
	Mount      string `json:"mount,omitempty"`
	UUID       string `json:"fs_uuid"` // of the file system
}

// rootPlace is where the root file system is.
type rootPlace struct {
	UUID   string `json:"uuid"`
	Start  int64  `json:"start"` // bytes on the disk
	Length int64  `json:"length"`
}

// places arranges the disk of a recipe. uuid names things by what they are.
func places(r recipe.Recipe, uuid func(what string) string) (rootPlace, []place) {
	var out []place
	at := int64(bootStart)
	add := func(index int, kind, name, filesystem, mount string, length int64) {
		out = append(out, place{Label: name, Filesystem: filesystem, Mount: mount, UUID: uuid("file system " + name),
			Partition: disk.Partition{Index: index, Type: kind, Name: name, UUID: uuid("partition " + name), Start: at, Length: length}})
		at += length
	}
	if r.Disk.Firmware != "uefi" {
		add(bootIndex, disk.TypeBIOSBoot, "", "", "", bootLength)
	}
	if withEFI(r) {
		add(efiIndex, disk.TypeEFI, "EFI", "vfat", "", efiLength)
	}
	index := extraIndex
	for _, p := range r.Disk.Partitions {
		kind := disk.TypeLinux
		if p.Filesystem == "swap" {
			kind = disk.TypeSwap
		}
		if index == bootIndex {
			index = efiIndex + 1
		}
		add(index, kind, p.Label, p.Filesystem, p.Mount, int64(p.Size)>>20<<20)
		index++
	}
	return rootPlace{UUID: uuid("file system root"), Start: at, Length: (int64(r.Disk.Size) - at - disk.GPTReserve) >> 20 << 20}, out
}

// uuid names a part of the disk by the key of the base: the same base has the same names wherever it is built.
func (m *making) uuid(what string) string {
	sum := sha256.Sum256([]byte("kiln " + m.stages[0].key + " " + what))
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // RFC 9562, version 8
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// layout writes the partition table and the root file system of a new disk, notes where everything is, and mounts it.
func (m *making) layout(ctx context.Context) error {
	size := int64(m.recipe.Disk.Size)
	root, parts := places(m.recipe, m.uuid)
	table := []disk.Partition{{Index: rootIndex, Type: disk.TypeRootAMD64, UUID: m.uuid("partition root"), Name: "root", Start: root.Start, Length: root.Length}}
	for _, p := range parts {
		table = append(table, p.Partition)
	}
	if root.Length < minRoot {
		return errs.New(errs.Invalid, CodeDiskSize, "The partitions leave no room for the root on a disk of %s.", m.recipe.Disk.Size).
			At(errs.Where{File: m.recipe.Path, Field: "disk.size"})
	}
	f, err := os.OpenFile(m.rawPath(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The disk file cannot be made.")
	}
	err = f.Truncate(size)
	if err == nil {
		err = disk.WriteGPT(f, size, m.uuid("disk"), table)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeHost, "The disk file cannot be made.")
	}
	// The inode tables of a fresh file are zeros already: told so, the guest's kernel does not write them at its first boot.
	args := append([]string{"-q", "-t", "ext4", "-F", "-U", root.UUID, "-L", "root",
		"-E", fmt.Sprintf("offset=%d,lazy_itable_init=0,lazy_journal_init=1,nodiscard", root.Start)}, ext4Options...)
	if err := m.host(ctx, "mke2fs", append(args, m.rawPath(), fmt.Sprintf("%dk", root.Length/1024))...); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The file system cannot be made; install e2fsprogs.")
	}
	m.note.Root, m.note.Parts = root, parts
	return m.mount(ctx, working)
}

// keepsLayout refuses what would need another disk than that of the image below.
func (m *making) keepsLayout() error {
	refuse := func(field, what string) error {
		return errs.New(errs.Invalid, CodeBase, "The image of %s %s keeps its disk: %s.", m.req.Base.Family, m.req.Base.Version, what).At(errs.Where{File: m.recipe.Path, Field: field})
	}
	if len(m.recipe.Disk.Partitions) > 0 {
		return refuse("disk.partitions", "no partitions can be added to it")
	}
	if f := m.req.Base.Facts; f != nil && withEFI(m.recipe) && f.Firmware != m.recipe.Disk.Firmware && f.Firmware != "both" {
		return refuse("disk.firmware", "it boots by "+f.Firmware+" and not by "+m.recipe.Disk.Firmware)
	}
	return nil
}

// minRoot is the least that a root can be, in bytes.
const minRoot = 64 << 20

// ext4Options: GRUB 2.06 does not read checksum seeds and orphan files, which newer e2fsprogs switch on.
var ext4Options = []string{"-m", "1", "-O", "^metadata_csum_seed,^orphan_file"}

// fstab is what the image mounts when it boots. The EFI system partition is not in it: GRUB's program there reads
// its configuration from the root, so nothing ever needs to be written there.
func (m *making) fstab() string {
	var b strings.Builder
	fmt.Fprintf(&b, "UUID=%s / ext4 errors=remount-ro 0 1\n", m.note.Root.UUID)
	for _, p := range m.note.Parts {
		switch {
		case p.Filesystem == "swap":
			fmt.Fprintf(&b, "UUID=%s none swap sw,nofail 0 0\n", p.UUID)
		case p.Mount != "":
			fmt.Fprintf(&b, "UUID=%s %s ext4 defaults 0 2\n", p.UUID, p.Mount)
		}
	}
	return b.String()
}

// How the root is mounted. While steps work, without its journal: a build that breaks off is thrown away, and what
// the journal holds would be in the image.
const (
	working   = "noatime,noload"
	journaled = "noatime"
)

func (m *making) mount(ctx context.Context, options string) (err error) {
	m.root, err = m.session.MountRaw(ctx, m.rawPath(), m.note.Root.Start, m.note.Root.Length, "ext4", options)
	return err
}

// unmount writes the disk; nil where nothing is mounted.
func (m *making) unmount(ctx context.Context) error {
	if m.root == nil {
		return nil
	}
	err := m.root.Unmount(ctx)
	if err == nil {
		m.root = nil
	}
	return err
}
