//! What nbdinfo, nbdcopy, qemu and fio say of a server.

use crate::{
    device::{Odd, memory},
    running::{Running, run, succeed},
};
use serde_json::Value;
use silt_export::{
    Export as _, ExportAddress, StopSignal,
    nbd::{Listen, Server},
};
use silt_types::ErrorKind;
use silt_volume::MemoryDevice;
use std::{path::Path, sync::Arc};

const LIBNBD: &str = "libnbd-bin";
const QEMU: &str = "qemu-utils";
const MIB: usize = 1 << 20;

/// Content with runs of zeroes in it, and an odd end.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| if at / 100_000 % 3 == 1 { 0 } else { (at * 31 + at / 4096) as u8 }).collect()
}

fn nbdinfo(uri: &str) -> Value {
    let text = succeed(LIBNBD, "nbdinfo", &["--json", "--no-content", uri]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn nbdinfo_is_told_what_a_writable_disk_can_do() {
    let running = Running::serve(memory(3 << 20));
    let info = nbdinfo(&running.uri());
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!((&info["TLS"], &info["structured"]), (&false.into(), &true.into()));
    let export = &info["exports"][0];
    let expected = [
        ("export-name", Value::from("")),
        ("export-size", Value::from(3 << 20)),
        ("is_read_only", false.into()),
        ("can_flush", true.into()),
        ("can_fua", true.into()),
        ("can_trim", true.into()),
        ("can_zero", true.into()),
        ("can_multi_conn", true.into()),
        ("can_df", true.into()),
        ("can_fast_zero", true.into()),
        ("block_size_minimum", 1.into()),
        ("block_size_preferred", 4096.into()),
        ("block_size_maximum", (32 << 20).into()),
        ("contexts", vec!["base:allocation"].into()),
    ];
    for (key, value) in expected {
        assert_eq!(export[key], value, "{key}");
    }
    let list = succeed(LIBNBD, "nbdinfo", &["--list", "--no-content", &running.uri()]);
    assert!(list.contains("export=\"\""), "{list}");
}

#[test]
fn nbdinfo_is_told_that_a_disk_is_read_only() {
    let running = Running::serve(Arc::new(MemoryDevice::new(vec![1; MIB], true)));
    let export = &nbdinfo(&running.uri())["exports"][0];
    for (key, value) in [("is_read_only", true), ("can_trim", false), ("can_zero", false)] {
        assert_eq!(export[key], value, "{key}");
    }
}

#[test]
fn there_is_no_export_but_the_default_one() {
    let running = Running::serve(memory(MIB as u64));
    let uri = format!("nbd+unix:///other?socket={}", running.socket.display());
    let output = run(LIBNBD, "nbdinfo", &[&uri]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("No such file or directory for export: other"), "{errors}");
}

#[test]
fn nbdcopy_in_and_out_gives_the_same_bytes() {
    let bytes = content(40 * MIB + 12_345);
    let running = Running::serve(memory(bytes.len() as u64));
    let (source, back) = (running.folder.path().join("in"), running.folder.path().join("out"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    std::fs::write(&source, &bytes).unwrap();
    succeed(LIBNBD, "nbdcopy", &["--flush", &path(&source), &running.uri()]);
    succeed(LIBNBD, "nbdcopy", &[&running.uri(), &path(&back)]);
    assert!(std::fs::read(&back).unwrap() == bytes);
    let arguments = ["compare", "-f", "raw", "-F", "raw", &path(&source), &running.uri()];
    succeed(QEMU, "qemu-img", &arguments);
}

#[test]
fn qemu_io_reads_what_it_wrote_zeroed_and_discarded() {
    let running = Running::serve(memory(8 << 20));
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
    let uri = running.uri();
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let text = succeed(QEMU, "qemu-io", &arguments);
    assert!(!text.contains("fail") && !text.contains("differ"), "{text}");
}

#[test]
fn fio_verifies_what_it_wrote_at_every_depth_and_with_several_connections() {
    let running = Running::serve(memory(32 << 20));
    let uri = format!("--uri={}", running.uri());
    let cases: [&[&str]; 5] = [
        &["--bs=4k", "--iodepth=16", "--rw=randwrite"],
        &["--bs=4k", "--iodepth=1", "--rw=randwrite", "--size=4M"],
        // Deeper, fio would trim and write one block at the same time.
        &["--bs=64k", "--iodepth=1", "--rw=randtrimwrite"],
        &["--bsrange=512-256k", "--bs_unaligned", "--iodepth=32", "--rw=randwrite"],
        &[
            "--bs=16k",
            "--iodepth=8",
            "--rw=randwrite",
            "--numjobs=4",
            "--size=8M",
            "--offset_increment=8M",
            "--fsync=32",
        ],
    ];
    for case in cases {
        let common = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--size=32M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--randrepeat=1",
            "--do_verify=1",
            "--verify_state_save=0",
        ];
        succeed("fio", "fio", &[&common[..], case].concat());
    }
}

#[test]
fn a_cold_disk_is_served_by_workers_with_the_same_result() {
    let device = Odd::new(32 * MIB, false);
    device.is_cold.store(true, std::sync::atomic::Ordering::Relaxed);
    let running = Running::serve(device);
    let uri = format!("--uri={}", running.uri());
    let arguments = [
        "--name=cold",
        "--verify_state_save=0",
        "--ioengine=nbd",
        &uri,
        "--size=32M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=32",
    ];
    succeed("fio", "fio", &arguments);
}

#[test]
fn tcp_serves_loopback_and_nothing_else() {
    for address in ["0.0.0.0:0", "192.0.2.1:10809", "[::]:0"] {
        let error = Server::bind(&Listen::Tcp(address.parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{address}");
    }
    let server = Server::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let ExportAddress::Nbd(Listen::Tcp(address)) = server.address() else {
        panic!("not a TCP address")
    };
    let error = Server::bind(&Listen::Tcp(address)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert!(error.chain().contains(&address.to_string()), "{error:?}");
    let stop = StopSignal::new().unwrap();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| server.run(memory(MIB as u64), &stop));
        let uri = format!("nbd://{address}");
        let text = succeed(LIBNBD, "nbdinfo", &["--size", &uri]);
        assert_eq!(text.trim(), "1048576");
        let commands = ["-f", "raw", "-c", "write -P 5 0 1M", "-c", "read -P 5 0 1M", &uri];
        succeed(QEMU, "qemu-io", &commands);
        stop.trigger();
        serving.join().unwrap().unwrap();
    });
}
