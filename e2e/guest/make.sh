#!/usr/bin/env bash
# Makes the guest that boots the disks under test: Debian's own cloud kernel (bookworm's 6.1: ext4 built in, virtio as
# modules) and an initial RAM disk of busybox and `init`. Both packages are unpacked, not installed. Quick when made.
#
# Leaves target/e2e/guest/{vmlinuz,initrd.cpio,busybox}. Needs no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/e2e/guest
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
if [ "$out/initrd.cpio" -nt e2e/guest/init ] && [ "$out/initrd.cpio" -nt e2e/guest/make.sh ]; then
    exit 0
fi

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# shellcheck source=e2e/private-apt.sh
. e2e/private-apt.sh
private_apt "$PWD/target/e2e/apt-$DEBIAN_SUITE" "$DEBIAN_SUITE"
PRIVATE_APT+=(-o Dir::State::status=/dev/null) # What the host has installed does not matter here.
kernel=$(apt-cache "${PRIVATE_APT[@]}" depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
(cd "$work" && apt-get -q "${PRIVATE_APT[@]}" download "$kernel" busybox-static)
for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$work/unpacked"
done

root=$work/root
mkdir -p "$root"/{bin,modules,proc,sys,dev,disk}
cp "$work/unpacked/bin/busybox" e2e/guest/init "$root"
mv "$root/busybox" "$root/bin"
chmod 755 "$root/init"
for applet in sh mount umount insmod chroot cat grep sleep poweroff; do
    ln -s busybox "$root/bin/$applet"
done
for module in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    find "$work/unpacked/lib/modules" -name "$module.ko" -exec cp {} "$root/modules" \;
done
cp "$work/unpacked/bin/busybox" "$out/busybox"
cp "$work"/unpacked/boot/vmlinuz-* "$out/vmlinuz"
(cd "$root" && find . | "$out/busybox" cpio -o -H newc) >"$work/initrd.cpio"
mv "$work/initrd.cpio" "$out/initrd.cpio"
