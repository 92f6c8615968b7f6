# images.sh WORK FOLDER MIRROR RELEASE PACKAGES SETUP VARIANT...
# One Debian as it was when its release was last pointed, and a variant of it for each further argument: "name:package,package".
work=$1 folder=$2 mirror=$3 release=$4 packages=$5 setup=$6
shift 6
mkdir -p "$work" "$folder"
base=$work/base
# Nothing is missing: nothing to do.
missing=
for variant; do [ -e "$folder/${variant%%:*}.qcow2" ] || missing=1; done
[ -z "$missing" ] || [ -e "$base.done" ] || {
	rm -rf "$base"
	mmdebstrap --mode=root --variant=essential --include="$packages" --aptopt='APT::Install-Recommends "false"' \
		--aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io "$release" "$base" "deb [signed-by=$KEYRING] $mirror $release main"
	rm -f "$base"/etc/ssh/ssh_host_* "$base/etc/resolv.conf"
	: >"$base/etc/machine-id"
	printf 'GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"\n' >"$base/etc/default/grub"
	sh -euc "$setup" sh "$base"
	touch "$base.done"
}
for variant; do
	name=${variant%%:*} more=$(echo "${variant#*:}" | tr , ' ')
	[ -e "$folder/$name.qcow2" ] && continue
	tree=$work/$name
	rm -rf "$tree"
	cp -a "$base" "$tree"
	if [ -n "$more" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
		chmod 755 "$tree/usr/sbin/policy-rc.d"
		# A mount namespace of its own: nothing stays mounted, whatever happens.
		unshare --mount --propagation private sh -euc '
			tree=$1; shift
			mount --bind /dev "$tree/dev"; mount -t proc proc "$tree/proc"
			chroot "$tree" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
			chroot "$tree" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io install "$@"
			chroot "$tree" apt-get clean' sh "$tree" $more >&2
		rm -f "$tree/usr/sbin/policy-rc.d" "$tree"/etc/ssh/ssh_host_*
		: >"$tree/etc/machine-id"
	fi
	echo "an image called $name" >"$tree/etc/motd"
	make_disk "$tree" "$work/disk.raw" "$work"
	rm -rf "$tree"
	qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$folder/$name.part"
	mv "$folder/$name.part" "$folder/$name.qcow2"
	rm -f "$work/disk.raw"
done
