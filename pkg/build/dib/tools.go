package dib

import (
	"os"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/build/pen"
)

// disk-image-create binds its disk to a loop device and maps the partitions with kpartx. Neither ends with it: after a
// kill both stay in the kernel, and with them the disk's space. kpartx also needs the device mapper, which not every
// kernel has. So the tool finds these four programs first in its PATH, and no others of their names.

// losetupScript ties a loop device to the pen: a process holds the device open while the real losetup asks to free it,
// which the kernel then does with the last user (LOOP_CLR_FD on a busy device, loop(4)). That process ends with `-d`,
// or with the pen.
const losetupScript = `#!/bin/sh
real=/usr/sbin/losetup
[ -x $real ] || real=/sbin/losetup
keep=` + pen.Work + `/loops
mkdir -p $keep
case " $* " in
*" -d "*)
	for dev; do :; done
	name=${dev##*/}
	[ -e $keep/$name ] || exec $real "$@"
	sync "$dev"
	pid=$(cat $keep/$name)
	rm -f $keep/$name
	kill -9 $pid
	tries=0
	while [ -e /sys/block/$name/loop/backing_file ] && [ $tries -lt 500 ]; do
		sleep 0.02
		tries=$((tries + 1))
	done
	;;
*" --show "*)
	dev=$($real "$@") || exit
	sleep infinity 9<>"$dev" </dev/null >/dev/null 2>&1 &
	echo $! >$keep/${dev##*/}
	# The holder must have opened it before the device is given up.
	while ! readlink /proc/$!/fd/9 >/dev/null 2>&1; do
		kill -0 $! || exit 1
		sleep 0.02
	done
	$real -d "$dev" || exit
	echo "$dev"
	;;
*) exec $real "$@" ;;
esac
`

// kpartxScript maps partitions by loop devices over the loop device, and names them as kpartx does: by nodes, no links.
// A file system that was mounted by the name /dev/loop1 makes grub-mkconfig believe that the system is in a file on
// another disk, and the image does not boot.
const kpartxScript = `#!/bin/sh
for dev; do :; done
name=${dev##*/}
keep=` + pen.Work + `/loops
case $1 in
-d*)
	for node in /dev/mapper/${name}p*; do
		[ -b "$node" ] || continue
		rm "$node"
		losetup -d "$(cat "$keep/map.${node##*/}")" || exit
	done
	;;
*)
	sfdisk --dump "$dev" | sed -n 's/^[^ ]*p\([0-9]*\) : start= *\([0-9]*\), size= *\([0-9]*\),.*/\1 \2 \3/p' >/tmp/kpartx.$$
	while read -r number start size; do
		part=$(losetup --show -f -o $((start * 512)) --sizelimit $((size * 512)) "$dev") || exit
		mknod "/dev/mapper/${name}p$number" b $(stat -c '0x%t 0x%T' "$part") || exit
		echo "$part" >"$keep/map.${name}p$number"
		echo "add map ${name}p$number"
	done </tmp/kpartx.$$
	rm /tmp/kpartx.$$
	;;
esac
`

// dmsetupScript: there is nothing of the device mapper's.
const dmsetupScript = "#!/bin/sh\nexit 0\n"

// sudoScript: the tool is root already. The real one would give it another PATH, and is not on every worker.
const sudoScript = `#!/bin/sh
while :; do
	case $1 in
	-u | -g) shift 2 ;;
	--)
		shift
		break
		;;
	-*) shift ;;
	*=*)
		export "$1"
		shift
		;;
	*) break ;;
	esac
done
exec "$@"
`

func layTools(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"losetup": losetupScript, "kpartx": kpartxScript, "dmsetup": dmsetupScript, "sudo": sudoScript} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}
