#!/usr/bin/env bash
# fio with verification over each export, all at once, for a long time; by hand.
#     NBD          a guest that reconnects, four jobs; and four clients of the host, each by a connection of its own
#     vhost-user   a guest that reconnects, four jobs over two queues
#     FUSE         four jobs of the host on the file
# The servers of the guests are killed every half minute; a guest notices nothing, and what it reads back is what it wrote,
# flushed or not. In the end every disk is clean. Under FUSE a killed server takes its mount along: there four writers
# of the host say what they have synced, the server is killed, and the next one must have it; twenty times.
#
#     e2e/soak.sh target/release/silt [SECONDS]
set -euo pipefail
SILT=$(realpath "${1:?usage: e2e/soak.sh SILT-BINARY [SECONDS]}")
seconds=${2:-600}
cd "$(dirname "$0")/.."
# shellcheck source=e2e/steps.sh
. e2e/steps.sh
export PATH=$PATH:/usr/sbin:/sbin

mkdir -p target/e2e
start_log "$PWD/target/e2e/soak.log"
work=$(mktemp -d "$PWD/target/e2e/soak.XXXXXX")
at_exit rm -rf --one-file-system "$work"
sockets=$(mktemp -d)
at_exit rm -rf "$sockets"
at_exit end_all

silt() { "$SILT" --store "$work/store" "$@"; }

# Ends whatever still runs; for the way out.
end_all() {
    local pid
    for pid in $(jobs -p) $(cat "$work"/*.pid); do
        kill -TERM "$pid" 2>/dev/null
    done
    wait
}

step "build an image of a Debian root file system that has fio"
e2e/debian-tree.sh 1 "$work/debian"
mkdir "$work/debian/fio"
cp "$(command -v fio)" "$work/debian/fio/fio"
ldd "$work/debian/fio/fio" | awk '$3 ~ "^/" { print $3 }' | xargs -I{} cp -L {} "$work/debian/fio/"
silt build "$work/debian" debian
rm -rf --one-file-system "$work/debian"
for volume in nbd vhost-user connections file synced; do
    silt clone debian "$volume" --size 2G
done

# In 100 MiB for each job: blocks of 4 to 64 KiB are written, synced now and then, and read back a little later.
fio_job=(--name=soak --numjobs=4 --thread --rw=randwrite --bsrange=4k-64k --iodepth=8 --size=100M --fsync=64
    --verify=crc32c --verify_backlog=256 --verify_fatal=1 --time_based --runtime="$seconds" --group_reporting
    --max_latency=60s --minimal)

# serve VOLUME EXPORT PLACE: a server in the background, its process id in $work/VOLUME.pid.
serve() {
    "$SILT" --store "$work/store" serve "$1" "--$2" "$3" &
    echo $! >"$work/$1.pid"
}

# guest VOLUME QEMU-ARGUMENT...: runs fio in a guest on the volume.
guest() {
    local volume=$1
    shift
    cat >"$work/$volume.commands" <<GUEST
set -e
mkdir /root/soak
LD_LIBRARY_PATH=/fio /fio/fio ${fio_job[*]} --ioengine=libaio --direct=1 --directory=/root/soak
! dmesg | grep -i 'i/o error'
GUEST
    e2e/boot.sh --limit $((seconds * 2 + 300)) --commands "$work/$volume.commands" -smp 2 -m 512 "$@" >"$work/$volume.console" &&
        touch "$work/$volume.done"
}

# keep_killing VOLUME EXPORT PLACE: until its guest is done.
keep_killing() {
    local kills=0 pid
    while sleep 30 && kill -0 "$GUEST" 2>/dev/null; do
        pid=$(<"$work/$1.pid")
        kill -KILL "$pid"
        kills=$((kills + 1))
        sleep 0.5
        serve "$@"
    done
    echo "$1: $kills kills"
}

step "fio over NBD and vhost-user in guests whose servers are killed, over NBD and FUSE from the host ($seconds s)"
began=$(now_us)
serve nbd nbd "$sockets/nbd"
serve vhost-user vhost-user "$sockets/vhost-user"
serve connections nbd "$sockets/connections"
serve file fuse "$sockets/file"
sleep 2
guest nbd -blockdev "driver=nbd,server.type=unix,server.path=$sockets/nbd,node-name=d0,discard=unmap,reconnect-delay=30" \
    -device virtio-blk-pci,drive=d0 &
nbd_guest=$!
guest vhost-user -object memory-backend-memfd,id=mem,size=512M,share=on -machine memory-backend=mem \
    -chardev "socket,id=c0,path=$sockets/vhost-user,reconnect-ms=100" \
    -device vhost-user-blk-pci,chardev=c0,num-queues=2 &
vhost_guest=$!
GUEST=$nbd_guest keep_killing nbd nbd "$sockets/nbd" &
nbd_killer=$!
GUEST=$vhost_guest keep_killing vhost-user vhost-user "$sockets/vhost-user" &
vhost_killer=$!
(cd "$work" && fio "${fio_job[@]}" --ioengine=nbd --uri="nbd+unix:///?socket=$sockets/connections" --offset_increment=100M) &
connections=$!
(cd "$work" && fio "${fio_job[@]}" --ioengine=libaio --direct=1 --filename="$sockets/file" --offset_increment=100M) &
file=$!
wait "$connections" || fail "fio over four NBD connections ended with $?"
wait "$file" || fail "fio on the FUSE file ended with $?"
for volume in nbd vhost-user; do
    pid=${volume%-user}_guest
    wait "${!pid}" || { tail "$work/$volume.console" && fail "the guest over $volume met an error"; }
    [ -e "$work/$volume.done" ] || fail "the guest over $volume did not end well"
done
wait "$nbd_killer" "$vhost_killer"
say "    $(seconds $(($(now_us) - began))); $(grep -a '^[a-z-]*: [0-9]* kills$' "$LOG" | paste -sd,)"

step "every disk is clean"
for volume in nbd vhost-user connections file; do
    pid=$(<"$work/$volume.pid")
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
done
for volume in nbd vhost-user; do
    silt export "$volume" "$work/disk.raw"
    e2fsck -fn "$work/disk.raw"
    rm "$work/disk.raw"
done
silt verify

step "twenty times the server of a FUSE file is killed under four writers; the next one has what they synced"
for ((round = 1; round <= 20; round++)); do
    serve synced fuse "$sockets/synced"
    for ((tries = 0; tries < 100; tries++)); do
        [ ! -s "$sockets/synced" ] || break
        sleep 0.05
    done
    e2e/synced_writers.py "$sockets/synced" "$work/synced" "$round" &
    writers=$!
    sleep 2
    kill -KILL "$(<"$work/synced.pid")"
    wait "$writers"
    sleep 0.2
done
silt verify
