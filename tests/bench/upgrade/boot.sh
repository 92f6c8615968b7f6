# boot.sh WORK ORIGINAL SOURCES ACCELERATOR
# The upgrade as it is done by who has no tool: boot a copy, dist-upgrade in it, shut it down. What starts it is put in beside.
work=$1 original=$2 sources=$3 accelerator=$4
port=${http_proxy##*:}
qemu-img convert -f qcow2 -O raw "$original" "$work/disk.raw"
cat >"$work/bench.sh" <<SCRIPT
#!/bin/sh
exec >/dev/ttyS0 2>&1
set -eux
card=\$(ls /sys/class/net | grep -v '^lo\$' | head -n 1)
ip link set "\$card" up
ip address replace 10.0.2.15/24 dev "\$card"
cp /bench.list /etc/apt/sources.list
dpkg-query -W | sort >/root/before
export DEBIAN_FRONTEND=noninteractive http_proxy=http://10.0.2.2:$port
apt-get -q update
apt-get -q -y -o Dpkg::Options::=--force-confold dist-upgrade
apt-get clean
echo "bench-changed \$(dpkg-query -W | sort | comm -13 /root/before - | wc -l)"
SCRIPT
printf "%s\n" "$sources" >"$work/bench.list"
cat >"$work/bench.service" <<UNIT
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /bench.sh
ExecStopPost=/bin/systemctl poweroff --no-block
UNIT
debugfs -w -f - "$work/disk.raw?offset=2097152" >&2 <<COMMANDS
write $work/bench.sh /bench.sh
write $work/bench.list /bench.list
write $work/bench.service /etc/systemd/system/bench.service
symlink /etc/systemd/system/multi-user.target.wants/bench.service /etc/systemd/system/bench.service
COMMANDS
qemu-system-x86_64 -accel "$accelerator" -cpu max -smp 2 -m 2048 -display none -monitor none -no-reboot \
	-nic user,model=virtio -drive "file=$work/disk.raw,format=raw,if=virtio,cache=unsafe" -serial "file:$work/console" >&2
changed=$(sed -n 's/\r$//; s/^bench-changed //p' "$work/console")
[ -n "$changed" ] || { tail -n 40 "$work/console" >&2; exit 1; }
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$work/out.qcow2"
echo "$changed" >&3
