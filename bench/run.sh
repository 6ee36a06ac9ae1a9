#!/bin/sh
# Siltstone beside its peers. Usage: bench/run.sh [SECTION]...
# Sections: build rebuild sources compression codecs dedup smallfiles export clone nbd fuse vhost calls boot servers fork snapshot
# generations collection all (default all); and those that all leaves out: sealing, which writes 25 GB, and scale, which takes
# a quarter of an hour to make a store of 16 million chunks (SILT_BENCH_CHUNKS=N for a smaller one).
# fork needs root: it mounts what is served, and runs dpkg in it.
# Installs the peers if they are missing, builds both programs, prints a table per section.
# SILT=PROGRAM measures another silt; SILT_BENCH_RUNS=N takes medians of N (default 5);
# SILT_BENCH_LEVELS="lz4 zstd:1" chooses the compressions of that section;
# SILT_BENCH_DIR=DIR holds inputs and scratch files (default target/bench; about 8 GB).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}

# program:package, for everything that is run beside silt.
missing=
for pair in restic:restic borg:borgbackup casync:casync nbdkit:nbdkit qemu-nbd:qemu-utils qemu-img:qemu-utils qemu-storage-daemon:qemu-system-common fio:fio \
    mke2fs:e2fsprogs nbdcopy:libnbd-bin debootstrap:debootstrap time:time strace:strace; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 && continue
    [ "${pair%%:*}" = time ] && [ -x /usr/bin/time ] && continue
    missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    echo "installing$missing" >&2
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi
    $as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        "apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing" >&2 </dev/null
fi

if [ -z "${SILT:-}" ]; then
    cargo build --quiet --release --manifest-path "$root/Cargo.toml" --bin silt
    SILT=$target/release/silt
    export SILT
fi
# Apart from the product's build: the peers' dependencies are nobody else's.
CARGO_TARGET_DIR=$target/bench-build cargo build --quiet --release --manifest-path "$here/Cargo.toml"
exec "$target/bench-build/release/silt-bench" "$@"
