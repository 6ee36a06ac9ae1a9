#!/usr/bin/env bash
# Tests a guest on a clone, over each export, with the silt binary given:
#   1. it reads and writes, syncs, trims and powers off; the export is clean and holds what it wrote;
#   2. server and guest are killed between two syncs; after a new serve and boot all that was synced is there.
# Then
#   3. under a guest another server takes over; over vhost-user-blk one is killed, or ended, and started again;
#   4. a guest is paused, saved and restored, and saved as it runs; a disk in another state is refused (vhost-user-blk);
#   5. the file system of an image grows in a guest that has it mounted, by a factor of a hundred.
# Quiet when all is well but for a line for each step. About two minutes once the Debian tree is there. Root is
# needed, or sudo without a password, to make and to read the tree; without either it says so and tests nothing.
#
#     e2e/test-boot.sh target/release/silt
set -euo pipefail
SILT=$(realpath "${1:?usage: e2e/test-boot.sh SILT-BINARY}")
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null; then
        exec sudo -n e2e/test-boot.sh "$SILT"
    fi
    echo "skipped: test-boot.sh needs root, or sudo without a password"
    exit 0
fi
# shellcheck source=e2e/steps.sh
. e2e/steps.sh
export PATH=$PATH:/usr/sbin:/sbin

mkdir -p target/e2e
start_log "$PWD/target/e2e/test-boot.log"
work=$(mktemp -d "$PWD/target/e2e/test-boot.XXXXXX")
at_exit rm -rf --one-file-system "$work"
sockets=$(mktemp -d)
at_exit rm -rf "$sockets"

silt() { "$SILT" --store "$work/store" "$@"; }

# serve VOLUME EXPORT: at $sockets/VOLUME.
serve() {
    local wait=serve_at
    [ "$2" != fuse ] || wait=serve_fuse
    "$wait" "$sockets/$1" "$SILT" --store "$work/store" serve "$1" "--$2" "$sockets/$1"
}

# boot_command VOLUME EXPORT: in BOOT, the command that boots a guest on it and runs $work/commands there.
boot_command() {
    BOOT=(e2e/boot.sh --limit 60 --commands "$work/commands")
    # shellcheck disable=SC2054 # These commas are QEMU's.
    case $2 in
    nbd)
        BOOT+=(
            -blockdev "driver=nbd,server.type=unix,server.path=$sockets/$1,node-name=d0,discard=unmap"
            -device virtio-blk-pci,drive=d0
        )
        ;;
    vhost-user)
        BOOT+=(
            -object memory-backend-memfd,id=mem,size=128M,share=on -machine memory-backend=mem
            -chardev "socket,id=c0,path=$sockets/$1,reconnect-ms=100"
            -device vhost-user-blk-pci,chardev=c0,num-queues=2
        )
        ;;
    fuse)
        BOOT+=(
            -drive "file=$sockets/$1,format=raw,if=none,id=d0,discard=unmap"
            -device virtio-blk-pci,drive=d0
        )
        ;;
    esac
}

step "build an image of a Debian root file system, clone it for each test"
e2e/debian-tree.sh 1 "$work/debian"
silt build "$work/debian" debian
rm -rf --one-file-system "$work/debian"
for export in nbd vhost-user fuse; do
    silt clone debian "works-$export"
    silt clone debian "crashes-$export"
    silt clone debian "goes-on-$export"
done
silt clone debian saved

# works EXPORT
works() {
    local volume=works-$1 sum
    step "over $1 a guest writes, syncs, reads back, trims and powers off"
    cat >"$work/commands" <<'GUEST'
set -e
dd if=/dev/urandom of=/root/random bs=1M count=8 conv=fsync status=none
sum=$(sha256sum </root/random)
echo 3 >/proc/sys/vm/drop_caches
[ "$sum" = "$(sha256sum </root/random)" ]
echo "sum $sum"
dd if=/dev/zero of=/root/gone bs=1M count=8 conv=fsync status=none
rm /root/gone
sync
fstrim -v /
dpkg --verify bash
GUEST
    serve "$volume" "$1"
    boot_command "$volume" "$1"
    "${BOOT[@]}" | tee "$work/console"
    stop_server
    sum=$(sed -n 's/^sum \([0-9a-f]*\).*/\1/p' "$work/console")
    [ -n "$sum" ] || fail "the guest named no checksum"

    step "its export is clean and holds the file"
    silt export "$volume" "$work/works.raw"
    e2fsck -fn "$work/works.raw"
    [ "$(debugfs -R 'cat /root/random' "$work/works.raw" | sha256sum | cut -d' ' -f1)" = "$sum" ] ||
        fail "the file in the export is not what the guest wrote"
    rm "$work/works.raw"
}

# crashes EXPORT
crashes() {
    local volume=crashes-$1 guest tries crashed synced n
    step "over $1 a guest is killed together with its server, between two syncs"
    cat >"$work/commands" <<'GUEST'
n=0
while :; do
    n=$((n + 1))
    dd if=/dev/urandom bs=64k count=4 status=none >/root/file-$n
    sha256sum /root/file-$n >/root/sum-$n
    sync
    echo "synced $n"
done
GUEST
    serve "$volume" "$1"
    boot_command "$volume" "$1"
    "${BOOT[@]}" >"$work/console" &
    guest=$!
    for ((tries = 0; tries < 600; tries++)); do
        ! grep -q '^synced 5$' "$work/console" || break
        kill -0 "$guest" || fail "the guest ended by itself"
        sleep 0.1
    done
    crashed=$SERVER
    SERVER=
    kill -KILL "$crashed"
    kill -TERM "$guest" # Takes QEMU with it; the server is gone already.
    wait "$crashed" "$guest" || true
    synced=$(sed -n 's/^synced //p' "$work/console" | tail -n 1)
    [ "${synced:-0}" -ge 5 ] || fail "the guest synced nothing within a minute"

    step "served again, the disk holds all that was synced ($synced files)"
    cat >"$work/commands" <<GUEST
set -e
n=0
while [ \$n -lt $synced ]; do
    n=\$((n + 1))
    sha256sum -c /root/sum-\$n
done
GUEST
    serve "$volume" "$1"
    "${BOOT[@]}"
    stop_server
    silt export "$volume" "$work/crashes.raw"
    e2fsck -fn "$work/crashes.raw"
    silt verify
}

for export in nbd vhost-user fuse; do
    works "$export"
    crashes "$export"
done

# begin_going_on VOLUME EXPORT: a server, and a guest that syncs one file after the other and then looks at all of them.
begin_going_on() {
    cat >"$work/commands" <<'GUEST'
set -e
n=0
while [ $n -lt 40 ]; do
    n=$((n + 1))
    dd if=/dev/urandom bs=64k count=4 conv=fsync status=none of=/root/file-$n
    sha256sum /root/file-$n >/root/sum-$n
    echo "synced $n"
done
echo 3 >/proc/sys/vm/drop_caches
while [ $n -gt 0 ]; do
    sha256sum -c /root/sum-$n
    n=$((n - 1))
done
! dmesg | grep -i 'i/o error'
GUEST
    serve "$1" "$2"
    boot_command "$1" "$2"
    "${BOOT[@]}" >"$work/console" &
    guest=$!
}
# wait_until_synced N
wait_until_synced() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        ! grep -q "^synced $1\$" "$work/console" || return 0
        kill -0 "$guest" || fail "the guest ended by itself"
        sleep 0.1
    done
}
guest_failed() {
    tail -n 20 "$work/console"
    fail "the guest met an error"
}
# take_over VOLUME
take_over() {
    local before=$SERVER
    setpriv --pdeathsig TERM "$SILT" --store "$work/store" serve "$1" --take-over &
    SERVER=$!
    at_exit end_server "$SERVER"
    wait "$before" || fail "the server that was taken over from did not end well"
}
# end_going_on VOLUME: the guest has found everything, and the disk is clean.
end_going_on() {
    wait "$guest" || guest_failed
    stop_server
    silt export "$1" "$work/$1.raw"
    e2fsck -fn "$work/$1.raw"
    rm "$work/$1.raw"
}

step "over vhost-user a guest goes on when its server is killed, and ended, and started again, and when another takes over"
begin_going_on goes-on-vhost-user vhost-user
wait_until_synced 5
crashed=$SERVER
SERVER=
kill -KILL "$crashed"
wait "$crashed" || true
serve goes-on-vhost-user vhost-user
wait_until_synced 12
stop_server
serve goes-on-vhost-user vhost-user
wait_until_synced 20
take_over goes-on-vhost-user
end_going_on goes-on-vhost-user

for export in nbd fuse; do
    step "over $export a guest goes on when two servers take over in turn"
    begin_going_on "goes-on-$export" "$export"
    wait_until_synced 5
    take_over "goes-on-$export"
    wait_until_synced 20
    take_over "goes-on-$export"
    end_going_on "goes-on-$export"
done
[ ! -e "$sockets/goes-on-fuse" ] || fail "the last server left its mount"

step "over vhost-user a guest is paused, saved with the state of its disk, and ended"
# Its caches are dropped all the time: what it reads comes from the disk, into memory that is just being saved. Its programs
# are not on the disk: under emulation some that were read over vhost-user during a save are broken after it, with
# qemu-storage-daemon as well.
cat >"$work/commands" <<'GUEST'
export PATH=/proc/1/root/bin
exec busybox sh -c '
set -e
n=0
while [ $n -lt 60 ]; do
    n=$((n + 1))
    dd if=/dev/urandom bs=64k count=4 conv=fsync of=/root/file-$n 2>/dev/null
    sha256sum /root/file-$n >/root/sum-$n
    sync
    echo 3 >/proc/sys/vm/drop_caches
    sha256sum -c -s /root/sum-$(((n + 1) / 2)) /root/sum-$n
    echo "synced $n"
done
while [ $n -gt 0 ]; do
    sha256sum -c -s /root/sum-$n
    n=$((n - 1))
done
! dmesg | grep -i "i/o error"
'
GUEST
# begin_saved [QEMU-ARGUMENT...]: serves the disk if it is in the state that EXPECT names, and starts the machine.
begin_saved() {
    serve_at "$sockets/saved" "$SILT" --store "$work/store" serve saved --vhost-user "$sockets/saved" "${EXPECT[@]}"
    boot_command saved vhost-user
    rm -f "$sockets/qmp"
    "${BOOT[@]}" -qmp "unix:$sockets/qmp,server=on,wait=off" "$@" >"$work/console" &
    guest=$!
}
# end_saved: the machine is in $work/machine, its disk in the state EXPECT.
end_saved() {
    EXPECT=(--expect "$(silt state saved)")
    e2e/qmp.py "$sockets/qmp" quit
    ! wait "$guest" || fail "the guest ended before it was saved"
    stop_server
}
EXPECT=()
begin_saved
wait_until_synced 10
e2e/qmp.py "$sockets/qmp" stop
e2e/qmp.py "$sockets/qmp" save "$work/machine"
end_saved

step "restored beside another disk state it is refused; beside its own it goes on, and is saved as it runs"
silt snapshot saved@paused
serve saved nbd
qemu-io -f raw -c 'write -P 7 0 4k' "nbd+unix:///?socket=$sockets/saved"
stop_server
status=0
silt serve saved --vhost-user "$sockets/saved" "${EXPECT[@]}" || status=$?
[ "$status" -eq 6 ] || fail "a disk in another state was not refused: status $status"
silt rollback saved@paused
begin_saved -incoming defer
e2e/qmp.py "$sockets/qmp" restore "$work/machine"
wait_until_synced 25
e2e/qmp.py "$sockets/qmp" save "$work/machine"
end_saved

step "restored once more it goes on to its end, and everything is there"
begin_saved -incoming defer
e2e/qmp.py "$sockets/qmp" restore "$work/machine"
wait "$guest" || guest_failed
stop_server
silt export saved "$work/saved.raw"
e2fsck -fn "$work/saved.raw"
rm "$work/saved.raw" "$work/machine"

step "a file system of silt's grows while it is mounted"
silt export debian "$work/grows.raw"
before=$(stat -c %s "$work/grows.raw")
truncate -s 40G "$work/grows.raw"
cat >"$work/commands" <<'GUEST'
set -e
resize2fs /dev/vda
dd if=/dev/urandom of=/root/after bs=1M count=4 conv=fsync status=none
df -k / | tail -n 1
GUEST
e2e/boot.sh --limit 60 --commands "$work/commands" \
    -drive "file=$work/grows.raw,format=raw,if=none,id=d0" -device virtio-blk-pci,drive=d0
e2fsck -fn "$work/grows.raw"
blocks=$(dumpe2fs -h "$work/grows.raw" 2>/dev/null | sed -n 's/^Block count: *//p')
[ "$((blocks * 4096))" -gt "$((before * 10))" ] || fail "the file system did not grow: $blocks blocks"
