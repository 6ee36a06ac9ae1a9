#!/usr/bin/env bash
# From a directory to a booted virtual machine: a Debian root file system becomes an image, the image a thousand clones,
# and one of them the disk of a guest that writes to it. Then it shows where that write is, and where it is not.
#
#     make demo
#
# Works on a fresh Debian or Ubuntu machine with Rust, as root or through sudo without a password; asks nothing; ends
# with a table, or non-zero and the log of the step that failed. Everything it makes lies in target/ (the store of the
# last run stays in target/demo/store). SILT=BINARY takes that binary instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=e2e/steps.sh
. e2e/steps.sh
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin

demo=$PWD/target/demo
clones=1000
served=vm-0001
other=vm-0002
written=/root/written-in-the-guest

start_log "$PWD/target/demo.log"
STEP="install what is missing"
e2e/setup.sh demo >&3 2>&4
if [ -z "${SILT:-}" ]; then
    step "build silt"
    command -v cargo >/dev/null || fail "no cargo here: Rust comes from https://rustup.rs"
    cargo build --release --quiet -p siltstone
    SILT=${CARGO_TARGET_DIR:-$PWD/target}/release/silt
fi
# Building is for the user's own Rust; making and reading a root file system is for root.
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true || fail "the rest needs root, or sudo without a password"
    exec sudo -n env "SILT=$SILT" e2e/demo.sh >&3 2>&4
fi

rm -rf --one-file-system "$demo"
mkdir -p "$demo"
if [ -n "${SUDO_UID:-}" ]; then
    # shellcheck disable=SC2153 # sudo sets both.
    at_exit chown -R "$SUDO_UID:$SUDO_GID" "$demo" "$LOG" "$PWD/target/e2e"
fi
sockets=$(mktemp -d) # Not in target/: the path of a socket is at most 107 bytes long.
at_exit rm -rf "$sockets"

silt() { "$SILT" --store "$demo/store" "$@"; }

step "make a Debian root file system (minutes the first time, kept after that)"
at_exit rm -rf --one-file-system "$demo/debian"
e2e/debian-tree.sh 1 "$demo/debian"

step "build the image from it"
silt build "$demo/debian" debian --json >"$demo/build.json"
silt info debian --json >"$demo/image.json"
silt export debian "$demo/image.raw"

step "clone it $clones times"
began=$(now_us)
for ((n = 1; n <= clones; n++)); do
    started=$(now_us)
    silt clone debian "$(printf 'vm-%04d' "$n")" >/dev/null
    echo $(($(now_us) - started))
done >"$demo/clone-times"
clones_took=$(($(now_us) - began))
clone_median=$(sort -n "$demo/clone-times" | sed -n "$((clones / 2))p")

step "fetch a kernel for the guest, see whether KVM can run it"
accel=$(e2e/boot.sh --prepare)
[ "$accel" = kvm ] && emulated="KVM" || emulated="software emulation"

step "serve one over NBD and boot a guest from it, which writes a file"
serve_at "$sockets/nbd" "$SILT" --store "$demo/store" serve "$served" --nbd "$sockets/nbd"
cat >"$demo/commands" <<GUEST
set -e
echo "kernel \$(uname -r), Debian \$(cat /etc/debian_version)"
{ uname -a; dd if=/dev/urandom bs=64k count=16 status=none | od -An -tx4; } >$written
sync
sha256sum $written
GUEST
began=$(now_us)
e2e/boot.sh --limit 120 --commands "$demo/commands" \
    -blockdev "driver=nbd,server.type=unix,server.path=$sockets/nbd,node-name=d0,discard=unmap" \
    -device virtio-blk-pci,drive=d0 | tee "$demo/console"
guest_took=$(($(now_us) - began))
guest_is=$(sed -n 's/^kernel //p' "$demo/console")
guest_sum=$(sed -n "s|  $written\$||p" "$demo/console")
[ -n "$guest_sum" ] || fail "the guest named no checksum"
silt info "$served" --json >"$demo/served.json"
cat "$demo/served.json"

step "stop the server and export the clone"
stop_server
silt info "$served" --json >"$demo/volume.json"
silt export "$served" "$demo/volume.raw"

step "find the file in the export, check its file system"
export_sum=$(debugfs -R "cat $written" "$demo/volume.raw" | sha256sum | cut -d' ' -f1)
[ "$guest_sum" = "$export_sum" ] || fail "guest wrote $guest_sum, the export holds $export_sum"
e2fsck -fn "$demo/volume.raw"
! cmp -s "$demo/volume.raw" "$demo/image.raw" || fail "the clone equals the image: the guest wrote nothing"

step "see that the image and the other clones are untouched"
silt info debian --json >"$demo/image-after.json"
disk_id=$(json disk_id "$demo/image.json")
[ -n "$disk_id" ] && [ "$disk_id" = "$(json disk_id "$demo/image-after.json")" ] || fail "the image has another disk_id"
for name in debian "$other"; do
    silt export "$name" "$demo/after.raw"
    cmp "$demo/after.raw" "$demo/image.raw"
    rm "$demo/after.raw"
done
for ((n = 2; n <= clones; n++)); do
    name=$(printf 'vm-%04d' "$n")
    silt info "$name" --json >"$demo/other.json"
    [ "$(json blocks_modified "$demo/other.json")" = 0 ] || fail "$name is not as it was cloned"
done
rm "$demo/other.json" "$demo/image.raw"

row() { say "$(printf '%-20s %s' "$1" "$2")"; }
say
row image "$(mebibytes "$(json size "$demo/build.json")") disk from $(mebibytes "$(json bytes_read "$demo/build.json")") of files, built in $(printf %.2f "$(json seconds "$demo/build.json")") s"
row store "$(mebibytes "$(du -s -B1 "$demo/store" | cut -f1)") on disk, with all $clones clones"
row clones "$clones in $(seconds "$clones_took"), median $((clone_median / 1000)).$((clone_median / 100 % 10)) ms each, process and all"
row guest "kernel $guest_is: booted, wrote, powered off in $(seconds "$guest_took") under $emulated"
row "disk of the guest" "$(json blocks_modified "$demo/volume.json") blocks of 4 KiB written, $(mebibytes "$(json delta_bytes_allocated "$demo/volume.json")") allocated"
row export "the guest's file is in it, byte for byte; e2fsck finds nothing to say"
row "image, other clones" "untouched"
