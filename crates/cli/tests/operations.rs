//! What operators do with servers: see them, limit them, end them, and find none where there is none.

use crate::silt::{Server, Silt, judge, pseudo_random, wait_for};
use serde_json::{Value, json};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread,
    time::Instant,
};

fn furnished() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    silt
}

fn connect(server: &Server) -> NbdClient {
    NbdClient::connect(&server.socket).unwrap()
}

/// Folders of servers, living or not.
fn folders(silt: &Silt) -> Vec<PathBuf> {
    let run = fs::read_dir(silt.store().join("run")).unwrap();
    let paths = run.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_none_or(|role| role != "image")).collect()
}

fn listed(silt: &Silt) -> Vec<(String, u64)> {
    let servers = silt.json(&["ps"]);
    let row = |server: &Value| {
        (server["name"].as_str().unwrap().to_owned(), server["pid"].as_u64().unwrap())
    };
    servers.as_array().unwrap().iter().map(row).collect()
}

fn ask(socket: &PathBuf, question: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    writeln!(stream, "{question}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn what_is_served_is_listed_with_its_clients_and_what_they_did() {
    let silt = furnished();
    silt.json(&["snapshot", "vm@a"]);
    assert_eq!(silt.json(&["ps"]), json!([]));
    let server = silt.serve("vm", &["--iops", "1000000", "--bandwidth", "1G:2G", "--cache", "1M"]);
    let readers = [
        silt.serve_at("one.sock", "image", &["--read-only"]),
        silt.serve_at("two.sock", "image", &["--read-only"]),
        silt.serve_at("three.sock", "vm@a", &["--read-only"]),
    ];
    let client = connect(&server);
    let mut buf = vec![0; 65_536];
    client.read_at(&mut buf, 0).unwrap();
    client.write_at(&buf[..8192], 4096).unwrap();
    client.discard(0, 4096).unwrap();
    client.write_zeroes(0, 100, true).unwrap();
    client.flush().unwrap();
    client.flush().unwrap();
    let servers = silt.json(&["ps"]);
    let names: Vec<_> = servers.as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["image", "image", "vm", "vm@a"]);
    let vm = &servers[2];
    assert_eq!((&vm["kind"], &vm["read_only"]), (&json!("volume"), &json!(false)));
    assert_eq!((&vm["pid"], &vm["clients"]), (&json!(server.pid()), &json!(1)));
    let export = json!({ "protocol": "nbd", "address": server.socket, "clients": 1 });
    assert_eq!(vm["exports"], json!([export]));
    assert_eq!((&vm["size"], &vm["cache_bytes"]), (&json!(16 << 20), &json!(1 << 20)));
    assert_eq!(vm["limits"]["iops"], json!({ "per_second": 1_000_000, "burst": 100_000 }));
    assert_eq!(vm["limits"]["bandwidth"], json!({ "per_second": 1 << 30, "burst": 2u64 << 30 }));
    let count = |n: u64, bytes: u64| json!({ "operations": n, "bytes": bytes, "errors": 0 });
    let counts = json!({
        "read": count(1, 65_536), "write": count(1, 8192), "flush": count(2, 0),
        "discard": count(1, 4096), "write_zeroes": count(1, 100),
    });
    assert_eq!(vm["counts"], counts);
    assert!(vm["rates"]["read"]["bytes_per_second"].as_f64().unwrap() > 0.0, "{vm:#}");
    assert_eq!((&servers[3]["read_only"], &servers[3]["clients"]), (&json!(true), &json!(0)));
    // The name is the one that it has now, in whatever way it is asked for.
    silt.json(&["rename", "vm", "web"]);
    assert_eq!(silt.json(&["ps"])[2]["name"], "web");
    assert_eq!(silt.json(&["info", "web"])["served_by"]["pid"], server.pid());
    let by = &silt.json(&["info", "image"])["served_by"];
    assert_eq!(by["read_only"], true);
    let text = silt.ok(&["ps"]);
    assert!(text.contains("writable") && text.contains("three.sock"), "{text}");
    drop(client);
    server.stop();
    readers.into_iter().for_each(Server::stop);
    assert_eq!(silt.json(&["ps"]), json!([]));
    wait_for("the brokers' end", || folders(&silt).is_empty());
}

/// Whatever the broker of a server was prevented from: the folder of one that is dead is known by its lock.
#[test]
fn a_killed_server_is_never_listed_and_what_it_left_goes() {
    let silt = furnished();
    let (writer, reader) = (silt.serve("vm", &[]), silt.serve("image", &["--read-only"]));
    let ids = silt.json(&["ps"]).as_array().unwrap().clone();
    let (vm, pid) = (ids[1]["id"].as_str().unwrap().to_owned(), u64::from(reader.pid()));
    writer.kill();
    assert_eq!(listed(&silt), [("image".to_owned(), pid)], "at once");
    let left = silt.store().join("run").join(format!("{vm}.writer"));
    let plant = || {
        wait_for("the broker's end", || !left.exists());
        fs::create_dir(&left).unwrap();
        drop(UnixListener::bind(left.join("control")).unwrap());
    };
    plant();
    silt.fails(3, &["stop", "vm"]);
    assert!(!left.exists(), "who met it has removed it");
    plant();
    assert_eq!(listed(&silt), [("image".to_owned(), pid)]);
    assert!(!left.exists());
    plant();
    // The next server finds its own folder there.
    silt.serve("vm", &[]).stop();
    plant();
    assert_eq!(silt.json(&["info", "vm"])["served_by"], Value::Null);
    silt.json(&["snapshot", "vm@a"]);
    reader.kill();
    assert_eq!(listed(&silt), []);
    assert_eq!(folders(&silt), Vec::<PathBuf>::new());
    silt.assert_verified();
}

#[test]
fn stopping_waits_until_everything_is_durable_and_the_disk_can_be_had() {
    let silt = furnished();
    for round in 0..3 {
        let server = silt.serve("vm", &[]);
        let client = connect(&server);
        let bytes = pseudo_random(1 << 20, round);
        client.write_at(&bytes, 3 << 20).unwrap();
        let stopped = silt.json(&["stop", "vm"]);
        assert_eq!(stopped["stopped"][0]["pid"], server.pid());
        // No moment between: who needs it alone can have it.
        silt.json(&["resize", "vm", &format!("{}M", 17 + round)]);
        assert!(silt.exported("vm")[3 << 20..][..1 << 20] == bytes);
    }
    let one = silt.serve_at("one.sock", "image", &["--read-only"]);
    let two = silt.serve_at("two.sock", "image", &["--read-only"]);
    silt.json(&["stop", "image", "--pid", &one.pid().to_string()]);
    assert_eq!(listed(&silt), [("image".to_owned(), u64::from(two.pid()))]);
    silt.fails(3, &["stop", "image", "--pid", &one.pid().to_string()]);
    silt.json(&["stop", "image"]);
    silt.fails(3, &["stop", "image"]);
    silt.fails(3, &["stop", "nobody"]);
    silt.assert_verified();
}

#[test]
fn slow_and_hostile_clients_of_a_control_socket_hold_up_neither_commands_nor_the_end() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    let socket = folders(&silt)[0].join("control");
    let mut silent: Vec<_> = (0..20).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    silent[0].write_all(b"{\"ask\":").unwrap();
    assert_eq!(listed(&silt).len(), 1);
    silt.json(&["snapshot", "vm@a"]);
    // One that asks and never listens.
    let mut deaf = UnixStream::connect(&socket).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let _ = (0..10_000).try_for_each(|_| deaf.write_all(b"{\"ask\":\"status\"}\n"));
    assert_eq!(state_of(&ask(&socket, &json!({ "ask": "state" }))).len(), 64);
    // More than there is room for: they are sent away, and soon there is room again.
    silent.extend((0..40).map(|_| UnixStream::connect(&socket).unwrap()));
    wait_for("room", || silt.json(&["ps"]).as_array().is_some_and(|servers| servers.len() == 1));
    silent.extend((0..10).map(|_| UnixStream::connect(&socket).unwrap()));
    server.stop();
    assert_eq!(listed(&silt), []);
}

fn state_of(answer: &Value) -> String {
    answer["state"]["state_id"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_control_socket_answers_what_its_page_says() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    let socket = folders(&silt)[0].join("control");
    assert_eq!(ask(&socket, &json!({ "ask": "flush" })), json!({ "done": {} }));
    assert_eq!(state_of(&ask(&socket, &json!({ "ask": "state" }))).len(), 64);
    assert_eq!(ask(&socket, &json!({ "ask": "layers" }))["layers"]["generation"], 1);
    let status = ask(&socket, &json!({ "ask": "status" }))["status"].clone();
    let page = include_str!("../../../docs/internals/control.md");
    for key in status.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{key}`")), "control.md does not know {key}");
    }
    assert_eq!(status["counts"]["flush"]["operations"], 0, "only what clients do is counted");
    // Several on one connection.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"{\"ask\":\"flush\"}\n{\"ask\":\"mercy\"}\n").unwrap();
    let answers: Vec<_> = BufReader::new(stream).lines().map(Result::unwrap).collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers[1].starts_with("{\"error\":{\"kind\":\"invalid\""), "{answers:?}");
    let reader = silt.serve("image", &["--read-only"]);
    let of_reader = folders(&silt).into_iter().find(|path| !socket.starts_with(path)).unwrap();
    let refused = ask(&of_reader.join("control"), &json!({ "ask": "layers" }));
    assert_eq!(refused["error"]["kind"], "invalid");
    assert_eq!(ask(&of_reader.join("control"), &json!({ "ask": "stop" })), json!({ "done": {} }));
    wait_for("the reader's end", || !reader.socket.exists());
    server.stop();
}

#[test]
fn a_served_volume_becomes_no_longer_where_its_clients_cannot_be_told() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    let message = silt.fails(5, &["resize", "vm", "20M"]);
    assert!(message.contains("nbd") && message.contains("stop it first"), "{message}");
    // It is as long already.
    assert_eq!(silt.json(&["resize", "vm", "16M"])["size"], 16 << 20);
    silt.fails(5, &["resize", "vm", "8M", "--shrink"]);
    assert_eq!(silt.json(&["ps"])[0]["size"], 16 << 20);
    server.stop();
    let reader = silt.serve("vm", &["--read-only"]);
    silt.fails(5, &["resize", "vm", "20M"]);
    reader.stop();
    silt.json(&["resize", "vm", "20M"]);
    silt.assert_verified();
}

/// The limiter counts its waiting itself, so that no clock has to be believed.
#[test]
fn what_is_over_a_limit_waits_and_flushes_do_not() {
    let silt = furnished();
    let server = silt.serve("vm", &["--iops", "100:50", "--bandwidth", "4M:1M"]);
    let client = connect(&server);
    let started = Instant::now();
    for _ in 0..4 {
        client.write_at(&[7; 1 << 20], 0).unwrap();
    }
    assert!(started.elapsed().as_millis() >= 400, "4 MiB, less a burst and one request");
    thread::scope(|scope| {
        let readers = (0..4).map(|_| {
            scope.spawn(|| {
                let client = connect(&server);
                let mut buf = [0; 512];
                (0..25).for_each(|_| client.read_at(&mut buf, 0).unwrap());
            })
        });
        readers.collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().unwrap());
    });
    (0..200).for_each(|_| client.flush().unwrap());
    let vm = &silt.json(&["ps"])[0];
    assert!(vm["waited_seconds"].as_f64().unwrap() > 0.4, "{vm:#}");
    assert_eq!(vm["counts"]["read"]["operations"], 100);
    // What waits does not hold up the end.
    let waiting = thread::spawn(move || drop(client.write_at(&[7; 16 << 20], 0)));
    server.stop();
    waiting.join().unwrap();
    for bad in ["0", "x", "1:x", "", "-1", "1:2:3"] {
        silt.fails(6, &["serve", "vm", "--nbd", "s", &format!("--iops={bad}")]);
        silt.fails(6, &["serve", "vm", "--nbd", "s", &format!("--bandwidth={bad}")]);
    }
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let silt = furnished();
    let server = silt.serve("vm", &[]);
    connect(&server).write_at(&[1; 4096], 0).unwrap();
    let text = silt.ok(&["metrics"]);
    let labels = format!("disk=\"vm\",pid=\"{}\"", server.pid());
    for line in [
        format!("siltstone_disk_operations_total{{{labels},operation=\"write\"}} 1"),
        format!("siltstone_disk_bytes_total{{{labels},operation=\"write\"}} 4096"),
        format!("siltstone_disk_size_bytes{{{labels}}} 16777216"),
        "siltstone_servers_silent 0".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    let file = silt.path("silt.prom");
    fs::write(&file, &text).unwrap();
    let parse = "import sys; from prometheus_client.parser import text_fd_to_metric_families as read; \
                 print(sum(len(f.samples) for f in read(open(sys.argv[1]))))";
    let samples = judge("/usr/bin/python3", &["-c".as_ref(), OsStr::new(parse), file.as_os_str()]);
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples.trim(), lines.to_string());
    server.stop();
    silt.ok(&["metrics"]);
}
