#!/usr/bin/env bash
# Lays out one of three Debian root file systems, each holding the one before:
#     1  minbase
#     2  plus python3, git, build-essential
#     3  plus nodejs, postgresql, nginx
#
#     e2e/debian-tree.sh 1|2|3 DIR
#
# DIR must be absent or empty. The trees are made once and kept as target/e2e/debian-N.tar, so every later DIR is equal
# in all that a tar of kind pax holds. Downloaded packages and lists stay, as debootstrap and apt leave them. Logs and
# leftovers that differ from run to run are taken out, and no time is later than the archive's own release: two machines
# that see the same archive get nearly the same tree (what packages make when they are installed, keys and database
# clusters, remains). Works as root, or through sudo without a password.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" -ne 0 ]; then
    exec sudo -n "$0" "$@"
fi
if ! [[ $# -eq 2 && $1 = [123] ]]; then
    echo "usage: e2e/debian-tree.sh 1|2|3 DIR" >&2
    exit 2
fi
which=$1 dir=$2
if [ -d "$dir" ] && [ -n "$(ls -A "$dir")" ]; then
    echo "debian-tree: $dir is not empty" >&2
    exit 1
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$(dirname "$0")/.."
# shellcheck source=e2e/private-apt.sh
. e2e/private-apt.sh
kept=$PWD/target/e2e
mkdir -p "$kept"
umask 022

packages=(
    [2]='python3 git build-essential'
    [3]='nodejs postgresql nginx'
)

# Whatever is mounted or started in here is gone when the command ends: nothing mounted is ever left to `rm`.
contained() { unshare --mount --pid --fork --kill-child "$@"; }

debootstrap_tree() {
    contained debootstrap --variant=minbase --keyring="$DEBIAN_KEYS" "$DEBIAN_SUITE" "$1" "$(debian_mirror)"
}

# install_in TREE PACKAGE...: with apt inside the tree, recommended packages too, no services started.
install_in() {
    local tree=$1
    shift
    cp /etc/resolv.conf "$tree/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2016 # The inner shell expands these.
    contained sh -euc '
        tree=$1; shift
        mount -t proc proc "$tree/proc"
        mkdir -p "$tree/dev/shm"
        mount -t tmpfs shm "$tree/dev/shm"
        exec chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive ${http_proxy:+http_proxy="$http_proxy"} \
            apt-get -y -q -o Acquire::Retries=3 install "$@"
    ' sh "$tree" "$@"
    rm "$tree/usr/sbin/policy-rc.d"
}

# Takes out what differs between two runs on the same archive.
tidy() {
    local tree=$1 released
    rm -f "$tree"/var/cache/apt/*.bin
    rm -rf "$tree"/var/log/{bootstrap,dpkg,alternatives,fontconfig}.log "$tree"/var/log/apt/* "$tree"/tmp/* \
        "$tree"/var/cache/ldconfig/aux-cache "$tree"/var/lib/dpkg/*-old "$tree"/var/cache/debconf/*-old
    : >"$tree/etc/resolv.conf"
    echo debian >"$tree/etc/hostname"
    released=$(sed -n 's/^Date: //p' "$tree"/var/lib/apt/lists/*Release | head -n 1)
    find "$tree" -xdev -newermt "$released" -print0 | xargs -0 -r touch --no-dereference --date="$released"
}

lay_out() { tar --xattrs --xattrs-include='*' --numeric-owner -xpf "$kept/debian-$1.tar" -C "$2"; }

# make_tar N: makes target/e2e/debian-N.tar, and those before it, where they are missing.
make_tar() (
    [ ! -e "$kept/debian-$1.tar" ] || exit 0
    [ "$1" -eq 1 ] || make_tar $(($1 - 1))
    work=$(mktemp -d "$kept/tree.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    trap 'exit 143' INT TERM HUP
    mkdir "$work/root"
    if [ "$1" -eq 1 ]; then
        debootstrap_tree "$work/root"
    else
        lay_out $(($1 - 1)) "$work/root"
        # shellcheck disable=SC2086 # A list of package names.
        install_in "$work/root" ${packages[$1]}
    fi
    tidy "$work/root"
    tar --xattrs --xattrs-include='*' --numeric-owner --format=pax --sort=name \
        --pax-option=delete=atime,delete=ctime -C "$work/root" -cf "$work/tar" .
    mv "$work/tar" "$kept/debian-$1.tar"
)

# Two callers at once make a tree once.
exec 9>"$kept/debian-tree.lock"
flock 9
make_tar "$which"
flock -u 9
lay_out "$which" "$dir"
