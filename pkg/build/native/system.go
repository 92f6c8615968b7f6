package native

import (
	"context"
	"fmt"
	"slices"
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
		{Path: "/etc/fstab", Content: "UUID=" + m.rootUUID + " / ext4 errors=remount-ro 0 1\n"},
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
		// There is no swap to resume from: without this the initramfs looks for it.
		{Path: "/etc/initramfs-tools/conf.d/resume", Content: "RESUME=none\n"},
		{Path: "/etc/kernel-img.conf", Content: "do_symlinks = no\n"},
	} {
		f.Mode = "0644"
		if err := m.lay(root, f); err != nil {
			return errs.Wrap(err, errs.Internal, CodeBootstrap, "The file %s cannot be written.", f.Path)
		}
		if err := root.Chmod(strings.TrimPrefix(f.Path, "/"), 0o644); err != nil {
			return errs.Wrap(err, errs.Internal, CodeBootstrap, "The file %s cannot be written.", f.Path)
		}
	}
	return nil
}

// clean leaves what a published image should have: apt sources that name the mirror with updates and security, and
// nothing that is one machine's own (machine id, host keys, seeds), cached or logged.
func (m *making) clean(ctx context.Context) error {
	var sources strings.Builder
	mirrors := m.builder.cfg.Mirrors
	for _, s := range []struct{ uri, suites string }{
		{mirrors.Main, m.recipe.From.Release + " " + m.recipe.From.Release + "-updates"},
		{mirrors.Security, m.recipe.From.Release + "-security"},
	} {
		fmt.Fprintf(&sources, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n", s.uri, s.suites)
	}
	script := "rm -f /etc/apt/sources.list /etc/apt/apt.conf.d/*mmdebstrap\n" +
		"printf %s " + quote(sources.String()) + " >/etc/apt/sources.list.d/debian.sources\n" +
		`rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /var/cache/ldconfig/aux-cache
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /etc/ssh/ssh_host_*_key*
: >/etc/machine-id
chmod 0444 /etc/machine-id
` + m.network()
	if err := m.offline(ctx, script); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeBoot, "The image cannot be cleaned.")
	}
	return m.trim(ctx)
}

// trim makes holes of what is free: deleted packages are not to be stored. The kernel does it only with the journal.
func (m *making) trim(ctx context.Context) error {
	if err := m.root.Unmount(ctx); err != nil {
		return err
	}
	if err := m.mount(ctx, "noatime"); err != nil {
		return err
	}
	if err := m.host(ctx, "fstrim", m.root.Path()); err != nil {
		return errs.Wrap(err, errs.Internal, CodeBoot, "The image's free space cannot be given back.")
	}
	return nil
}

// network gives an image that brings no network tool of its own DHCP on every wired interface.
func (m *making) network() string {
	for _, name := range []string{"cloud-init", "ifupdown", "ifupdown-ng", "netplan.io", "network-manager"} {
		if slices.Contains(m.recipe.Packages, name) {
			return ""
		}
	}
	return `if ! ls /etc/systemd/network/*.network >/dev/null 2>&1; then
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >/etc/systemd/network/80-dhcp.network
systemctl enable systemd-networkd.service
systemctl disable systemd-networkd-wait-online.service
fi
`
}
