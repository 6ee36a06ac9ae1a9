//! Whoever takes over the server of a disk tries to get out. What is tried is tried from inside a real server, confined as
//! `silt serve` is, by code that is compiled for this test alone.
//!
//! A program of its own, without the usual harness, since confinement is for processes of one thread: the test starts
//! itself again as the server.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use silt_engine::{
    Broker, BuildRequest, CloneRequest, Engine, ExportAddress, Listen, Serving, Source, StopSignal,
    VerifyRequest,
};
use silt_testkit::nbd_client::NbdClient;
use silt_types::NoProgress;
use silt_volume::BlockDevice as _;
use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Decoded chunks kept in memory, in bytes.
const CACHE: u64 = 4 << 20;

/// How long anything may take before the test is taken to hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["be-a-server", place, tcp] => be_a_server(Path::new(place), tcp),
        arguments if arguments.contains(&"--list") => {
            println!("confinement: test");
        }
        _ => {
            nothing_is_reached_from_inside_a_server();
            println!("nothing_is_reached_from_inside_a_server ... ok");
            a_killed_server_leaves_no_socket();
            println!("a_killed_server_leaves_no_socket ... ok");
        }
    }
}

fn nothing_is_reached_from_inside_a_server() {
    let place = stage();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = start(place.path(), &tcp);
    // It serves all the same: what is looked up by the broker, and what is written.
    let client = NbdClient::connect(&place.path().join("mine.nbd")).unwrap();
    let mut found = vec![0; 1 << 20];
    client.read_at(&mut found, 0).unwrap();
    assert!(found.iter().any(|byte| *byte != 0), "an ext4 file system is there");
    client.write_at(&[5; 8192], 4096).unwrap();
    client.flush().unwrap();
    // What it tried is told at the end, when it was served.
    drop(client);
    let _ = server.stdin.take();
    let mut told = String::new();
    server.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(server.wait().unwrap().success(), "{told}");
    assert!(told.trim().is_empty(), "a confined server could:\n{told}");
    assert!(!place.path().join("mine.nbd").exists(), "the broker removes the socket");
    assert_eq!(fs::read_dir(place.path().join("store/run")).unwrap().count(), 0);
    let engine = Engine::open(&place.path().join("store"), CACHE).unwrap();
    let report = engine.verify(&VerifyRequest::default(), &NoProgress).unwrap();
    assert!(report.damages.is_empty(), "{report:?}");
}

fn a_killed_server_leaves_no_socket() {
    let place = stage();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = start(place.path(), &tcp);
    server.kill().unwrap();
    server.wait().unwrap();
    let began = Instant::now();
    while place.path().join("mine.nbd").exists() {
        assert!(began.elapsed() < PATIENCE, "the broker did not clean up");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A store with two volumes, both written.
fn stage() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "some content\n".repeat(100_000)).unwrap();
    let engine = Engine::open_or_create(&place.path().join("store"), CACHE).unwrap();
    let build = BuildRequest::new("base".parse().unwrap());
    engine.build(&Source::Path(source), &build, &NoProgress).unwrap();
    let volumes = vec!["mine".parse().unwrap(), "other".parse().unwrap()];
    let request = CloneRequest { source: "base".parse().unwrap(), volumes };
    let records = engine.clone_disk(&request).unwrap();
    for name in ["mine", "other"] {
        write_something(&engine, place.path(), name);
    }
    let other = place.path().join(format!("store/volumes/{}", records[1].id));
    std::os::unix::fs::symlink(other, place.path().join("other")).unwrap();
    place
}

fn write_something(engine: &Engine, place: &Path, name: &str) {
    let stop = StopSignal::new().unwrap();
    thread::scope(|scope| {
        let (serving, until, ready) = (serving(name, place), stop.clone(), mpsc::channel());
        scope.spawn(move || engine.serve(&serving, &until, |_| ready.0.send(()).unwrap()).unwrap());
        ready.1.recv().unwrap();
        let client = NbdClient::connect(&place.join(format!("{name}.nbd"))).unwrap();
        client.write_at(&[9; 4096], 8192).unwrap();
        stop.trigger();
    });
}

fn serving(name: &str, place: &Path) -> Serving {
    let socket = place.join(format!("{name}.nbd"));
    let exports = vec![ExportAddress::Nbd(Listen::Unix(socket))];
    let limits = silt_engine::Limits::default();
    let bounds = silt_engine::VolumeBounds::default();
    Serving { name: name.parse().unwrap(), exports, read_only: false, limits, bounds, expect: None }
}

fn start(place: &Path, tcp: &TcpListener) -> Child {
    let address = tcp.local_addr().unwrap().to_string();
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg("be-a-server").arg(place).arg(address);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    child
}

/// Serves until standard input ends; then says what it could do that it should not.
fn be_a_server(place: &Path, tcp: &str) {
    let store = place.join("store");
    let broker = Broker::start(&store).unwrap();
    let others = files(&place.join("other"));
    assert!(others.len() >= 3, "header, log and data: {others:?}");
    let outside = UnixListener::bind(place.join("outside")).unwrap();
    let serving = serving("mine", place);
    let engine = Engine::open(&store, 0).unwrap().reading_through(&broker, CACHE);
    let mut prepared = engine.prepare(&serving).unwrap();
    drop(engine);
    prepared.confine(&broker, true).unwrap();
    let stop = StopSignal::new().unwrap();
    let mut done = String::new();
    prepared
        .run(&stop, |_| {
            done.push_str(&escapes(place, &others, tcp));
            // What a thread for a client could do.
            let (place, others) = (place.to_owned(), others.clone());
            let (tcp, stop) = (tcp.to_owned(), stop.clone());
            let from_thread = thread::spawn(move || escapes(&place, &others, &tcp)).join().unwrap();
            done.push_str(&from_thread);
            io::stdout().write_all(b"\n").unwrap();
            io::stdout().flush().unwrap();
            thread::spawn(move || {
                let _ = io::stdin().read_to_end(&mut Vec::new());
                stop.trigger();
            });
        })
        .unwrap();
    drop(outside);
    print!("{done}");
}

/// Tries what a guest's code would try. Answers what should not have worked, a line each.
fn escapes(place: &Path, others: &[PathBuf], tcp: &str) -> String {
    let store = place.join("store");
    let mut worked = String::new();
    let mut must_fail = |what: &str, tried: io::Result<()>| match tried {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => worked.push_str(&format!("{what} failed for another reason: {error}\n")),
        Ok(()) => worked.push_str(&format!("{what} worked\n")),
    };
    let read = |path: &Path| fs::File::open(path).map(drop);
    let write = |path: &Path| fs::OpenOptions::new().write(true).open(path).map(drop);
    let make = |path: &Path| fs::write(path, "x");

    // Other disks, and what all share.
    for file in others {
        must_fail(&format!("reading {}", file.display()), read(file));
        must_fail(&format!("writing {}", file.display()), write(file));
    }
    for name in ["catalog.db", "commit", "store"] {
        must_fail(&format!("reading {name}"), read(&store.join(name)));
        must_fail(&format!("writing {name}"), write(&store.join(name)));
    }
    must_fail("making a pack", make(&store.join("packs/x.pack")));
    must_fail("making a socket's name", make(&store.join("run/x")));
    must_fail("removing a pack", fs::remove_dir_all(store.join("packs")));

    // The host.
    must_fail("reading the user's home", fs::read_dir(home()).map(drop));
    must_fail("reading /etc/passwd", read(Path::new("/etc/passwd")));
    must_fail("reading other processes", fs::read_dir("/proc/1").map(drop));
    must_fail("making a file beside the socket", make(&place.join("x")));

    let mode = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644));
    must_fail("changing a mode", mode(&store.join("catalog.db")));
    must_fail("changing an owner", std::os::unix::fs::chown(&store, Some(1), None));

    // The network, and other services of the host.
    must_fail("connecting by TCP", TcpStream::connect(tcp).map(drop));
    must_fail("listening by TCP", TcpListener::bind("127.0.0.1:0").map(drop));
    must_fail("a UDP socket", UdpSocket::bind("127.0.0.1:0").map(drop));
    must_fail("connecting to a socket", UnixStream::connect(place.join("outside")).map(drop));

    // Other programs and processes.
    must_fail("running a program", Command::new("/bin/true").status().map(drop));
    let signal =
        rustix::process::kill_process(rustix::process::Pid::INIT, rustix::process::Signal::CONT);
    must_fail("a signal to another process", signal.map_err(io::Error::from));
    let root = rustix::process::chroot("/");
    must_fail("another root", root.map_err(io::Error::from));
    worked
}

/// Every file beneath a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from)
}
