# plain.sh WORK ORIGINAL OUTPUT SOURCES
# What every tool without Kiln's methods has to do: convert, mount, dist-upgrade in a chroot, convert back.
work=$1 original=$2 out=$3 sources=$4
mkdir -p "$work/root"
qemu-img convert -f qcow2 -O raw "$original" "$work/disk.raw"
unshare --mount --propagation private sh -euc '
	work=$1 root=$1/root dev=$1/dev
	loop=$(losetup -f --show -o 2097152 "$work/disk.raw")
	trap "losetup -d $loop" EXIT
	# update-grub makes no menu for a loop device: here it has the name that a virtual machine would give it.
	mkdir -p "$dev"; mount -t tmpfs tmpfs "$dev"
	cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$dev/"
	ln -s /proc/self/fd "$dev/fd"; mkdir "$dev/shm" "$dev/pts"
	mknod "$dev/vda2" b 7 "${loop#/dev/loop}"
	mount --bind "$dev" /dev
	mount /dev/vda2 "$root"
	mount --bind /dev "$root/dev"; mount -t proc proc "$root/proc"; mount -t sysfs sysfs "$root/sys"
	mount -t tmpfs tmpfs "$root/run"; mount -t tmpfs tmpfs "$root/tmp"
	mkdir -p "$root/$work"; touch "$root/$work/disk.raw" # grub-probe asks what is behind the loop device
	cp "$root/etc/apt/sources.list" "$work/sources.before" 2>/dev/null || : >"$work/sources.before"
	printf "%s\n" "$2" >"$root/etc/apt/sources.list"
	printf "#!/bin/sh\nexit 101\n" >"$root/usr/sbin/policy-rc.d"; chmod 755 "$root/usr/sbin/policy-rc.d"
	chroot "$root" dpkg-query -W | sort >"$work/packages.before"
	chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q update
	chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confold dist-upgrade
	chroot "$root" apt-get clean
	rm -f "$root/usr/sbin/policy-rc.d"; rm -rf "$root"/var/lib/apt/lists/*
	cp "$work/sources.before" "$root/etc/apt/sources.list"
	chroot "$root" dpkg-query -W | sort >"$work/packages"
	rm -rf "$root/${work#/}"
	umount "$root/tmp" "$root/run" "$root/sys" "$root/proc" "$root/dev" "$root"
	umount /dev' sh "$work" "$sources" >&2
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$out"
comm -13 "$work/packages.before" "$work/packages" | wc -l >&3
rm -f "$work/disk.raw"
