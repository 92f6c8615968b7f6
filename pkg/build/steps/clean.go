package steps

import (
	"fmt"

	"github.com/kiln-cloud/kiln/pkg/deb"
)

// Clean removes what is one machine's own, cached or logged.
const Clean = `apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /var/log/btmp /var/log/lastlog /var/log/wtmp
rm -f /var/cache/ldconfig/aux-cache /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /etc/ssh/ssh_host_*_key*
: >/etc/machine-id
chmod 0444 /etc/machine-id`

// Network gives an image without any tool for its network DHCP on every wired interface. cloud-init is none: it writes
// the files of one.
const Network = `if ! command -v ifup >/dev/null && ! command -v netplan >/dev/null && ! command -v nmcli >/dev/null &&
	! ls /etc/systemd/network/*.network >/dev/null 2>&1; then
	mkdir -p /etc/systemd/network
	printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >/etc/systemd/network/80-dhcp.network
	systemctl enable systemd-networkd.service
	systemctl disable systemd-networkd-wait-online.service
fi`

// DebSources is the image's own /etc/apt/sources.list.d/debian.sources.
func DebSources(m deb.Mirrors, release string) string {
	security := m.Security
	if security == "" {
		security = m.Main
	}
	const block = "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
	return fmt.Sprintf(block, m.Main, release+" "+release+"-updates") + fmt.Sprintf(block, security, release+"-security")
}
