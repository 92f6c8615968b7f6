# floor.sh WORK OUTPUT MIRROR RELEASE PACKAGES
work=$1 out=$2 mirror=$3 release=$4 packages=$5
rm -rf "$work/tree" "$work/disk.raw"
begin=$(date +%s.%N)
mmdebstrap --mode=root --variant=essential --include="$packages" --aptopt='APT::Install-Recommends "false"' \
	--aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io "$release" "$work/tree" "deb [signed-by=$KEYRING] $mirror $release main"
packed=$(date +%s.%N)
make_disk "$work/tree" "$work/disk.raw" "$work"
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$out"
sync "$out"
end=$(date +%s.%N)
echo "mmdebstrap $(awk "BEGIN{printf \"%.1f\", $packed-$begin}") s, disk $(awk "BEGIN{printf \"%.1f\", $end-$packed}") s" >&3
rm -rf "$work/tree" "$work/disk.raw"
