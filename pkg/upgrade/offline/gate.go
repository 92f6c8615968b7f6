package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

func failed(format string, args ...any) error {
	return errs.New(errs.Invalid, CodeGate, "the upgraded image was thrown away: "+format, args...)
}

// gate refuses an image that would not boot or whose packages are not whole.
func (r *run) gate(ctx context.Context, root *os.Root) error {
	var audit bytes.Buffer
	err := r.inImage(ctx, io.MultiWriter(r.log, &audit), sandbox.Spec{Args: []string{"/usr/bin/dpkg", "--audit"}})
	if text := strings.TrimSpace(audit.String()); err != nil || text != "" {
		return failed("dpkg --audit: %v %.500q", err, text)
	}
	if err := r.tool(ctx, sandbox.Spec{Args: aptGet("check")}); err != nil {
		return failed("apt-get check: %v", err)
	}
	if exists(root, "usr/sbin/update-initramfs.kiln") || exists(root, "usr/sbin/update-grub.kiln") {
		return failed("a diversion of Kiln stayed in it")
	}
	kernels, initrds, err := bootFiles(root)
	if err != nil {
		return err
	}
	if len(r.facts.Kernels) > 0 && len(kernels) == 0 {
		return failed("no kernel is left in /boot")
	}
	if len(kernels) == 0 {
		return nil
	}
	newest := kernels[len(kernels)-1]
	r.report.KernelTo = newest
	if n := len(r.facts.Kernels); n > 0 {
		r.report.KernelFrom = r.facts.Kernels[n-1]
	}
	for _, v := range kernels {
		if len(r.facts.Initrds) > 0 && !slices.Contains(initrds, v) {
			return failed("the kernel %s has no initrd", v)
		}
	}
	if r.facts.BootLoader != "grub" {
		return nil
	}
	menu, err := readFile(root, "boot/grub/grub.cfg", 16<<20)
	if err != nil {
		return failed("its boot menu cannot be read: %v", err)
	}
	return checkMenu(string(menu), newest, r.facts.RootUUID)
}

// checkMenu holds the boot menu against the disk: a line that boots the newest kernel, and no line
// that names the root by a device, which is another one wherever the image starts.
func checkMenu(menu, kernel, uuid string) error {
	found := false
	for line := range strings.SplitSeq(menu, "\n") {
		words := strings.Fields(line)
		if len(words) < 2 || !strings.HasPrefix(words[0], "linux") {
			continue
		}
		for _, w := range words[2:] {
			value, ok := strings.CutPrefix(w, "root=")
			if ok && strings.HasPrefix(value, "/dev/") && !strings.HasPrefix(value, "/dev/disk/by-") {
				return failed("the boot menu says root=%s, which is no name that stays", value)
			}
			if ok && strings.HasPrefix(value, "UUID=") && value != "UUID="+uuid {
				return failed("the boot menu says root=%s, but the root is %s", value, uuid)
			}
		}
		if strings.HasSuffix(words[1], "/vmlinuz-"+kernel) {
			found = found || slices.ContainsFunc(words[2:], func(w string) bool { return strings.HasPrefix(w, "root=") })
		}
	}
	if !found {
		return failed("the boot menu does not name the newest kernel %s", kernel)
	}
	return nil
}

// trim tells the copy which blocks are free, so that they become holes: what packages deleted does
// not travel to the users of the new image, and it is smaller. The kernel does it only with the journal.
func (r *run) trim(ctx context.Context) error {
	if err := r.mount.Unmount(ctx); err != nil {
		return err
	}
	if err := r.mountWith(ctx, withJournal); err != nil {
		return err
	}
	return r.inRoot(trimRoot)
}

func trimRoot(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeGate, "the image's file system cannot be trimmed")
	}
	defer func() { _ = dir.Close() }()
	const fitrim = 0xc0185879 // _IOWR('X', 121, struct fstrim_range), linux/fs.h
	whole := struct{ start, length, least uint64 }{length: ^uint64(0)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&whole))) //nolint:gosec // an ioctl takes a pointer
	if errno != 0 {
		return errs.Wrap(errno, errs.Internal, CodeGate, "the image's file system cannot be trimmed")
	}
	return nil
}

// checkFileSystem runs e2fsck on the unmounted copy, without changing it.
func (r *run) checkFileSystem(ctx context.Context) error {
	if !strings.HasPrefix(r.facts.FileSystem, "ext") {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, min(r.cfg.Timeout, 30*time.Minute))
	defer stop()
	cmd := exec.CommandContext(ctx, "e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", r.raw, r.root.Start))
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	if path, err := exec.LookPath("/usr/sbin/e2fsck"); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	var out tailBuffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(r.log, &out), io.MultiWriter(r.log, &out)
	cmd.WaitDelay = 5 * time.Second
	err := disk.StartTied(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return failed("its file system has errors: %.500q", out.String())
	}
	return errs.Wrap(err, errs.Unavailable, CodeGate, "e2fsck cannot be started; install e2fsprogs")
}
