# make_disk TREE RAW WORK
make_disk() {
	tree=$1 raw=$2 at=$3
	uuid=$(cat /proc/sys/kernel/random/uuid)
	echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$tree/etc/fstab"
	mkdir -p "$tree/boot/grub/i386-pc"
	cp "$tree"/usr/lib/grub/i386-pc/*.mod "$tree"/usr/lib/grub/i386-pc/*.lst "$tree/boot/grub/i386-pc/"
	kernel=$(basename "$tree"/boot/vmlinuz-*)
	cat >"$tree/boot/grub/grub.cfg" <<CFG
linux /boot/$kernel root=UUID=$uuid console=tty0 console=ttyS0,115200
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
CFG
	printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$uuid" >"$at/early.cfg"
	grub-mkimage -d "$tree/usr/lib/grub/i386-pc" -O i386-pc -c "$at/early.cfg" -p /boot/grub -o "$at/core.img" \
		biosdisk part_gpt part_msdos ext2 normal configfile search search_fs_uuid linux echo test ls serial terminal
	cp "$tree/usr/lib/grub/i386-pc/boot.img" "$at/boot.img"
	rm -f "$raw"
	truncate -s 4G "$raw"
	printf 'label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\nstart=4096,type=L\n' | sfdisk -q "$raw"
	mke2fs -q -t ext4 -F -U "$uuid" -O ^metadata_csum_seed,^orphan_file -E offset=2097152,lazy_itable_init=0 -d "$tree" "$raw" 4190208k
	# Where boot.img finds core.img, and core.img the rest of itself (grub-bios-setup's work, which wants a device).
	printf '\000\010\000\000\000\000\000\000' | dd of="$at/boot.img" bs=1 seek=92 conv=notrunc status=none
	printf '\220\220' | dd of="$at/boot.img" bs=1 seek=102 conv=notrunc status=none
	sectors=$((($(stat -c %s "$at/core.img") - 1) / 512))
	printf '\001\010\000\000\000\000\000\000'"\\$(printf %03o $((sectors & 255)))\\$(printf %03o $((sectors >> 8)))"'\040\010' |
		dd of="$at/core.img" bs=1 seek=500 conv=notrunc status=none
	dd if="$at/boot.img" of="$raw" bs=440 count=1 conv=notrunc status=none
	dd if="$at/core.img" of="$raw" bs=512 seek=2048 conv=notrunc status=none
}
