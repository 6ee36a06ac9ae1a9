//! `kill -9` of a server under load: nothing that was flushed is lost, and the next server needs no hand.

use super::{
    facts::{complaints, export, look},
    guest::{Ask, Guest, History, Moment, Request, request},
    scenes::Props,
    stage::{Served, copy_folder, scratch, silt_ok},
};
use silt_engine::Engine;
use silt_testkit::nbd_client::NbdSession;
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const KILLS: usize = 5;
/// Answers after which a server is killed; every time some more, to hit other moments.
const ANSWERS: usize = 150;
/// Guests at once, each in its own part of the disk.
const GUESTS: u64 = 3;
const PART_BYTES: u64 = 256 << 10;

/// The request of a guest in its part of the disk, drawn from its number.
fn drawn(part: u64, number: u64) -> Request {
    let mut state = (part << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut draw = |below: u64| {
        state ^= state >> 29;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (state >> 33) % below
    };
    let (ask, unit) = match draw(10) {
        0 => (Ask::Trim, 4096),
        1 => (Ask::Zero, 512),
        2 => (Ask::WriteFua, 512),
        3..=5 => (Ask::Write, 512),
        _ => (Ask::Write, 4096),
    };
    let at = draw(PART_BYTES / unit);
    let len = (1 + draw(6)).min(PART_BYTES / unit - at);
    request(ask, part * PART_BYTES + at * unit, len * unit)
}

/// One guest until its server is gone. Answers what it asked for, and how far it had come.
fn work(session: NbdSession, part: u64, seed: u64, answered: &AtomicUsize) -> (History, Moment) {
    let (mut history, marks) = (History::default(), Mutex::new(Vec::new()));
    let note = |mark| marks.lock().unwrap().push(mark);
    let mut guest = Guest { session, history: &mut history, note: &note };
    for number in seed.. {
        let asked = guest.ask(drawn(part, number));
        let flushed = if number % 9 == 8 { guest.flush() } else { Ok(0) };
        match (asked, flushed) {
            (Ok(0), Ok(0)) => answered.fetch_add(1, SeqCst),
            (Ok(error), _) if error != 0 => panic!("request {number} failed: {error}"),
            (_, Ok(error)) if error != 0 => panic!("flush {number} failed: {error}"),
            _ => break,
        };
    }
    let moment = Moment::of(marks.lock().unwrap().iter().map(String::as_str));
    (history, moment)
}

#[test]
fn a_killed_server_loses_nothing_that_was_flushed() {
    let (props, place) = (Props::new(), scratch());
    let (store, socket) = (place.path().join("store"), place.path().join("socket"));
    copy_folder(&props.store(), &store);
    // Taken under load, between the kills, and never to change.
    let mut kept = BTreeMap::new();
    for kill in 0..KILLS {
        let before = look(&store).unwrap().disks["idle"].clone();
        let served = Served::start(&store, "idle", &socket).unwrap();
        let answered = AtomicUsize::new(0);
        let went = std::thread::scope(|scope| {
            let sessions: Vec<_> = (0..GUESTS).map(|_| served.connect().unwrap()).collect();
            let guests: Vec<_> = sessions
                .into_iter()
                .zip(0..)
                .map(|(session, part)| {
                    let (seed, answered) = (kill as u64 * 10_000, &answered);
                    scope.spawn(move || work(session, part, seed, answered))
                })
                .collect();
            let wait_for = |answers: usize| {
                while answered.load(SeqCst) < answers {
                    std::thread::yield_now();
                }
            };
            wait_for(ANSWERS / 2);
            let snapshot = format!("idle@k{kill}");
            silt_ok(&store, &["snapshot", &snapshot]);
            let engine = Engine::open(&store, 8 << 20).unwrap();
            kept.insert(snapshot.clone(), export(&engine, &snapshot.parse().unwrap()).unwrap());
            if kill % 2 == 1 {
                silt_ok(&store, &["seal", "idle"]);
            }
            wait_for(ANSWERS + 37 * kill);
            served.kill_now();
            guests.into_iter().map(|guest| guest.join().unwrap()).collect::<Vec<_>>()
        });
        drop(served);
        assert_eq!(complaints(&store), [""; 0], "kill {kill}");
        let left = look(&store).unwrap().disks;
        for (name, bytes) in &kept {
            assert!(left[name] == *bytes, "kill {kill}: {name} has changed");
        }
        let after = &left["idle"];
        for (part, (mut history, moment)) in went.into_iter().enumerate() {
            let range = part * PART_BYTES as usize..(part + 1) * PART_BYTES as usize;
            // Its own part is all that a guest knows of.
            history.before = before.clone();
            let mut seen = before.clone();
            seen[range.clone()].copy_from_slice(&after[range]);
            history.allows(&seen, &moment).unwrap_or_else(|why| panic!("kill {kill}: {why}"));
        }
    }
    Served::start(&store, "idle", &socket).unwrap().terminate();
    assert_eq!(complaints(&store), [""; 0]);
}

const FIO_PART: &str = "4M";

fn fio(socket: &Path, args: &[&str]) -> Child {
    let uri = format!("--uri=nbd+unix:///?socket={}", socket.display());
    let common = ["--name=job", "--ioengine=nbd", &uri, "--size", FIO_PART, "--bs=4k"];
    let verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=1"];
    let mut command = Command::new("fio");
    command.args(common).args(verify).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn fio_succeeds(socket: &Path, args: &[&str]) {
    let output = fio(socket, args).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fio {args:?}: {text}");
}

/// One part of the disk is written whole and flushed, then verified after each of five kills, which happen while fio
/// writes and verifies another part.
#[test]
fn fio_finds_what_was_flushed_after_each_kill() {
    if Command::new("fio").arg("--version").output().is_err() {
        println!("skipped: no fio");
        return;
    }
    let (props, place) = (Props::new(), scratch());
    let (store, socket) = (place.path().join("store"), place.path().join("socket"));
    copy_folder(&props.store(), &store);
    let words = props.words("build one large --size 16M");
    silt_ok(&store, &words.iter().map(String::as_str).collect::<Vec<_>>());
    silt_ok(&store, &["clone", "large", "disk"]);
    let served = Served::start(&store, "disk", &socket).unwrap();
    let flushed = ["--rw=randwrite", "--iodepth=8", "--do_verify=0", "--end_fsync=1"];
    fio_succeeds(&socket, &flushed);
    let mut running = Some(served);
    for kill in 0..KILLS as u64 {
        let offset = "--offset=8M";
        let seed = format!("--randseed={kill}");
        let backlog = "--verify_backlog=32";
        let mut load = fio(
            &socket,
            &["--rw=randwrite", "--iodepth=8", offset, &seed, backlog, "--loops=100", "--fsync=16"],
        );
        // Not a wait for anything: fio takes about so long to be in the middle of its work.
        std::thread::sleep(Duration::from_millis(300 + 50 * kill));
        running.take().unwrap().kill();
        assert!(!load.wait().unwrap().success(), "fio did not see the kill");
        assert_eq!(complaints(&store), [""; 0], "kill {kill}");
        let served = Served::start(&store, "disk", &socket).unwrap();
        fio_succeeds(&socket, &["--rw=randwrite", "--iodepth=8", "--verify_only=1"]);
        running = Some(served);
    }
    assert_eq!(running.unwrap().terminate().code(), 0);
}
