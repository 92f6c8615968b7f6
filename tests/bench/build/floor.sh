# floor.sh WORK OUTPUT MIRROR RELEASE PACKAGES
work=$1 out=$2 mirror=$3 release=$4 packages=$5
rm -rf "$work/tree" "$work/disk.raw"
begin=$(date +%s.%N)
mmdebstrap --mode=root --variant=essential --include="$packages" --aptopt='APT::Install-Recommends "false"' \
	--aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io "$release" "$work/tree" "deb [signed-by=$KEYRING] $mirror $release main"
packed=$(date +%s.%N)
uuid=$(cat /proc/sys/kernel/random/uuid)
echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$work/tree/etc/fstab"
mkdir -p "$work/tree/boot/grub/i386-pc"
cp "$work"/tree/usr/lib/grub/i386-pc/*.mod "$work"/tree/usr/lib/grub/i386-pc/*.lst "$work/tree/boot/grub/i386-pc/"
kernel=$(basename "$work"/tree/boot/vmlinuz-*)
cat >"$work/tree/boot/grub/grub.cfg" <<CFG
linux /boot/$kernel root=UUID=$uuid console=tty0 console=ttyS0,115200
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
CFG
printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$uuid" >"$work/early.cfg"
grub-mkimage -d "$work/tree/usr/lib/grub/i386-pc" -O i386-pc -c "$work/early.cfg" -p /boot/grub -o "$work/core.img" \
	biosdisk part_gpt part_msdos ext2 normal configfile search search_fs_uuid linux echo test ls serial terminal
cp "$work/tree/usr/lib/grub/i386-pc/boot.img" "$work/boot.img"
truncate -s 4G "$work/disk.raw"
printf 'label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\nstart=4096,type=L\n' | sfdisk -q "$work/disk.raw"
mke2fs -q -t ext4 -F -U "$uuid" -O ^metadata_csum_seed,^orphan_file -E offset=2097152,lazy_itable_init=0 -d "$work/tree" "$work/disk.raw" 4190208k
# Where boot.img finds core.img, and core.img the rest of itself (grub-bios-setup's work, which wants a device).
printf '\000\010\000\000\000\000\000\000' | dd of="$work/boot.img" bs=1 seek=92 conv=notrunc status=none
printf '\220\220' | dd of="$work/boot.img" bs=1 seek=102 conv=notrunc status=none
sectors=$((($(stat -c %s "$work/core.img") - 1) / 512))
printf '\001\010\000\000\000\000\000\000'"\\$(printf %03o $((sectors & 255)))\\$(printf %03o $((sectors >> 8)))"'\040\010' |
	dd of="$work/core.img" bs=1 seek=500 conv=notrunc status=none
dd if="$work/boot.img" of="$work/disk.raw" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$work/disk.raw" bs=512 seek=2048 conv=notrunc status=none
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$out"
sync "$out"
end=$(date +%s.%N)
echo "mmdebstrap $(awk "BEGIN{printf \"%.1f\", $packed-$begin}") s, disk $(awk "BEGIN{printf \"%.1f\", $end-$packed}") s" >&3
rm -rf "$work/tree" "$work/disk.raw"
