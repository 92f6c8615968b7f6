package offline

import (
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
)

// servers are the units that maintainer scripts talk to (the commands of class data in pkg/upgrade/scripts). The boot has no
// other service than what sysinit.target needs; of these, those are started that the image itself would start, and D-Bus.
var servers = []string{
	"dbus.socket", "mariadb.service", "mysql.service", "postgresql.service", "slapd.service", "redis-server.service", "mongod.service", "mongodb.service", "rabbitmq-server.service",
	"containerd.service", "docker.service", "libvirtd.service", "openvswitch-switch.service", "etcd.service", "lxd.service",
}

// guestScript makes the same changes as apt does offline, with the same options and stubs, and from a repository of the
// packages alone. Everything that runs longer than the script because of it is stopped before the clock is read for the second time,
// so that a server's data is whole and belongs to the time between.
func (r *run) guestScript() string {
	apt := r.aptCommand(true, "dist-upgrade")
	for i, word := range apt {
		apt[i] = quoted(word)
	}
	return strings.NewReplacer(
		"@FILES@", build.GuestFiles, "@CONTROL@", controlInside, "@STOCK@", stockInside, "@UCF@", ucfVariable(r.req.Policy),
		"@SERVERS@", strings.Join(servers, " "), "@APT@", strings.Join(apt, " "),
	).Replace(guestText)
}

// quoted is a word for the shell.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// guestText is that of guestScript. File systems note times of the kernel's last tick, which may be a moment ago: hence the pauses.
const guestText = `
export DEBIAN_FRONTEND=noninteractive DEBIAN_PRIORITY=critical NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none @UCF@
running() { systemctl list-units --type=service --state=running --plain --no-legend --no-pager | cut -d' ' -f1 | sort; }
mkdir -p @CONTROL@/lists/partial @CONTROL@/cache/archives/partial @CONTROL@/deferred
cp -r @FILES@/control/. @CONTROL@/ && ln -s @FILES@/packages @STOCK@
ln -s @STOCK@/*.deb @CONTROL@/cache/archives/ # the index has no checksums of what was checked before
running >$dir/before
sleep 1
from=$(date +%s%N)
for unit in @SERVERS@; do
	if systemctl --quiet is-enabled $unit 2>/dev/null; then
		echo "starting $unit for the maintainer scripts" >$console
		timeout 180 systemctl start $unit >$console 2>&1
	fi
done
{ sh @CONTROL@/upgrade @APT@ 2>&1 </dev/null; echo $? >$dir/code; } | tee $dir/out >$console
running >$dir/after
comm -13 $dir/before $dir/after | while read -r unit; do timeout 120 systemctl stop "$unit" >$console 2>&1 </dev/null; done
sync
sleep 1
to=$(date +%s%N)
tail -c 6000 $dir/out | report log
for note in initramfs grub; do
	[ ! -e @CONTROL@/deferred/$note ] || tail -c 6000 @CONTROL@/deferred/$note | report $note
done
echo "$(cat $dir/code) $from $to" | report result
`
