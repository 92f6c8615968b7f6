package native

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/disk/stable"
)

// efiModules are built into GRUB's program for UEFI: enough to read grub.cfg and boot from it without any other file.
const efiModules = "part_gpt part_msdos ext2 normal configfile search search_fs_uuid linux echo test ls loadenv serial terminal all_video gzio minicmd sleep reboot halt efifwsetup"

// efiFile is what every UEFI firmware starts from a disk that it does not know (UEFI 2.10, 3.5.1.1).
const efiFile = "EFI/BOOT/BOOTX64.EFI"

// efiScript makes GRUB's program for UEFI inside the image. It is not signed: Secure Boot must be off.
const efiScript = `mkdir -p /boot/grub/x86_64-efi
cp /usr/lib/grub/x86_64-efi/*.mod /usr/lib/grub/x86_64-efi/*.lst /boot/grub/x86_64-efi/
grub-mkimage -O x86_64-efi -c /run/kiln/early.cfg -p /boot/grub -o /run/kiln/grub.efi ` + efiModules + "\n"

// writeEFI makes the EFI system partition with GRUB's program from dir. The program finds its configuration on the root by the
// UUID of the file system, so update-grub goes on working without this partition.
func (m *making) writeEFI(ctx context.Context, dir string) error {
	for _, p := range m.note.Parts {
		if p.Type != disk.TypeEFI {
			continue
		}
		program, err := readSmall(filepath.Join(dir, "grub.efi"), 64<<10, 16<<20)
		if err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(p.UUID))
		f := stable.FAT{Image: m.rawPath(), Offset: p.Start, Length: p.Length, Serial: binary.BigEndian.Uint32(sum[:]), Label: p.Label,
			Epoch: m.epoch(), Files: map[string][]byte{efiFile: program}}
		return f.Write(ctx, m.work)
	}
	return nil
}
