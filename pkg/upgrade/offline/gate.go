package offline

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

func failed(format string, args ...any) error {
	return errs.New(errs.Invalid, CodeGate, "the upgraded image was thrown away: "+format, args...)
}

// before is how the image was before its packages were changed.
type before struct {
	identity  identity
	conffiles map[string]conffile
	tree      tree
	menu      string // GRUB's; "" where there is none
}

// remember reads what the gate compares with.
func (r *run) remember(ctx context.Context, root *os.Root) (b before, err error) {
	if b.identity, err = keepIdentity(root); err != nil {
		return b, err
	}
	if b.conffiles, err = readConffiles(root); err != nil {
		return b, err
	}
	menu, err := readFile(root, grubMenu, maxMenu)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return b, cannotRead(err, grubMenu)
	}
	b.menu = string(menu)
	b.tree, err = lookAt(ctx, root)
	return b, err
}

const (
	grubMenu = "boot/grub/grub.cfg"
	maxMenu  = 16 << 20 // bytes
)

// gate refuses an image that would not boot, whose packages are not whole or not those of the plan, or in which scripts
// left what they must not leave.
func (r *run) gate(ctx context.Context, root *os.Root, old before) error {
	if err := checkFolders(root); err != nil {
		return failed("%v", err)
	}
	if err := r.checkPackages(ctx, root); err != nil {
		return err
	}
	if err := r.checkBoot(root, old.menu); err != nil {
		return err
	}
	now, err := lookAt(ctx, root)
	if err != nil {
		return err
	}
	if err := r.reportConffiles(root, old.conffiles, old.tree, now); err != nil {
		return err
	}
	return r.checkFiles(ctx, root, old.tree, now)
}

// checkPackages asks dpkg and apt, and compares with the plan.
func (r *run) checkPackages(ctx context.Context, root *os.Root) error {
	var said sandbox.Tail
	both := []string{"/bin/sh", "-c", `audit=$(dpkg --audit 2>&1) && [ -z "$audit" ] || { echo "dpkg --audit: $audit"; exit 1; }; exec "$@"`, "audit"}
	if err := r.inImage(ctx, io.MultiWriter(r.log, &said), sandbox.Spec{Args: append(both, r.aptGet("check")...)}); err != nil {
		return failed("dpkg --audit or apt-get check: %v %.500q", err, strings.TrimSpace(said.String()))
	}
	if slices.ContainsFunc(divertedPrograms, func(name string) bool { return exists(root, "usr/sbin/"+name+".kiln") }) {
		return failed("a diversion of Kiln stayed in it")
	}
	after, err := readStatus(root)
	if err != nil {
		return err
	}
	return r.plan.check(r.before, after)
}

// checkBoot: every kernel has its initial RAM disk where the image uses them, and its line in the boot menu unless it
// had none before either.
func (r *run) checkBoot(root *os.Root, oldMenu string) error {
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
	menu, err := readFile(root, grubMenu, maxMenu)
	if err != nil {
		return failed("its boot menu cannot be read: %v", err)
	}
	for _, v := range kernels {
		if v != newest && slices.Contains(r.facts.Kernels, v) && !strings.Contains(oldMenu, "/vmlinuz-"+v) {
			continue
		}
		if err := checkMenu(string(menu), v, r.facts.RootUUID); err != nil {
			return err
		}
	}
	return nil
}

// checkMenu holds the boot menu against the disk: a line that boots the kernel, and no line
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
		return failed("the boot menu does not name the kernel %s", kernel)
	}
	return nil
}

// trim tells the copy which blocks are free, so that they become holes: what packages deleted does
// not travel to the users of the new image, and it is smaller. The kernel does it only with the journal.
func (r *run) trim(ctx context.Context) error {
	if err := r.mount.Unmount(ctx); err != nil {
		return err
	}
	if err := r.mountWith(ctx, r.withJournal()); err != nil {
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
