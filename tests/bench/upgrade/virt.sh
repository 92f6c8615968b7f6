# virt.sh WORK IMAGE SOURCES ACCELERATOR
# libguestfs' tool works on the image in place. Its own small machine needs a kernel: the host's, or the image's where the host has none.
work=$1 image=$2 sources=$3 accelerator=$4
port=${http_proxy##*:}
export LIBGUESTFS_BACKEND=direct TMPDIR="$work"
[ "$accelerator" = kvm ] || export LIBGUESTFS_BACKEND_SETTINGS=force_tcg
if ! ls /boot/vmlinuz-* >/dev/null 2>&1; then
	qemu-img convert -f qcow2 -O raw "$image" "$work/kernel.raw"
	disk="$work/kernel.raw?offset=2097152"
	version=$(debugfs -R "ls -p /boot" "$disk" | tr / '\n' | sed -n 's/^vmlinuz-//p' | head -n 1)
	rm -rf "$work/modules"; mkdir "$work/modules"
	debugfs -R "rdump /usr/lib/modules/$version $work/modules" "$disk" >&2
	debugfs -R "dump /boot/vmlinuz-$version $work/vmlinuz" "$disk" >&2
	rm "$work/kernel.raw"
	mkdir -p /lib/modules # supermin looks at it, whatever its environment says
	export SUPERMIN_KERNEL="$work/vmlinuz" SUPERMIN_MODULES="$work/modules/$version" SUPERMIN_KERNEL_VERSION="$version"
fi
timeout 900 virt-filesystems -a "$image" >&2 # makes its machine, once
began=$(date +%s%3N)
# 169.254.2.2 is what its guests call this machine (guestfs(3), NETWORK).
timeout 3600 virt-customize -a "$image" --write "/etc/apt/sources.list:$sources
" --write "/etc/apt/apt.conf.d/99bench:Acquire::http::Proxy \"http://169.254.2.2:$port\";
" --update >&2
echo "$(($(date +%s%3N) - began))" >&3
