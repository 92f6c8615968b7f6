package stable

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// FAT is an EFI system partition to make: FAT16, which every firmware reads (UEFI 2.10, 13.3).
type FAT struct {
	Image          string // raw disk; exists
	Offset, Length int64  // bytes; multiples of 1 MiB
	Serial         uint32 // the file system's own number
	Label          string // in capitals, 11 characters at most
	Epoch          time.Time
	Files          map[string][]byte // by path, for example EFI/BOOT/BOOTX64.EFI
}

// Write makes the file system with mkfs.vfat and fills it with mtools: the kernel need not know it. dir is a folder
// for the files on their way.
func (f FAT) Write(ctx context.Context, dir string) error {
	err := f.tool(ctx, "mkfs.vfat", "--invariant", "-F", "16", "-S", "512", "-s", "4", "-R", "4", "-n", f.Label, "-i", fmt.Sprintf("%08x", f.Serial),
		"--offset", strconv.FormatInt(f.Offset/512, 10), f.Image, strconv.FormatInt(f.Length/1024, 10))
	if err != nil {
		return err
	}
	at := fmt.Sprintf("%s@@%d", f.Image, f.Offset)
	var folders, names []string
	for name := range f.Files {
		names = append(names, name)
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if !slices.Contains(folders, d) {
				folders = append(folders, d)
			}
		}
	}
	slices.Sort(folders) // a folder is before what is in it
	slices.Sort(names)
	for _, d := range folders {
		if err := f.tool(ctx, "mmd", "-i", at, "::/"+d); err != nil {
			return err
		}
	}
	for i, name := range names {
		from := filepath.Join(dir, "fat"+strconv.Itoa(i))
		if err := os.WriteFile(from, f.Files[name], 0o600); err != nil {
			return errs.Wrap(err, errs.Internal, CodeWrite, "A file for the EFI system partition cannot be written.")
		}
		if err := f.tool(ctx, "mcopy", "-i", at, from, "::/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (f FAT) tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLSRC=/dev/null"}
	if !f.Epoch.IsZero() {
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(f.Epoch.Unix(), 10))
	}
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errs.Wrap(err, errs.Internal, CodeWrite, "%s cannot write the EFI system partition (install dosfstools and mtools): %s", name, strings.TrimSpace(string(out)))
	}
	return nil
}

// Swap writes the head of a swap space of Linux (include/linux/swap.h, version 1) at an offset of a raw disk.
func Swap(image string, offset, length int64, uuid, label string) error {
	const page = 4096
	id, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(id) != 16 || length < 10*page {
		return errs.New(errs.Invalid, CodeWrite, "A swap space of %d bytes with the UUID %q cannot be made.", length, uuid)
	}
	b := make([]byte, page)
	put := func(at int, v uint32) {
		b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	put(1024, 1)                                      // version
	put(1028, uint32(min(length/page-1, 0xffffffff))) // last page
	copy(b[1036:], id)
	copy(b[1052:1068], label)
	copy(b[page-10:], "SWAPSPACE2")
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeWrite, "The disk file cannot be opened.")
	}
	_, err = f.WriteAt(b, offset)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return disk.NoSpace(errs.Wrap(err, errs.Internal, CodeWrite, "The swap space cannot be written."), "the worker's disk")
	}
	return nil
}
