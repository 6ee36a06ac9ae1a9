#!/usr/bin/env bash
# Boots a small Debian guest on a disk (an ext4 root file system that has /bin/sh), runs commands there as root, lets go
# of the disk and powers off. Prints what the guest prints; the status is that of the commands, 124 when the time limit
# struck, 125 when the guest ended without a word.
#
#     e2e/boot.sh [--limit SECONDS] [--commands FILE] QEMU-ARGUMENT...
#     e2e/boot.sh --prepare      only makes what every boot needs, and prints kvm or tcg
#
# QEMU-ARGUMENTs attach the disk, as the machine's only virtio-blk device:
#     -blockdev driver=nbd,server.type=unix,server.path=SOCKET,node-name=d0 -device virtio-blk-pci,drive=d0
#     -drive file=DISK.img,format=raw,if=none,id=d0 -device virtio-blk-pci,drive=d0
#
# KVM is used where it boots this guest within five seconds, software emulation otherwise; SILT_E2E_ACCEL=tcg|kvm
# decides without a try. The machine is q35 and the kernel the packed one: a second slower than the fastest way, but it
# finds its clock by itself, on any host.
set -euo pipefail
export LC_ALL=C
target=$(cd "$(dirname "$0")/.." && pwd)/target/e2e
guest=$target/guest

limit=60 commands=/dev/null prepare=
while [ $# -gt 0 ]; do
    case $1 in
    --limit) limit=$2 && shift 2 ;;
    --commands) commands=$2 && shift 2 ;;
    --prepare) prepare=yes && shift ;;
    *) break ;;
    esac
done

mkdir -p "$target"
"$(dirname "$0")/guest/make.sh" >"$target/guest.log" 2>&1 || {
    echo "boot: could not make the guest; see $target/guest.log" >&2
    exit 125
}
qemu=$(PATH=$PATH:$target/qemu command -v qemu-system-x86_64) || {
    echo "boot: no qemu-system-x86_64; e2e/setup.sh installs it" >&2
    exit 125
}

work=$(mktemp -d "$target/boot.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# machine ACCEL LIMIT KERNEL-ARGUMENT [QEMU-ARGUMENT...]: one boot, the console on standard output.
# It dies with this script (even with a killed one), and at its time limit.
machine() {
    local accel=$1 limit=$2 append=$3 how
    shift 3
    case $accel in
    kvm) how=(-accel kvm -cpu host) ;;
    *) how=(-accel "tcg,thread=single,tb-size=128") ;;
    esac
    exec setpriv --pdeathsig TERM timeout --kill-after 2 "$limit" "$qemu" "${how[@]}" -machine q35 -m 128 \
        -nographic -nodefaults -serial stdio -no-reboot -kernel "$guest/vmlinuz" -initrd "$initrd" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests rodata=off $append" "$@" </dev/null
}

# A try is good until the machine is started again.
choose_accel() {
    local known initrd=$guest/initrd.cpio
    known=$guest/accel-$(</proc/sys/kernel/random/boot_id)
    if [ -n "${SILT_E2E_ACCEL:-}" ]; then
        accel=$SILT_E2E_ACCEL
    elif [ -e "$known" ]; then
        accel=$(<"$known")
    else
        accel=tcg
        if [ -w /dev/kvm ] && (machine kvm 5 guest.probe) >"$work/probe" 2>&1 && grep -aq '^guest: exit' "$work/probe"; then
            accel=kvm
        fi
        rm -f "$guest"/accel-*
        echo "$accel" >"$known"
    fi
}
choose_accel
if [ -n "$prepare" ]; then
    echo "$accel"
    exit 0
fi

# The commands ride along as a second archive behind the initial RAM disk.
cp "$commands" "$work/commands"
{
    cat "$guest/initrd.cpio"
    cd "$work" && echo commands | "$guest/busybox" cpio -o -H newc 2>/dev/null
} >"$work/initrd.cpio"
initrd=$work/initrd.cpio

# Everything the machine says is kept; from its first word on it is shown as it comes. A machine that is restored goes on
# in the middle.
case " $* " in
*" -incoming "*) first=1 ;;
*) first='/^guest: ready/' ;;
esac
exec 4> >(tee "$work/console" | sed -un -e 's/\r//g' -e "$first,/^guest: exit/p")
shown=$!
machine "$accel" "$limit" "" "$@" >&4 4>&- 2>"$work/qemu" &
running=$!
exec 4>&-
status=0
wait "$running" || status=$?
wait "$shown" || true

word=$(sed -n 's/\r//g; s/^guest: exit //p' "$work/console" | tail -n 1)
if [ -n "$word" ] && [ "$status" -ne 124 ]; then
    exit "$word"
fi
{
    [ "$status" -eq 124 ] && echo "boot: the guest did not end within $limit s" || echo "boot: QEMU ended with $status"
    cat "$work/qemu"
    tail -n 20 "$work/console"
} >&2
[ "$status" -eq 124 ] || status=125
exit "$status"
