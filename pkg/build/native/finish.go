package native

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// cleaning takes away what is one machine's own (machine id, host keys, seeds), cached or logged.
const cleaning = `rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /var/cache/ldconfig/aux-cache
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /etc/ssh/ssh_host_*_key*
: >/etc/machine-id
chmod 0444 /etc/machine-id
`

// finish leaves what a published image should have: apt sources that name the mirror with updates and security, and
// nothing that cleaning takes away.
func (m *making) finish(ctx context.Context) error {
	script := cleaning
	if m.req.Base == nil {
		script = m.sources() + script + network
	}
	if err := m.offline(ctx, script); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeBoot, "The image cannot be cleaned.")
	}
	if err := m.fill(ctx); err != nil {
		return err
	}
	return m.trim(ctx)
}

func (m *making) sources() string {
	var sources strings.Builder
	mirrors := m.builder.cfg.Mirrors
	for _, s := range []struct{ uri, suites string }{
		{mirrors.Main, m.recipe.From.Release + " " + m.recipe.From.Release + "-updates"},
		{mirrors.Security, m.recipe.From.Release + "-security"},
	} {
		fmt.Fprintf(&sources, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n", s.uri, s.suites)
	}
	return "mkdir -p /etc/apt/sources.list.d\nprintf %s " + quote(sources.String()) + " >/etc/apt/sources.list.d/debian.sources\n"
}

// trim makes holes of what is free: deleted files are not to be stored. The kernel does it only with the journal.
func (m *making) trim(ctx context.Context) error {
	if err := m.unmount(ctx); err != nil {
		return err
	}
	if err := m.mount(ctx, journaled); err != nil {
		return err
	}
	if err := m.host(ctx, "fstrim", m.root.Path()); err != nil {
		return errs.Wrap(err, errs.Internal, CodeBoot, "The image's free space cannot be given back.")
	}
	return nil
}

// network gives an image that brings no network tool of its own DHCP on every wired interface. cloud-init is none: it
// writes the files of one.
const network = `if ! dpkg-query -W -f '${Status}\n' ifupdown ifupdown-ng netplan.io network-manager 2>/dev/null | grep -q '^install ok installed' &&
	! ls /etc/systemd/network/*.network >/dev/null 2>&1; then
	printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >/etc/systemd/network/80-dhcp.network
	systemctl enable systemd-networkd.service
	systemctl disable systemd-networkd-wait-online.service
fi
`

func (m *making) convert(ctx context.Context) error {
	raw := disk.Image{Path: m.rawPath(), Format: disk.Raw}
	if m.recipe.Output.Format == disk.Raw {
		// Work folder and output are on one disk as a rule: then nothing is copied.
		if err := os.Rename(raw.Path, m.req.Output); err == nil {
			return disk.SyncFile(m.req.Output)
		}
	}
	return disk.Convert(ctx, raw, disk.Image{Path: m.req.Output, Format: m.recipe.Output.Format}, func(done, total int64) {
		if m.req.Progress != nil {
			m.req.Progress("convert", done, total, "bytes")
		}
	})
}
