//! What programs that take files do with a disk: qemu, fio, cp, the kernel's loop device, and plain system calls.

use super::mounted::Mounted;
use crate::{
    device::{Odd, memory},
    running::{run, succeed},
};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use silt_volume::MemoryDevice;
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

const QEMU: &str = "qemu-utils";
const MIB: usize = 1 << 20;

/// Content with runs of zeroes in it, and an odd end.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| if at / 100_000 % 3 == 1 { 0 } else { (at * 31 + at / 4096) as u8 }).collect()
}

fn open(path: &Path, flags: OFlags) -> File {
    File::from(rustix::fs::open(path, flags, Mode::empty()).unwrap())
}

fn errno(result: std::io::Result<()>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_fuse_file_is_as_long_as_its_disk_and_stays_so() {
    let len = 3 * MIB + 12_345;
    let mounted = Mounted::serve(Arc::new(MemoryDevice::new(content(len), false)));
    assert_eq!(fs::metadata(&mounted.file).unwrap().len(), len as u64);
    assert!(fs::read(&mounted.file).unwrap() == content(len));
    let file = File::options().read(true).write(true).open(&mounted.file).unwrap();
    for size in [0, len - 1, len + 1, 1 << 40] {
        assert_eq!(errno(file.set_len(size as u64)), 1, "{size}");
    }
    file.set_len(len as u64).unwrap();
    assert!(File::create(&mounted.file).is_err(), "O_TRUNC is a truncation");
    for (offset, len) in [(len, 1), (len - 1, 2), (1 << 50, 512)] {
        assert_eq!(errno(file.write_all_at(&vec![1; len], offset as u64)), 28);
    }
    for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        fallocate(&file, flags, 0, len as u64).unwrap();
        assert!(fallocate(&file, flags, 0, len as u64 + 1).is_err());
        assert!(fallocate(&file, flags, 1, u64::MAX >> 1).is_err());
    }
    assert!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096).is_err());
    assert!(fs::read(&mounted.file).unwrap() == content(len));
}

#[test]
fn a_read_only_disk_is_a_fuse_file_that_cannot_be_written() {
    let mounted = Mounted::serve(Arc::new(MemoryDevice::new(content(MIB), true)));
    assert_eq!(fs::metadata(&mounted.file).unwrap().mode() & 0o777, 0o400);
    let opened = File::options().read(true).write(true).open(&mounted.file);
    assert_eq!(errno(opened.map(drop)), 30, "a read-only file system");
    assert!(fs::read(&mounted.file).unwrap() == content(MIB));
    File::open(&mounted.file).unwrap().sync_all().unwrap();
}

#[test]
fn direct_io_of_odd_alignment_on_a_fuse_file_is_exact() {
    let mounted = Mounted::serve(Arc::new(MemoryDevice::new(content(2 * MIB), false)));
    let file = open(&mounted.file, OFlags::RDWR | OFlags::DIRECT);
    let mut expected = content(2 * MIB);
    for (offset, len) in [(0, 512), (1, 1), (4095, 2), (511, 70_001), (MIB - 3, MIB)] {
        let mut found = vec![0; len];
        file.read_exact_at(&mut found, offset as u64).unwrap();
        assert!(found == expected[offset..][..len], "{len} bytes at {offset}");
        expected[offset..][..len].fill(len as u8);
        file.write_all_at(&vec![len as u8; len], offset as u64).unwrap();
    }
    // Those who read through the page cache see the same, whatever was cached before.
    assert!(fs::read(&mounted.file).unwrap() == expected);
}

#[test]
fn two_programs_at_once_see_one_fuse_file_however_they_open_it() {
    let mounted = Mounted::serve(memory(4 << 20));
    let cached = File::options().read(true).write(true).open(&mounted.file).unwrap();
    let direct = open(&mounted.file, OFlags::RDWR | OFlags::DIRECT);
    let (mut one, mut other) = ([0; 4096], [0; 4096]);
    for round in 1..100_u8 {
        let offset = u64::from(round % 7) * 4096;
        let (writer, reader) = if round % 2 == 0 { (&cached, &direct) } else { (&direct, &cached) };
        reader.read_exact_at(&mut one, offset).unwrap();
        writer.write_all_at(&[round; 4096], offset).unwrap();
        reader.read_exact_at(&mut other, offset).unwrap();
        assert!(other == [round; 4096], "round {round}");
        if round % 10 == 0 {
            fallocate(writer, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, 4096)
                .unwrap();
            reader.read_exact_at(&mut other, offset).unwrap();
            assert!(other == [0; 4096], "round {round}");
        }
    }
    let script =
        "import sys; f = open(sys.argv[1], 'r+b'); f.seek(1 << 20); f.write(b'other'); f.close()";
    succeed("python3", "python3", &["-c", script, mounted.path()]);
    let mut found = [0; 5];
    direct.read_exact_at(&mut found, 1 << 20).unwrap();
    assert_eq!(&found, b"other");
}

#[test]
fn a_fuse_file_can_be_mapped_and_what_is_written_there_is_durable_after_msync() {
    let device = Odd::new(MIB, false);
    let mounted = Mounted::serve(device.clone());
    let script = "import mmap, sys\n\
        f = open(sys.argv[1], 'r+b')\n\
        m = mmap.mmap(f.fileno(), 0)\n\
        assert m[:4] == bytes([7]) * 4\n\
        m[5000:5005] = b'hello'\n\
        m.flush()\n\
        m.close()\n";
    succeed("python3", "python3", &["-c", script, mounted.path()]);
    assert!(device.flushes.load(Ordering::Relaxed) > 0);
    let mut found = [0; 7];
    silt_volume::BlockDevice::read_at(&device.inner, &mut found, 4999).unwrap();
    assert_eq!(&found, b"\x07hello\x07");
}

/// With direct I/O the kernel leaves O_DSYNC to the file system: a write is answered once it is durable.
#[test]
fn a_synchronous_write_to_a_fuse_file_is_flushed_before_it_is_answered() {
    let device = Odd::new(MIB, false);
    let mounted = Mounted::serve(device.clone());
    for flags in [OFlags::DSYNC, OFlags::SYNC, OFlags::DSYNC | OFlags::DIRECT] {
        let before = device.flushes.load(Ordering::Relaxed);
        let file = open(&mounted.file, OFlags::RDWR | flags);
        file.write_all_at(&[1; 4096], 0).unwrap();
        assert!(device.flushes.load(Ordering::Relaxed) > before, "{flags:?}");
    }
}

#[test]
fn qemu_reads_from_a_fuse_file_what_it_wrote_zeroed_and_discarded() {
    let mounted = Mounted::serve(memory(8 << 20));
    let commands = [
        "write -P 0xa1 0 4M",
        "write -P 0xb2 1000 5000",
        "write -f -P 0xc3 4194304 64k",
        "write -z 64k 128k",
        "write -z -u 1M 1M",
        "discard 2M 1M",
        "aio_write -P 0xd4 5M 300k",
        "aio_write -P 0xe5 6M 300k",
        "aio_flush",
        "flush",
        "read -P 0xa1 0 1000",
        "read -P 0xb2 1000 5000",
        "read -P 0xa1 6000 59536",
        "read -P 0 64k 128k",
        "read -P 0xa1 192k 832k",
        "read -P 0 1M 2M",
        "read -P 0xa1 3M 1M",
        "read -P 0xc3 4194304 64k",
        "read -P 0xd4 5M 300k",
        "read -P 0xe5 6M 300k",
    ];
    for cache in ["writeback", "none"] {
        let mut arguments = vec!["-f", "raw", "-d", "unmap", "-t", cache];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        arguments.push(mounted.path());
        let text = succeed(QEMU, "qemu-io", &arguments);
        assert!(!text.contains("fail") && !text.contains("differ"), "{cache}: {text}");
    }
}

#[test]
fn copies_of_a_fuse_file_are_exact_and_keep_holes() {
    let bytes = content(40 * MIB + 12_288);
    let mounted = Mounted::serve(memory(bytes.len() as u64));
    let path = |name: &str| mounted.folder.path().join(name).to_str().unwrap().to_owned();
    let (source, copy, sparse) = (path("source"), path("copy"), path("sparse"));
    fs::write(&source, &bytes).unwrap();
    let disk = mounted.path();
    succeed(QEMU, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &source, disk]);
    succeed(QEMU, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &source, disk]);
    succeed("coreutils", "cp", &[disk, &copy]);
    succeed("coreutils", "cp", &["--sparse=always", disk, &sparse]);
    for name in [&copy, &sparse] {
        assert!(fs::read(name).unwrap() == bytes, "{name}");
    }
    assert!(fs::metadata(&sparse).unwrap().blocks() * 512 < bytes.len() as u64 * 3 / 4);
    let map = succeed(QEMU, "qemu-img", &["map", "--output=json", "-f", "raw", disk]);
    assert!(map.contains("\"start\""), "{map}");
    succeed(
        "coreutils",
        "dd",
        &[&format!("if={source}"), &format!("of={disk}"), "conv=notrunc", "oflag=direct", "bs=12k"],
    );
    succeed("diffutils", "cmp", &[&source, disk]);
    let truncated = run("coreutils", "truncate", &["-s", "1M", disk]);
    assert!(!truncated.status.success());
}

#[test]
fn fio_verifies_what_it_wrote_to_a_fuse_file() {
    let mounted = Mounted::serve(memory(32 << 20));
    let file = format!("--filename={}", mounted.path());
    let cases: [&[&str]; 5] = [
        &["--bs=4k", "--iodepth=16", "--rw=randwrite", "--direct=1", "--ioengine=libaio"],
        &["--bs=4k", "--iodepth=16", "--rw=randwrite", "--direct=1", "--ioengine=io_uring"],
        &["--bs=4k", "--rw=randwrite", "--ioengine=psync", "--size=4M", "--fsync=16"],
        &["--bsrange=512-256k", "--bs_unaligned", "--rw=randwrite", "--ioengine=mmap"],
        &[
            "--bs=16k",
            "--iodepth=8",
            "--rw=randwrite",
            "--numjobs=4",
            "--size=8M",
            "--offset_increment=8M",
            "--fsync=32",
            "--direct=1",
            "--ioengine=libaio",
        ],
    ];
    for case in cases {
        let common = [
            "--name=verify",
            &file,
            "--size=32M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--randrepeat=1",
            "--do_verify=1",
            "--verify_state_save=0",
            "--allow_file_create=0",
            "--overwrite=1",
        ];
        succeed("fio", "fio", &[&common[..], case].concat());
    }
}

#[test]
fn with_root_and_a_loop_device_a_fuse_file_carries_a_file_system_that_gives_space_back() {
    let device = memory(64 << 20);
    let mounted = Mounted::serve(device.clone());
    let files = mounted.folder.path().join("files");
    fs::create_dir(&files).unwrap();
    let (disk, files) = (mounted.path(), files.to_str().unwrap());
    succeed("e2fsprogs", "mkfs.ext4", &["-q", "-F", disk]);
    succeed("mount", "mount", &["-o", "loop", disk, files]);
    let written = Path::new(files).join("written");
    fs::write(&written, content(5 * MIB)).unwrap();
    File::open(&written).unwrap().sync_all().unwrap();
    fs::write(Path::new(files).join("gone"), content(20 * MIB)).unwrap();
    succeed("coreutils", "sync", &["-f", files]);
    fs::remove_file(Path::new(files).join("gone")).unwrap();
    succeed("coreutils", "sync", &["-f", files]);
    let trimmed = succeed("util-linux", "fstrim", &["-v", files]);
    assert!(trimmed.contains("bytes"), "{trimmed}");
    assert!(fs::read(&written).unwrap() == content(5 * MIB));
    succeed("mount", "umount", &[files]);
    succeed("e2fsprogs", "e2fsck", &["-fn", disk]);
    let listed = succeed("e2fsprogs", "debugfs", &["-R", "stat /written", disk]);
    assert!(listed.contains(&format!("Size: {}", 5 * MIB)), "{listed}");
    mounted.stop().unwrap();
}
