#!/usr/bin/env bash
# Installs the programs from Debian or Ubuntu that a task needs and this machine lacks: as root, or through sudo when it
# asks no password. Says what it installs; silent and instant when nothing is missing. Rust is not installed here.
#
#     e2e/setup.sh [test|demo|bench|fuzz]
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin

# package:what it brings (a command, or a file). A program that came some other way counts as well.
compiler='gcc:cc libc6-dev:/usr/include/stdio.h'
guest="debootstrap:debootstrap debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg
    e2fsprogs:mke2fs qemu-system-x86:qemu-system-x86_64"
clients='qemu-utils:qemu-img libnbd-bin:nbdinfo nbdkit:nbdkit fio:fio'
case ${1:-test} in
demo) needs="$compiler $guest" ;;
test) needs="$compiler $clients fuse3:fusermount3 fdisk:sfdisk dosfstools:mkfs.vfat acl:setfacl attr:setfattr
    libcap2-bin:setcap python3:python3 python3-prometheus-client:/usr/lib/python3/dist-packages/prometheus_client/parser.py
    zstd:zstd xz-utils:xz strace:strace docker-registry:docker-registry skopeo:skopeo umoci:umoci openssl:openssl $guest" ;;
bench) needs="$compiler $clients restic:restic casync:casync time:/usr/bin/time python3:python3 $guest" ;;
fuzz) needs="$compiler g++:c++" ;;
*)
    echo "usage: e2e/setup.sh [test|demo|bench|fuzz]" >&2
    exit 2
    ;;
esac

unpacked=$PWD/target/e2e/qemu # Where QEMU goes when it cannot be installed.
log=$PWD/target/e2e/setup.log

is_there() {
    case $1 in
    /*) [ -e "$1" ] ;;
    qemu-system-x86_64) command -v "$1" || [ -x "$unpacked/$1" ] ;;
    *) command -v "$1" ;;
    esac >/dev/null
}

missing=() qemu=
for need in $needs; do
    is_there "${need#*:}" && continue
    case $need in
    qemu-system-x86:*) qemu=${need%%:*} ;;
    *) missing+=("${need%%:*}") ;;
    esac
done
[ "${#missing[@]}" -gt 0 ] || [ -n "$qemu" ] || exit 0

wanted="${missing[*]}${qemu:+${missing[*]:+ }$qemu}"
if ! command -v apt-get >/dev/null; then
    echo "setup: missing: $wanted (names of Debian packages); this machine has no apt-get, install them by hand" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=(env)
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
else
    echo "setup: missing: $wanted; neither root nor sudo without a password here, so please run:" >&2
    echo "    apt-get install --no-install-recommends $wanted" >&2
    exit 1
fi
as_root+=(DEBIAN_FRONTEND=noninteractive)
apt=(apt-get -y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)

# Mirrors and locks fail for moments: three attempts, with fresh lists from the second on.
install() {
    local attempt
    for attempt in 1 2 3; do
        "${as_root[@]}" "${apt[@]}" install --no-install-recommends "$@" && return 0
        sleep $((attempt * 3 - 3))
        "${as_root[@]}" "${apt[@]}" update || true
    done
    return 1
}

# True where the plain package is known not to go in: QEMU's tools are from a newer suite, and its files collide with
# those of the older system emulator. dpkg would find out only half-way.
tools_are_newer() {
    local tools candidate
    tools=$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null) || return 1
    candidate=$(apt-cache policy qemu-system-x86 | awk '$1 == "Candidate:" { print $2 }')
    [ -n "$tools" ] && [ -n "$candidate" ] && dpkg --compare-versions "$tools" gt "$candidate"
}

# The backports suite of the system's own release, through an apt folder of our own.
install_qemu_from_backports() {
    local release
    release=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") || return 1
    # shellcheck source=e2e/private-apt.sh
    . e2e/private-apt.sh
    private_apt "$PWD/target/e2e/apt-$release-backports" "$release" "$release-backports" || return 1
    "${as_root[@]}" apt-get -y -q "${PRIVATE_APT[@]}" -t "$release-backports" install --no-install-recommends \
        qemu-system-x86
}

# Last: every package the installation would have brought, unpacked beside the checkout, with a start script.
unpack_qemu() {
    local work=$unpacked.partial packages
    rm -rf "$work" && mkdir -p "$work/debs"
    packages=$(apt-get -s install --no-install-recommends qemu-system-x86 | awk '$1 == "Inst" { print $2 }') &&
        [ -n "$packages" ] || return 1
    # shellcheck disable=SC2086 # A list of package names.
    (cd "$work/debs" && apt-get -q -o APT::Sandbox::User=root download $packages) || return 1
    for package in "$work"/debs/*.deb; do
        dpkg-deb -x "$package" "$work" || return 1
    done
    rm -rf "$work/debs"
    cat >"$work/qemu-system-x86_64" <<'SCRIPT'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/usr/lib/x86_64-linux-gnu:$here/lib/x86_64-linux-gnu exec \
    "$here/usr/bin/qemu-system-x86_64" -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
SCRIPT
    chmod +x "$work/qemu-system-x86_64"
    "$work/qemu-system-x86_64" --version && rm -rf "$unpacked" && mv "$work" "$unpacked"
}

install_qemu() {
    if ! tools_are_newer && install qemu-system-x86; then
        return 0
    fi
    install_qemu_from_backports || unpack_qemu
}

echo "setup: installing $wanted"
mkdir -p "$(dirname "$log")"
exec 3>&2 </dev/null >"$log" 2>&1
if [ "${#missing[@]}" -gt 0 ] && ! install "${missing[@]}" || [ -n "$qemu" ] && ! install_qemu; then
    echo "setup: could not install them; the last lines of $log:" >&3
    tail -n 20 "$log" | sed 's/^/    /' >&3
    exit 1
fi
