package packer

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// makeKey makes the throw-away key of this build. Its comment is how the line is found again in the guest.
func (m *making) makeKey(ctx context.Context) error {
	err := host(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", m.token, "-f", m.at("key"))
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The build's key cannot be made.")
	}
	raw, err := os.ReadFile(m.at("key.pub"))
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The build's key cannot be read.")
	}
	m.key = strings.TrimSpace(string(raw))
	return nil
}

// userData lets root in with the build's key and does nothing else: of cloud-init's modules only those run that the
// build needs, so that nothing of a first boot (users, sources, locale, host name) gets into the image. Its later
// stages are switched off for this boot: starting Python for nothing takes a slow guest a minute.
func (m *making) userData() string {
	return `#cloud-config
disable_root: false
preserve_hostname: true
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
bootcmd:
  - [sh, -c, "systemctl mask --runtime cloud-config.service cloud-final.service apt-daily.timer apt-daily-upgrade.timer || true"]
  - [sh, -c, "mkdir -p -m 0700 /root/.ssh && printf '%s\\n' '` + m.key + `' >>/root/.ssh/authorized_keys && chmod 0600 /root/.ssh/authorized_keys"]
cloud_init_modules: [bootcmd, growpart, resizefs, ssh]
cloud_config_modules: []
cloud_final_modules: []
`
}

// makeSeeds writes the user data in the two forms that an image may look for: NoCloud, and OpenStack's configuration
// drive for an image whose datasource_list has only what a cloud needs.
func (m *making) makeSeeds(ctx context.Context) error {
	meta := "instance-id: kiln-" + m.id + "\nlocal-hostname: localhost\n"
	openstack := `{"uuid": "kiln-` + m.id + `", "hostname": "localhost", "name": "localhost"}`
	for _, seed := range []struct {
		name, label string
		files       map[string]string
	}{
		{"nocloud", "cidata", map[string]string{"meta-data": meta, "user-data": m.userData()}},
		{"configdrive", "config-2", map[string]string{"openstack/latest/meta_data.json": openstack, "openstack/latest/user_data": m.userData()}},
	} {
		dir := m.at(seed.name)
		for name, text := range seed.files {
			at := filepath.Join(dir, name)
			err := os.MkdirAll(filepath.Dir(at), 0o700)
			if err == nil {
				err = os.WriteFile(at, []byte(text), 0o600)
			}
			if err != nil {
				return errs.Wrap(err, errs.Internal, CodeHost, "The guest's first configuration cannot be written.")
			}
		}
		if err := host(ctx, "genisoimage", "-quiet", "-joliet", "-rock", "-volid", seed.label, "-output", dir+".iso", dir); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "The guest's first configuration cannot be written; install genisoimage.")
		}
	}
	return nil
}

// host runs a small tool of this machine.
func host(ctx context.Context, name string, args ...string) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + pen.Path, "LC_ALL=C.UTF-8"}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = 5 * time.Second
	err := disk.StartTied(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "%s: %s", name, strings.TrimSpace(said.String()))
	}
	return nil
}

// Places in the guest.
const (
	guestSteps  = "/var/tmp/kiln-build"
	guestApt    = "/etc/apt/apt.conf.d/00kiln-build"
	guestPolicy = "/usr/sbin/policy-rc.d"
	guestFinish = "/run/kiln-finish"
	guestProxy  = "http://10.0.2.2:3142" // the pen's loopback, as QEMU's user network shows it
)

// preparation makes the guest ready for the steps: the mirror proxy as apt's only source, no service that starts
// itself, and room for what the recipe asks.
func (m *making) preparation() string {
	release := m.req.Base.Facts.OS.Codename
	script := `set -e
systemctl stop apt-daily.service apt-daily-upgrade.service unattended-upgrades.service 2>/dev/null || true
rm -rf ` + guestSteps + `
mkdir -m 0700 ` + guestSteps + `
tar -C ` + guestSteps + ` -xf ` + guestSteps + `.tar
rm ` + guestSteps + `.tar
printf %s ` + steps.Quote(steps.Sources(m.builder.cfg.Mirrors, release)) + ` >` + guestSteps + `/sources.list
printf %s ` + steps.Quote("Acquire::http::Proxy \""+guestProxy+"\";\nAcquire::https::Proxy \""+guestProxy+"\";\nAcquire::Languages \"none\";\n"+
		"Dir::Etc::SourceList \""+guestSteps+"/sources.list\";\nDir::Etc::SourceParts \"-\";\nAPT::Sandbox::User \"root\";\n") + ` >` + guestApt + `
[ -e ` + guestPolicy + ` ] || printf '#!/bin/sh\n# kiln-build\nexit 101\n' >` + guestPolicy + `
chmod 0755 ` + guestPolicy + `
`
	if m.needsPackages() {
		script += "apt-get -q -y update\n"
	}
	if args := m.recipe.Kernel.Arguments; args != "" {
		script += "mkdir -p /etc/default/grub.d\nprintf '%s\\n' " + steps.Quote(`GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX `+args+`"`) + " >/etc/default/grub.d/60_kiln.cfg\nupdate-grub\n"
	}
	return script
}

// needsPackages: an update of the lists takes a slow guest half a minute. A template may install what it likes.
func (m *making) needsPackages() bool {
	if m.recipe.Builder.Template != "" {
		return true
	}
	for _, s := range m.recipe.Plan {
		if len(s.Packages) > 0 || len(s.Datasources) > 0 {
			return true
		}
	}
	return false
}

// cleaning takes out of the guest what the build brought and what its boot left. What needs the way in to be there
// still is left to the finish, which ends with the power.
func (m *making) cleaning() string {
	return `set -e
rm -f ` + guestApt + `
! grep -q '^# kiln-build$' ` + guestPolicy + ` || rm -f ` + guestPolicy + `
` + steps.Clean + `
cat >` + guestFinish + ` <<'KILN'
set -e
sed -i '/` + m.token + `/d' /root/.ssh/authorized_keys
[ -s /root/.ssh/authorized_keys ] || rm -f /root/.ssh/authorized_keys
rmdir /root/.ssh 2>/dev/null || true
cloud-init clean --logs >/dev/null
rm -rf /var/lib/cloud/* /var/log/cloud-init*.log /run/cloud-init
rm -f /etc/network/interfaces.d/50-cloud-init /etc/netplan/50-cloud-init.yaml /etc/systemd/network/10-cloud-init-*.network /etc/systemd/network/10-cloud-init-*.link
rm -f /var/lib/dhcp/*.leases /root/.bash_history
rm -rf ` + guestSteps + ` /tmp/* /var/tmp/* /var/lib/systemd/timesync/*
systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service 2>/dev/null || true
rm -rf /var/log/journal/* /var/log/wtmp /var/log/lastlog /var/log/btmp
rm -f /var/lib/systemd/random-seed /etc/ssh/ssh_host_*_key*
: >/etc/machine-id
sync
fstrim / || true
sync
KILN
`
}
