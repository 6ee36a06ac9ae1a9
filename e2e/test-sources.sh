#!/usr/bin/env bash
# Tests that one Debian root file system gives one image, whatever it comes as, with the silt binary given:
#   1. the folder, its tar (plain, compressed, through a pipe), an OCI layout of it in a folder and in an archive, and
#      IMAGE:/ of each: equal tree ids, equal disk ids;
#   2. a raw ext4 disk that mke2fs -d makes of it, and the same as qcow2: they are exported byte for byte, a mount of the
#      raw one holds what the folder holds, and at least 0.97 of the file data was in the store already;
#   3. a work disk: a folder of it with another owner, cloned larger, filled by the kernel.
# A line for each step; a minute or two once the tree is there. Root is needed, or sudo without a password.
#
#     e2e/test-sources.sh target/release/silt [1|2|3]
set -euo pipefail
SILT=$(realpath "${1:?usage: e2e/test-sources.sh SILT-BINARY [1|2|3]}")
tree=${2:-1}
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null; then
        exec sudo -n e2e/test-sources.sh "$SILT" "$tree"
    fi
    echo "skipped: test-sources.sh needs root, or sudo without a password"
    exit 0
fi
# shellcheck source=e2e/steps.sh
. e2e/steps.sh
export PATH=$PATH:/usr/sbin:/sbin

mkdir -p target/e2e
start_log "$PWD/target/e2e/test-sources.log"
work=$(mktemp -d "$PWD/target/e2e/test-sources.XXXXXX")
at_exit rm -rf --one-file-system "$work"

silt() { "$SILT" --store "$work/store" "$@"; }

# built NAME SOURCE...: builds, and leaves what was said in $work/NAME.json.
built() {
    local name=$1
    shift
    silt build --json "$@" "$name" >"$work/$name.json"
}

# same NAME: tree and disk are those of the folder.
same() {
    local id
    for id in tree_id disk_id; do
        [ "$(json $id "$work/$1.json")" = "$(json $id "$work/folder.json")" ] || fail "$1 has another $id"
    done
}

# mounted DEVICE-OR-FILE COMMAND...: with the file system at $work/mnt.
mounted() {
    local file=$1
    shift
    mkdir -p "$work/mnt"
    unshare --mount sh -euc 'mount -o "$1" "$2" "$3"; shift 3; "$@"' sh "$MOUNT_OPTIONS" "$file" "$work/mnt" "$@"
}

say "testing sources with Debian tree $tree"
step "the folder"
e2e/debian-tree.sh "$tree" "$work/root"
built folder "$work/root"

step "its tar, compressed, through a pipe"
tar --xattrs --xattrs-include='*' --numeric-owner --format=pax -C "$work/root" -cf "$work/tar" .
built tar "$work/tar"
same tar
[ "$(json bytes_new "$work/tar.json")" -eq 0 ] || fail "the tar stored something new"
for program in gzip zstd xz; do
    case $program in xz) level=-0 ;; *) level=-1 ;; esac
    "$program" -c $level "$work/tar" >"$work/packed"
    built "$program" "$work/packed"
    same "$program"
    rm "$work/packed"
done
# shellcheck disable=SC2002 # A pipe is what is tested.
cat "$work/tar" | silt build --json - pipe >"$work/pipe.json"
same pipe

step "an OCI layout, in a folder and in an archive"
umoci init --layout "$work/layout"
umoci new --image "$work/layout:debian"
umoci raw add-layer --image "$work/layout:debian" "$work/tar"
rm "$work/tar"
built layout "oci:$work/layout:debian"
same layout
tar -C "$work/layout" -cf "$work/layout.tar" .
built archive "oci-archive:$work/layout.tar:debian"
same archive
[ "$(json bytes_read "$work/archive.json")" -eq 0 ] || fail "a layer was read again"
rm -r "$work/layout" "$work/layout.tar"

step "all of an image of the store"
built again folder:/
same again
[ "$(json bytes_read "$work/again.json")" -eq 0 ] || fail "files of the store were read"

step "a raw disk by mke2fs -d, and the same as qcow2"
truncate -s "${tree}G" "$work/raw"
mke2fs -q -F -t ext4 -d "$work/root" "$work/raw"
before=$(silt info --json >"$work/info" && json bytes_unique_file_data "$work/info")
built raw "$work/raw"
after=$(silt info --json >"$work/info" && json bytes_unique_file_data "$work/info")
[ $(((after - before) * 100)) -le $((before * 3)) ] || fail "file data of the disk is stored twice: $before to $after"
silt export raw "$work/exported"
cmp "$work/raw" "$work/exported"
# mke2fs gives the root folder a time of its own.
silt diff --files folder raw >"$work/differ"
[ -z "$(grep -Ev '^(t  (\.|lost\+found)|0 added, 0 removed, 0 renamed, [012] changed)$' "$work/differ")" ] ||
    fail "the raw disk holds other files: $(head -n 5 "$work/differ")"
qemu-img convert -f raw -O qcow2 -c "$work/raw" "$work/qcow2"
built qcow2 "$work/qcow2"
[ "$(json disk_id "$work/qcow2.json")" = "$(json disk_id "$work/raw.json")" ] || fail "the qcow2 is another disk"
MOUNT_OPTIONS=loop,ro mounted "$work/exported" diff -r --no-dereference --exclude=lost+found "$work/root" "$work/mnt"
rm "$work/raw" "$work/exported" "$work/qcow2"

step "a work disk: a folder with another owner, cloned larger, filled by the kernel"
built etc folder:/etc --owner 0:0
silt clone etc work --size 8GiB
: >"$work/disk"
serve_fuse "$work/disk" "$SILT" --store "$work/store" serve work --fuse "$work/disk"
MOUNT_OPTIONS=loop mounted "$work/disk" sh -euc 'diff -r --no-dereference --exclude=lost+found "$1/etc" "$2"
    cp -a "$1/usr" "$2/usr"; sync; diff -r --no-dereference "$1/usr" "$2/usr"' sh "$work/root" "$work/mnt"
stop_server
silt export work "$work/exported"
e2fsck -fn "$work/exported"
silt verify
