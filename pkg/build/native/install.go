package native

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// base is what every image has beside Debian's essential packages and apt: the rest of Debian's required ones, an
// init, device events, a bus for logind, and what makes the boot files.
var base = []string{"e2fsprogs", "mount", "passwd", "tzdata", "util-linux-extra", "usr-is-merged",
	"systemd-sysv", "udev", "dbus", "initramfs-tools", "zstd"}

// bootPackages come after the kernel, whose hooks would otherwise run update-grub on a tree that is not ready.
// Not grub-pc: it would write to devices at every upgrade. update-grub is in grub2-common.
var bootPackages = []string{"grub2-common", "grub-pc-bin"}

const aptInstall = "apt-get -q -y -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Dpkg::Use-Pty=0 " +
	"-o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confnew install "

// configure installs what bootstrap unpacked, in the sandbox.
func (m *making) configure(ctx context.Context) error {
	if err := m.layBase(); err != nil {
		return err
	}
	err := m.shell(ctx, "dpkg --force-depends --force-unsafe-io --install /var/cache/apt/archives/*.deb && rm -f /var/cache/apt/archives/*.deb")
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeBootstrap, "The base of %s cannot be configured.", m.recipe.From.Release)
	}
	return nil
}

// install adds the base packages, the kernel and the recipe's packages in one run of apt. INITRD=No keeps the
// kernel's hook from building an initramfs that the next step builds anyway.
func (m *making) install(ctx context.Context) error {
	names := slices.Concat(base, []string{m.recipe.Kernel.Package}, m.recipe.Packages)
	script := "export INITRD=No\n" + aptInstall + strings.Join(names, " ") + "\n" + aptInstall + strings.Join(bootPackages, " ")
	if err := m.shell(ctx, script); err != nil {
		kind := errs.KindOf(err)
		return errs.Wrap(err, kind, CodePackages, "The packages cannot be installed.").At(errs.Where{File: m.recipe.Path, Field: "packages"})
	}
	return nil
}

// initramfs builds the one initramfs of the image.
func (m *making) initramfs(ctx context.Context) error {
	if err := m.shell(ctx, "for d in /lib/modules/*; do update-initramfs -c -k ${d##*/}; done"); err != nil {
		return errs.Wrap(err, errs.Internal, CodeBoot, "The initramfs cannot be built.")
	}
	return nil
}

// shell runs lines in the image as root, with the package mirror as the only network.
func (m *making) shell(ctx context.Context, script string, more ...sandbox.Bind) error {
	return m.sandbox(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-e", "-c", script}, Proxy: m.proxy, Binds: more})
}

func (m *making) sandbox(ctx context.Context, spec sandbox.Spec) error {
	spec.Session, spec.Rootfs = m.session, m.root.Path()
	spec.Stdout, spec.Stderr = m.log, m.log
	spec.NoSync = true
	spec.RootDisk = &sandbox.RootDisk{UUID: m.rootUUID}
	spec.Limits = sandbox.Limits{Time: 30 * time.Minute}
	return sandbox.Run(ctx, spec)
}
