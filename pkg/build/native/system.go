package native

import (
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// layBase writes what Debian's packages expect to find or ask for: before they are configured, so that the first
// initramfs and the first grub.cfg are right already.
func (m *making) layBase() error {
	root, err := m.root.Root()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // files were closed one by one
	args := strings.TrimSpace("console=tty0 console=ttyS0,115200 " + m.recipe.Kernel.Arguments)
	for _, f := range []recipe.File{
		{Path: "/etc/hostname", Content: "localhost\n"},
		{Path: "/etc/hosts", Content: "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
		{Path: "/etc/resolv.conf", Content: ""},
		{Path: "/etc/fstab", Content: m.fstab()},
		{Path: "/etc/default/grub", Content: `# Written when the image was built. update-grub reads it at every kernel upgrade.
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_TIMEOUT_STYLE=hidden
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="` + args + `"
GRUB_TERMINAL=console
GRUB_DISABLE_OS_PROBER=true
`},
		// The one locale that is always there. cloud-init takes it over; without it, it asks for one that is not generated.
		{Path: "/etc/default/locale", Content: "LANG=C.UTF-8\n"},
		// There is no swap to resume from: without this the initramfs looks for it.
		{Path: "/etc/initramfs-tools/conf.d/resume", Content: "RESUME=none\n"},
		{Path: "/etc/kernel-img.conf", Content: "do_symlinks = no\n"},
	} {
		f.Mode = "0644"
		if err := m.lay(root, recipe.Step{}, f); err != nil {
			return errs.Wrap(err, errs.Internal, CodeBootstrap, "The file %s cannot be written.", f.Path)
		}
		if err := root.Chmod(strings.TrimPrefix(f.Path, "/"), 0o644); err != nil {
			return errs.Wrap(err, errs.Internal, CodeBootstrap, "The file %s cannot be written.", f.Path)
		}
	}
	return nil
}
