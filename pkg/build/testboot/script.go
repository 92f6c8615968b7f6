package testboot

import (
	"encoding/base64"
	"fmt"
	"math"
	"strings"
)

// scriptHead runs inside the guest, started by cloud-init's last stage. It moves out of cloud-init's way first: while
// it is waited for, cloud-init cannot finish. POSIX sh and coreutils, as any image with cloud-init has them.
//
// A report is lines `@kiln:NONCE:KIND:INDEX:PART:PARTS:BASE64:SUM@`. The kernel and getty write to the same line, so each has a
// checksum, and all of them come three times.
const scriptHead = `#!/bin/sh
if [ "${1-}" != run ]; then
	systemd-run --quiet --no-block --collect --unit=kiln-boot-test /bin/sh "$0" run 2>/dev/null && exit 0
	setsid /bin/sh "$0" run </dev/null >/dev/null 2>&1 &
	exit 0
fi
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /
dir=$(mktemp -d /var/tmp/kiln-test.XXXXXX) || dir=$(mktemp -d /run/kiln-test.XXXXXX)
` + scriptFrame + `run() {
	echo | frame start $1
	from=$(cut -d' ' -f1 /proc/uptime)
	timeout -k 10 $2 /bin/sh -e $dir/test$1 >$dir/out 2>&1 </dev/null
	code=$?
	{ echo "$code $from $(cut -d' ' -f1 /proc/uptime)"; tail -c 3000 $dir/out; } | frame test $1
}
`

// scriptFrame finds the console and defines frame KIND INDEX. It needs the folder $dir, and $nonce.
const scriptFrame = `console=/dev/console
for c in /dev/ttyS0 /dev/ttyAMA0; do
	if [ -c $c ] && printf '\n' 2>/dev/null >$c; then console=$c; break; fi
done
frame() {
	base64 | tr -d '\n' | fold -w 160 >$dir/data
	echo >>$dir/data
	parts=$(grep -c . $dir/data)
	[ "$parts" -gt 0 ] || { parts=1; echo >$dir/data; }
	part=0
	while [ $part -lt $parts ]; do
		part=$((part + 1))
		IFS= read -r data || data=
		text="$1:$2:$part:$parts:$data"
		sum=$(printf %s "$text" | sha256sum | cut -c1-8)
		echo "@kiln:$nonce:$text:$sum@"
	done <$dir/data >$dir/frame
	cat $dir/frame >>$dir/all
	{ echo; cat $dir/frame; } >$console
}
`

// scriptWait reports that the system is up: cloud-init has ended, and systemd has nothing more to start.
const scriptWait = `echo | frame hello 0
timeout 600 cloud-init status --wait --long >$dir/long 2>&1
{ head -c 2000 $dir/long; echo; echo @stages; head -c 4000 /run/cloud-init/status.json; } >$dir/status 2>/dev/null
frame status 0 <$dir/status
if [ -d /run/systemd/system ]; then
	{ timeout 120 systemctl is-system-running --wait
	systemctl list-units --failed --plain --no-legend | cut -c1-200 | head -n 10; } 2>&1 | frame system 0
fi
`

const scriptEnd = `echo | frame end 0
for again in 1 2; do
	sleep 1
	{ echo; cat $dir/all; } >$console
done
rm -rf $dir
`

// UserData is the script for cloud-init.
func (p Plan) UserData() []byte {
	var b strings.Builder
	b.WriteString(scriptHead)
	fmt.Fprintf(&b, "nonce=%s\n%s", p.Nonce, scriptWait)
	for i, t := range p.Tests {
		text := base64.StdEncoding.EncodeToString([]byte(t.Text))
		fmt.Fprintf(&b, "base64 -d >$dir/test%d <<'E'\n", i)
		for len(text) > 76 {
			b.WriteString(text[:76] + "\n")
			text = text[76:]
		}
		fmt.Fprintf(&b, "%s\nE\nrun %d %d\n", text, i, int(math.Ceil(t.Timeout.Seconds())))
	}
	b.WriteString(scriptEnd)
	return []byte(b.String())
}
