package boottest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk"
)

// tinyInit is all that a tiny image runs. mode comes by the kernel's command line. "cloud" plays what cloud-init does
// with a seed: busybox has the same commands as Debian.
const tinyInit = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var/tmp /root /usr/bin /usr/sbin /sbin /seed
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /usr/bin
export PATH=/usr/bin:/bin
exec </dev/null >/dev/ttyS0 2>&1
grep -q kiln-disk /proc/cmdline && mode=guest
for word in $(cat /proc/cmdline); do case $word in mode=*) mode=${word#mode=} ;; esac; done
echo "tiny: $mode"
case $mode in
panic) exit 1 ;;
login) printf '\r\ntiny login: ' ;;
emergency) echo 'You are in emergency mode. After logging in, type "journalctl -xb"' ;;
initramfs) printf 'ALERT!  UUID=17 does not exist.  Dropping to a shell!\n(initramfs) ' ;;
off) poweroff -f ;;
guest)
	for m in $(cat /modules/order); do insmod /modules/$m; done
	mkdir -p /root /disk
	for n in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] || [ -b /dev/vda2 ] && break; sleep 0.2; done
	disk=/dev/vda data=/dev/vdb
	[ ! -b /dev/vda2 ] || disk=/dev/vda1 data=/dev/vda2
	mount -t ext4 $disk /disk && cd /disk || poweroff -f
	mkdir -p run/kiln-disk
	for dir in proc dev; do mount --bind /$dir $dir; done
	mount -t tmpfs run run
	mkdir run/kiln-disk
	mount -t iso9660 -o ro $data run/kiln-disk
	chroot . /bin/sh /run/kiln-disk/run
	cd /
	umount /disk/run/kiln-disk /disk/run /disk/proc /disk/dev
	umount /disk && poweroff -f
	;;
cloud)
	for m in $(cat /modules/order); do insmod /modules/$m; done
	for n in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; sleep 0.2; done
	mount -t iso9660 -o ro /dev/vdb /seed
	cp /seed/user-data /run/script
	[ -s /run/script ] || cp /seed/openstack/latest/user_data /run/script
	printf '#!/bin/sh\ngrep -q noisy /proc/cmdline && while sleep 0.01; do echo noise noise >/dev/kmsg; done >/dev/null 2>&1 &\nsleep 1\necho; echo status: done\n' >/usr/bin/cloud-init
	grep -q broken /proc/cmdline && printf '#!/bin/sh\necho status: error\necho "detail: no data"\n' >/usr/bin/cloud-init
	chmod +x /usr/bin/cloud-init
	printf '\r\ntiny login: '
	grep -q deaf /proc/cmdline || sh /run/script
	;;
esac
while sleep 1000; do :; done
`

var (
	tinyOnce sync.Once
	tinyBoot tinyFiles
	errTiny  error
)

// tinyFiles are a kernel and a RAM disk.
type tinyFiles struct{ kernel, initrd []byte }

// modules in the order in which they are loaded; what a kernel has built in is left out.
var modules = []string{"virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "cdrom", "isofs", "crc16", "crc32c_generic", "mbcache", "jbd2", "ext4"}

// Tiny makes a raw disk that boots by BIOS and by UEFI into one small program: a kernel, busybox, and the mode: panic, login,
// emergency, initramfs, off, or cloud (which runs a seed). arguments are added to the kernel's.
func Tiny(t testing.TB, mode, arguments string) string {
	t.Helper()
	kernelText, initrdText := Kernel(t)
	dir := t.TempDir()
	line := fmt.Sprintf("console=ttyS0 loglevel=4 mode=%s %s", mode, arguments)
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kernel, initrd, cmdline := write("vmlinuz", kernelText), write("initrd", initrdText), write("cmdline", []byte(line))
	config := write("syslinux.cfg", []byte("default tiny\nlabel tiny\nkernel vmlinuz\ninitrd initrd\nappend "+line+"\n"))
	path := filepath.Join(dir, "tiny.raw")
	efi := filepath.Join(dir, "bootx64.efi")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("objcopy", "--add-section", ".cmdline="+cmdline, "--change-section-vma", ".cmdline=0x30000",
		"--add-section", ".linux="+kernel, "--change-section-vma", ".linux=0x2000000",
		"--add-section", ".initrd="+initrd, "--change-section-vma", ".initrd=0x4000000", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub", efi)
	run("truncate", "-s", "64M", path)
	run("mkfs.vfat", "-F", "16", path)
	run("mcopy", "-i", path, kernel, initrd, config, "::/")
	run("mmd", "-i", path, "::/EFI", "::/EFI/BOOT")
	run("mcopy", "-i", path, efi, "::/EFI/BOOT/BOOTX64.EFI")
	run("syslinux", "-i", path)
	return path
}

// Kernel gives a kernel and an initial RAM disk that run a guest's script in its root file system, without a system around it.
func Kernel(t testing.TB) (kernel, initrd []byte) {
	t.Helper()
	debian := Debian(t)
	tinyOnce.Do(func() { tinyBoot, errTiny = makeTiny(context.WithoutCancel(t.Context()), debian.Path) })
	if errTiny != nil {
		t.Fatal(errTiny)
	}
	return tinyBoot.kernel, tinyBoot.initrd
}

// makeTiny takes the kernel and its modules out of the Debian image.
func makeTiny(ctx context.Context, image string) (out tinyFiles, err error) {
	work, err := disk.NewWork(os.TempDir())
	if err != nil {
		return out, err
	}
	defer work.Close() //nolint:errcheck // a test's folder
	root := filepath.Join(work.Path, "tree")
	if err := os.MkdirAll(filepath.Join(root, "modules"), 0o755); err != nil {
		return out, err
	}
	s, err := disk.OpenSession(ctx, work.Path)
	if err != nil {
		return out, err
	}
	defer s.Close() //nolint:errcheck // only read
	at, err := mountRoot(ctx, s, image, work.Path)
	if err != nil {
		return out, err
	}
	kernels, err := filepath.Glob(filepath.Join(at, "boot/vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		return out, fmt.Errorf("no kernel in the image: %w", err)
	}
	if out.kernel, err = os.ReadFile(kernels[0]); err != nil {
		return out, err
	}
	var order bytes.Buffer
	for _, m := range modules {
		found := find(filepath.Join(at, "lib/modules"), m+".ko")
		if found == "" {
			continue
		}
		text, err := os.ReadFile(found)
		if err != nil {
			return out, err
		}
		if err := os.WriteFile(filepath.Join(root, "modules", m+".ko"), text, 0o644); err != nil { //nolint:gosec // the names are ours
			return out, err
		}
		fmt.Fprintln(&order, m+".ko")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return out, err
	}
	for name, text := range map[string][]byte{"modules/order": order.Bytes(), "init": []byte(tinyInit), "bin/busybox": busybox} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return out, err
		}
		if err := os.WriteFile(path, text, 0o755); err != nil {
			return out, err
		}
	}
	if err := os.Symlink("busybox", filepath.Join(root, "bin/sh")); err != nil {
		return out, err
	}
	pack := exec.CommandContext(ctx, "sh", "-c", "find . | cpio --quiet -o -H newc | gzip -1")
	pack.Dir = root
	out.initrd, err = pack.Output()
	return out, err
}

// mountRoot gives the path of the image's root, read-only.
func mountRoot(ctx context.Context, s *disk.Session, image, dir string) (string, error) {
	raw := filepath.Join(dir, "disk.raw")
	if err := disk.Convert(ctx, disk.Image{Path: image, Format: disk.Qcow2}, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
		return "", err
	}
	f, err := os.Open(raw)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	parts, err := disk.Partitions(f, info.Size())
	if err != nil {
		return "", err
	}
	p, err := disk.FindRoot(f, parts)
	if err != nil {
		return "", err
	}
	m, err := s.MountRaw(ctx, raw, p.Start, p.Length, "ext4", "ro,noexec,noload")
	if err != nil {
		return "", err
	}
	return m.HostPath(), nil
}

func find(dir, name string) string {
	found := ""
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error { //nolint:errcheck // what is not found is left out
		if filepath.Base(path) == name {
			found = path
			return filepath.SkipAll
		}
		return nil
	})
	return found
}
