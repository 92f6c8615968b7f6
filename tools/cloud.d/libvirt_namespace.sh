#!/bin/bash
# libvirt_namespace.sh FOLDER HOSTNAME DAEMON: runs inside new mount and UTS namespaces and becomes the daemon.
set -euo pipefail

folder=$1 name=$2 daemon=$3

# Empty mount points on the host are all that the host ever sees of this.
mkdir -p /etc/libvirt /var/lib/libvirt /run/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$folder/etc" /etc/libvirt
mount --bind "$folder/lib" /var/lib/libvirt
mount --bind "$folder/run" /run/libvirt
mount --bind "$folder/cache" /var/cache/libvirt
mount --bind "$folder/log" /var/log/libvirt
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/group" /etc/group
# libvirt reports the host name as the hypervisor's: a name that is the same on every machine.
hostname "$name"
exec "$daemon" --config "/etc/libvirt/$daemon.conf" --pid-file "/run/libvirt/$daemon.own.pid"
