//! `silt serve` as other people's clients see it, and how it begins and ends.

use crate::silt::{Ran, Silt, judge, pseudo_random, wait_for, wait_for_end};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use silt_testkit::nbd_client::{NbdClient, NbdSession};
use silt_volume::{BOOT_NOTES, BlockDevice as _};
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    process::{Command, Stdio},
};

fn nbdinfo(uri: &str) -> Value {
    let printed = judge("nbdinfo", &["--json".as_ref(), OsStr::new(uri)]);
    serde_json::from_str::<Value>(&printed).unwrap()["exports"][0].clone()
}

fn with_volume() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    silt
}

#[test]
fn clients_are_told_what_a_volume_can() {
    let silt = with_volume();
    let server = silt.serve("volume", &[]);
    let told = nbdinfo(&server.uri());
    assert_eq!(told["export-size"], 16 << 20);
    assert_eq!(told["export-name"], "");
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(told[can], true, "{can}");
    }
    assert_eq!(told["is_read_only"], false);
    server.stop();
}

#[test]
fn copies_by_other_tools_are_exact() {
    let silt = with_volume();
    let image = silt.exported("image");
    let server = silt.serve("volume", &[]);
    let copy = silt.path("copy");
    judge("nbdcopy", &[server.uri().as_ref(), copy.as_os_str()]);
    assert!(fs::read(&copy).unwrap() == image);
    // A whole disk of other bytes in, and out again.
    let other = silt.path("other");
    fs::write(&other, pseudo_random(16 << 20, 5)).unwrap();
    judge("nbdcopy", &["--flush".as_ref(), other.as_os_str(), server.uri().as_ref()]);
    let (other_path, uri) = (other.to_str().unwrap(), server.uri());
    let args = ["compare", "-f", "raw", "-F", "raw", other_path, &uri];
    judge("qemu-img", &args.map(OsStr::new));
    server.stop();
    assert!(silt.exported("volume") == fs::read(&other).unwrap());
    assert!(silt.exported("image") == image);
}

#[test]
fn what_was_trimmed_or_zeroed_reads_as_zero_for_ever() {
    let silt = with_volume();
    let server = silt.serve("volume", &[]);
    let uri = server.uri();
    let io = |command: &str| {
        let args = ["-f", "raw", "-c", command, &uri].map(OsStr::new);
        let printed = judge("qemu-io", &args);
        assert!(!printed.contains("failed"), "{printed}");
    };
    io("write -P 7 1M 2M");
    io("discard 1M 1M");
    io("write -z 2M 512k");
    io("flush");
    io("read -P 0 1M 1536k");
    io("read -P 7 2560k 512k");
    let printed = judge("nbdinfo", &["--map".as_ref(), server.uri().as_ref()]);
    assert!(printed.contains("hole,zero"), "{printed}");
    server.kill();
    silt.json(&["clone", "volume", "later"]);
    for name in ["volume", "later"] {
        let disk = silt.exported(name);
        assert!(disk[1 << 20..][..3 << 19].iter().all(|byte| *byte == 0), "{name}");
        assert!(disk[5 << 19..][..1 << 19].iter().all(|byte| *byte == 7), "{name}");
    }
}

#[test]
fn images_and_idle_volumes_have_many_readers_at_once() {
    let silt = with_volume();
    silt.fails(6, &["serve", "image", "--nbd", "sock"]);
    let image = silt.exported("image");
    for name in ["image", "volume"] {
        let one = silt.serve(name, &["--read-only"]);
        let other = silt.serve_at("second.sock", name, &["--read-only"]);
        assert_eq!(nbdinfo(&one.uri())["is_read_only"], true);
        for socket in [&one.socket, &other.socket] {
            let client = NbdClient::connect(socket).unwrap();
            let mut bytes = vec![0; 1 << 20];
            client.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == image[..1 << 20], "{name}");
            assert!(client.write_at(&[1; 512], 0).is_err());
        }
        if name == "volume" {
            silt.fails(5, &["serve", name, "--nbd", "third.sock"]);
            silt.fails(5, &["rm", name]);
            silt.json(&["export", name, "while-read"]);
        }
        one.stop();
        other.stop();
    }
    silt.serve("volume", &[]).stop();
}

#[test]
fn the_socket_is_private_and_a_stale_one_is_replaced() {
    let silt = with_volume();
    let server = silt.serve("volume", &[]);
    let socket = server.socket.clone();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    nbdinfo(&server.uri());
    server.kill();
    wait_for("the broker to remove it", || !socket.exists());
    // As it is where the broker was killed, too.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(silt.json(&["info", "volume"])["served_by"], Value::Null);
    let server = silt.serve("volume", &[]);
    nbdinfo(&server.uri());
    server.stop();
    // What is alive, or no socket, is left alone.
    let alive = UnixListener::bind(&socket).unwrap();
    let args = ["serve", "volume", "--nbd", socket.to_str().unwrap()];
    silt.fails(5, &args);
    drop(alive);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    silt.fails(4, &args);
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
}

#[test]
fn a_port_of_its_own_choice_is_said() {
    let silt = with_volume();
    let mut command = silt.command(&["serve", "volume", "--json", "--nbd", "tcp:127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut text = String::new();
    let document: Value = loop {
        text.push_str(&lines.next().unwrap().unwrap());
        if let Ok(document) = serde_json::from_str(&text) {
            break document;
        }
    };
    let address = document["address"].as_str().unwrap().strip_prefix("tcp:").unwrap().to_owned();
    assert_eq!(document["size"], 16 << 20);
    nbdinfo(&format!("nbd://{address}"));
    assert_eq!(
        silt.json(&["info", "volume"])["served_by"]["address"],
        format!("tcp:{address}").as_str()
    );
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(wait_for_end(&mut child).success());
    assert!(lines.next().is_none(), "one document, whatever else happens");
}

#[test]
fn a_termination_makes_everything_durable_while_clients_are_connected() {
    let silt = with_volume();
    for signal in ["TERM", "INT"] {
        let server = silt.serve("volume", &[]);
        let client = NbdClient::connect(&server.socket).unwrap();
        let idle = NbdClient::connect(&server.socket).unwrap();
        let bytes = pseudo_random(1 << 20, signal.len() as u64 + 10);
        client.write_at(&bytes, 4 << 20).unwrap();
        let pid = server.pid().to_string();
        if signal == "TERM" {
            server.stop();
        } else {
            judge("kill", &[format!("-{signal}").as_ref(), pid.as_ref()]);
            wait_for("the server's end", || !server.socket.exists());
        }
        drop((client, idle));
        wait_for("the volume", || silt.json(&["info", "volume"])["served_by"].is_null());
        assert!(silt.exported("volume")[4 << 20..][..1 << 20] == bytes, "{signal}");
    }
    silt.assert_verified();
}

#[test]
fn a_server_outlives_its_clients_and_the_terminal() {
    let silt = with_volume();
    let mut command = silt.command(&["serve", "volume", "--nbd", "sock"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let socket = silt.path("sock");
    wait_for("the socket", || socket.exists());
    for _ in 0..3 {
        drop(NbdClient::connect(&socket).unwrap());
    }
    NbdClient::connect(&socket).unwrap().write_at(&[1; 512], 0).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn fio_finds_every_byte_that_it_wrote() {
    let silt = with_volume();
    let server = silt.serve("volume", &[]);
    let mut fio = Command::new("fio");
    fio.current_dir(silt.path("")).args(["--name=verify", "--ioengine=nbd", "--rw=randwrite"]);
    fio.args(["--bsrange=512-64k", "--blockalign=512", "--size=16M", "--io_size=24M"]);
    fio.args(["--iodepth=8", "--verify=crc32c", "--fsync=16", "--randseed=7"]);
    fio.arg(format!("--uri={}", server.uri()));
    let ran = Ran::of(&mut fio);
    assert!(ran.status.success(), "{ran:?}");
    server.stop();
    silt.assert_verified();
}

/// That clients may use several connections as if they were one.
#[test]
fn a_flush_on_one_connection_covers_what_was_answered_on_another() {
    let silt = with_volume();
    let server = silt.serve("volume", &[]);
    let (one, other) =
        (NbdClient::connect(&server.socket).unwrap(), NbdClient::connect(&server.socket).unwrap());
    one.write_at(&[7; 8192], 1 << 20).unwrap();
    one.write_zeroes(2 << 20, 4096, true).unwrap();
    other.flush().unwrap();
    // Nobody flushes this, so a power cut takes it along: else the test would show nothing.
    other.write_at(&[8; 8192], 3 << 20).unwrap();
    server.kill();
    for notes in silt.files_called(BOOT_NOTES) {
        fs::remove_file(notes).unwrap();
    }
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let mut found = vec![0; 8192];
    client.read_at(&mut found, 1 << 20).unwrap();
    assert!(found == [7; 8192]);
    client.read_at(&mut found[..4096], 2 << 20).unwrap();
    assert!(found[..4096] == [0; 4096]);
    client.read_at(&mut found, 3 << 20).unwrap();
    assert!(found != [8; 8192]);
    server.stop();
}

/// A guest that goes on under the next server would read old data, and never know: it was answered.
#[test]
fn what_a_killed_server_had_answered_is_there_flushed_or_not() {
    let silt = with_volume();
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&[7; 8192], 1 << 20).unwrap();
    client.flush().unwrap();
    client.write_at(&[8; 5000], (2 << 20) + 100).unwrap();
    client.write_zeroes(3 << 20, 8192, true).unwrap();
    client.write_at(&[9; 512], 1 << 20).unwrap();
    server.kill();
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let mut found = vec![0; 8192];
    client.read_at(&mut found, 1 << 20).unwrap();
    assert!(found[..512] == [9; 512] && found[512..] == [7; 8192 - 512]);
    client.read_at(&mut found[..5000], (2 << 20) + 100).unwrap();
    assert!(found[..5000] == [8; 5000]);
    client.read_at(&mut found, 3 << 20).unwrap();
    assert!(found == [0; 8192]);
    server.stop();
}

/// The bound of `docs/internals/nbd.md`: 8 MiB for a connection.
#[test]
fn clients_that_ask_and_never_listen_cost_no_more_than_their_bound() {
    const CLIENTS: u64 = 16;
    let silt = with_volume();
    let server = silt.serve("volume", &["--cache", "1M"]);
    let resident_kib = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    NbdClient::connect(&server.socket).unwrap().flush().unwrap();
    let before = resident_kib();
    let mut deaf: Vec<NbdSession> = (0..CLIENTS)
        .map(|_| {
            let mut session = NbdSession::connect(&server.socket).unwrap();
            session.enter(true).unwrap();
            session
        })
        .collect();
    std::thread::scope(|scope| {
        for session in &mut deaf {
            scope.spawn(move || {
                // Until the server takes no more, which is what it should come to.
                for cookie in 0..1000 {
                    let reads = cookie % 2 == 0;
                    let (command, len) = if reads { ((0, 0), 16 << 20) } else { ((0, 1), 20_001) };
                    let payload = vec![1; if reads { 0 } else { len as usize }];
                    if session
                        .request(
                            command,
                            cookie,
                            (1, len - 1),
                            &payload[..payload.len().saturating_sub(1)],
                        )
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_secs(3));
        let grown = resident_kib() - before;
        assert!(grown < CLIENTS * (8 << 10), "{grown} KiB for {CLIENTS} clients");
        // The others are served on.
        NbdClient::connect(&server.socket).unwrap().flush().unwrap();
        kill_process(Pid::from_raw(server.pid() as i32).unwrap(), Signal::KILL).unwrap();
    });
}
