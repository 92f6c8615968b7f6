package native

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// Places in GRUB's images (include/grub/i386/pc/boot.h of grub 2.06, and what util/setup.c writes there).
const (
	bootCodeBytes    = 440   // of boot.img; the table follows
	bootKernelSector = 0x5c  // GRUB_BOOT_MACHINE_KERNEL_SECTOR: where core.img begins, 8 bytes
	bootDriveCheck   = 0x66  // GRUB_BOOT_MACHINE_DRIVE_CHECK: two bytes, made no-operations for hard disks
	coreBlockList    = 0x1f4 // last block list entry of core.img's first sector: start (8), length (2), segment (2)
	coreSegment      = 0x820 // GRUB_BOOT_MACHINE_KERNEL_SEG + 0x20: the first sector is loaded already
	sector           = 512
)

// modules are built into GRUB's core: enough to read grub.cfg and boot from it without any other file.
const modules = "biosdisk part_gpt part_msdos ext2 normal configfile search search_fs_uuid linux echo test ls serial terminal gzio minicmd sleep reboot halt"

// biosScript makes GRUB's core for BIOS inside the image.
const biosScript = `mkdir -p /boot/grub/i386-pc
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /boot/grub/i386-pc/
grub-mkimage -O i386-pc -c /run/kiln/early.cfg -p /boot/grub -o /run/kiln/core.img ` + modules + `
cp /usr/lib/grub/i386-pc/boot.img /run/kiln/boot.img
`

// bootloader writes GRUB's configuration with the image's own update-grub, and GRUB itself without grub-install,
// which wants device nodes of the partitions.
func (m *making) bootloader(ctx context.Context) error {
	out := filepath.Join(m.work, "boot")
	early := fmt.Sprintf("search.fs_uuid %s root\nset prefix=($root)/boot/grub\n", m.note.Root.UUID)
	err := os.Mkdir(out, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "early.cfg"), []byte(early), 0o600)
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The boot loader's folder cannot be made.")
	}
	script := "mkdir -p /boot/grub\nupdate-grub\ngrep -q root=UUID=" + m.note.Root.UUID + " /boot/grub/grub.cfg\n"
	bios := m.recipe.Disk.Firmware != "uefi"
	if bios {
		script += biosScript
	}
	if withEFI(m.recipe) {
		script += efiScript
	}
	if err := m.offline(ctx, script, sandbox.Bind{Source: out, Target: "/run/kiln"}); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeBoot, "The boot loader's configuration cannot be made.")
	}
	if bios {
		err = m.writeGRUB(out)
	}
	if err == nil {
		err = m.writeEFI(ctx, out)
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeBoot, "The boot loader cannot be written.")
	}
	return nil
}

// writeGRUB puts core.img into the BIOS boot partition and boot.img into the first sector, each told where the
// next stage is.
func (m *making) writeGRUB(dir string) error {
	boot, err := readSmall(filepath.Join(dir, "boot.img"), sector, sector)
	if err != nil {
		return err
	}
	core, err := readSmall(filepath.Join(dir, "core.img"), 2*sector, bootLength)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint64(boot[bootKernelSector:], bootStart/sector)
	boot[bootDriveCheck], boot[bootDriveCheck+1] = 0x90, 0x90
	le.PutUint64(core[coreBlockList:], bootStart/sector+1)
	le.PutUint16(core[coreBlockList+8:], uint16((len(core)-1)/sector))
	le.PutUint16(core[coreBlockList+10:], coreSegment)
	f, err := os.OpenFile(m.rawPath(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(core, bootStart)
	if err == nil {
		_, err = f.WriteAt(boot[:bootCodeBytes], 0)
	}
	return errors.Join(err, f.Close())
}

// readSmall reads a file that a program in the sandbox wrote: a regular one, of a size that makes sense.
func readSmall(path string, least, most int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() < least || info.Size() > most {
		return nil, fmt.Errorf("%s has mode %s and %d bytes", filepath.Base(path), info.Mode(), info.Size())
	}
	return os.ReadFile(path)
}
