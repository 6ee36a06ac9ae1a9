//! The bounds of a store: what each refuses, that what was there stays, and that there is a way back. And what happens on a file
//! system that is full, read-only or gone.

use crate::silt::{Ran, Server, Silt, disk_usage, judge, pseudo_random, wait_for};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use serde_json::{Value, json};
use silt_testkit::{
    ext4_image::LoopMount,
    nbd_client::{NbdClient, NbdSession},
    vhost_user_client::{VhostUserClient, Wishes},
};
use silt_types::ErrorKind;
use silt_volume::BlockDevice as _;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A store with an image of 16 MiB, of which 300 KB are content, and the volume `vm` on it.
fn furnished() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    silt
}

/// A store on a file system of its own, of this length.
fn on_loop(silt: &Silt, mib: u64) -> LoopMount {
    let (file, at) = (silt.path("disk"), silt.store());
    File::create(&file).unwrap().set_len(mib * MIB).unwrap();
    judge("mke2fs", &["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), file.as_os_str()]);
    fs::create_dir(&at).unwrap();
    let mounted = LoopMount::new(&file, &at, "rw").unwrap().expect("loop devices are here");
    fs::remove_dir(at.join("lost+found")).unwrap();
    mounted
}

/// A folder of bytes that do not compress.
fn tree_of(silt: &Silt, name: &str, bytes: u64, seed: u64) -> String {
    let dir = silt.path(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("file"), pseudo_random(bytes as usize, seed)).unwrap();
    dir.to_str().unwrap().to_owned()
}

fn on_disk(silt: &Silt) -> u64 {
    silt.json(&["store", "limits"])["bytes_on_disk"].as_u64().unwrap()
}

/// A block that neither shrinks nor is like another.
fn filling(block: u64) -> Vec<u8> {
    pseudo_random(4096, block + 1000)
}

/// Fills a volume from `start` on, a block at a time, until it is full. Answers how many blocks it took.
fn fill(client: &dyn silt_volume::BlockDevice, start: u64) -> u64 {
    for block in 0.. {
        match client.write_at(&filling(block), start + block * 4096) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
                return block;
            }
        }
    }
    unreachable!("a disk has an end")
}

fn space_of(silt: &Silt) -> Value {
    silt.json(&["info", "vm"])["space"].clone()
}

#[test]
fn bounds_are_shown_set_and_damage_to_them_stops_growth_alone() {
    let silt = Silt::new();
    silt.fails(3, &["store", "limits"]);
    let set = silt.json(&["store", "limits", "--quota", "1G", "--when-full", "pause"]);
    assert_eq!((&set["quota"], &set["when_full"]), (&json!(1 << 30), &json!("pause")));
    silt.small_image("image");
    silt.json(&["store", "limits", "--delta", "5M", "--reserve", "0"]);
    let set = silt.json(&["store", "limits"]);
    let bounds = ["quota", "reserve", "reserve_is_default", "delta", "when_full"];
    let bounds = bounds.map(|bound| set[bound].clone());
    assert_eq!(json!(bounds), json!([1 << 30, 0, false, 5 << 20, "pause"]));
    // With what the database has beside it while it is open.
    let (said, used) = (set["bytes_on_disk"].as_u64().unwrap(), disk_usage(&silt.store()));
    assert!((used..used + 64 * KIB).contains(&said), "{said} {used}");
    silt.assert_verified();
    for wrong in [&["--quota", "much"][..], &["--delta", "default"]] {
        silt.fails(6, &[&["store", "limits"], wrong].concat());
    }
    silt.fails(2, &["store", "limits", "--when-full", "never"]);
    let limits = silt.store().join("limits");
    let bytes = fs::read(&limits).unwrap();
    for damaged in [&bytes[..50], &[0; 96][..], b""] {
        fs::write(&limits, damaged).unwrap();
        assert!(
            silt.fails(7, &["build", "small-tree", "other", "--size", "20M"]).contains("limits")
        );
        assert_eq!(silt.run(&["verify"]).status.code(), Some(7));
        assert_eq!(silt.names(), ["image"]);
        silt.ok(&["clone", "image", "vm"]);
        silt.ok(&["rm", "vm"]);
        silt.ok(&["gc"]);
    }
    assert_eq!(silt.json(&["store", "limits", "--quota", "none"])["delta"], Value::Null);
    silt.ok(&["build", "small-tree", "other", "--size", "20M"]);
    silt.assert_verified();
}

#[test]
fn a_quota_refuses_whatever_adds_and_removal_makes_room_again() {
    let silt = furnished();
    let (small, large) = (tree_of(&silt, "small", MIB, 1), tree_of(&silt, "large", 3 * MIB, 2));
    silt.ok(&["build", &small, "small"]);
    fs::write(silt.path("raw"), pseudo_random(3 << 20, 3)).unwrap();
    judge(
        "qemu-img",
        &["convert", "-O", "qcow2", "-f", "raw"]
            .map(OsStr::new)
            .into_iter()
            .chain([silt.path("raw").as_os_str(), silt.path("qcow2").as_os_str()])
            .collect::<Vec<_>>(),
    );
    judge(
        "tar",
        &[
            "-cf".as_ref(),
            silt.path("tar").as_os_str(),
            "-C".as_ref(),
            large.as_ref(),
            ".".as_ref(),
        ],
    );
    let before = silt.exported("image");
    let quota = (on_disk(&silt) + 700 * KIB).to_string();
    silt.ok(&["store", "limits", "--quota", &quota]);
    for source in [large.as_str(), "raw", "qcow2", "tar"] {
        let message = silt.fails(8, &["build", source, "new"]);
        assert!(message.contains("its quota of") && message.contains("silt gc"), "{message}");
    }
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let blocks = fill(&client, 8 * MIB);
    assert!((100..180).contains(&blocks), "{blocks}");
    client.flush().unwrap();
    drop(client);
    server.stop();
    // A snapshot adds nothing but a name; sealing does.
    silt.ok(&["snapshot", "vm@full"]);
    silt.fails(8, &["commit", "vm", "committed"]);
    let warnings = silt.json(&["info"])["warnings"].clone();
    assert_eq!(
        (&warnings[0]["about"], &warnings[0]["severity"]),
        (&json!("quota"), &json!("critical"))
    );
    silt.assert_verified();
    assert!(silt.exported("image") == before);
    assert_eq!(silt.names(), ["image", "small", "vm", "vm@full"]);
    // The way back.
    silt.ok(&["rm", "small"]);
    silt.ok(&["gc"]);
    silt.ok(&["commit", "vm", "committed"]);
    let vm = silt.exported("vm");
    assert!(vm[8 << 20..][..4096] == filling(0) && vm == silt.exported("committed"));
    silt.ok(&["store", "limits", "--quota", "none"]);
    silt.ok(&["build", &large, "new"]);
    assert_eq!(silt.json(&["info"])["warnings"], json!([]));
    silt.assert_verified();
}

#[test]
fn loop_a_reserve_stays_free_and_what_removes_may_use_it() {
    let silt = Silt::new();
    let _mounted = on_loop(&silt, 64);
    silt.ok(&["store", "limits", "--reserve", "30M"]);
    let first = tree_of(&silt, "first", 4 * MIB, 1);
    silt.ok(&["build", &first, "first", "--size", "64M"]);
    silt.ok(&["clone", "first", "vm"]);
    let large = tree_of(&silt, "large", 40 * MIB, 2);
    assert!(silt.fails(8, &["build", &large, "large"]).contains("its reserve"));
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    fill(&client, 12 * MIB);
    let space = silt.json(&["info"])["space"].clone();
    let free = space["file_system_bytes_free"].as_u64().unwrap();
    assert!((29 * MIB..31 * MIB).contains(&free), "{free}");
    client.flush().unwrap();
    drop(client);
    server.stop();
    for args in [
        &["clone", "vm", "other"][..],
        &["snapshot", "vm@s"],
        &["rm", "vm@s"],
        &["rm", "vm", "other"],
    ] {
        silt.ok(args);
    }
    silt.ok(&["gc"]);
    silt.assert_verified();
    silt.ok(&["store", "limits", "--reserve", "1M"]);
    silt.ok(&["build", &tree_of(&silt, "more", 30 * MIB, 3), "more"]);
    silt.assert_verified();
}

#[test]
fn a_volume_at_its_limit_refuses_new_blocks_and_takes_all_else() {
    let silt = furnished();
    silt.ok(&["store", "limits", "--delta", "100M"]);
    let server = silt.serve("vm", &["--delta-max", "1M"]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let blocks = fill(&client, 4 * MIB);
    assert!((240..=256).contains(&blocks), "{blocks}");
    let space = space_of(&silt);
    assert_eq!((&space["is_full"], &space["delta_bytes_max"]), (&json!(true), &json!(MIB)));
    assert!(silt.ok(&["ps"]).contains(" full "));
    assert!(silt.ok(&["metrics"]).contains("siltstone_disk_full{disk=\"vm\""));
    let warnings = silt.json(&["info"])["warnings"].clone();
    assert_eq!(
        (&warnings[0]["volume"], &warnings[0]["severity"]),
        (&json!("vm"), &json!("critical"))
    );
    // Refused as a whole, parts of it that are in as well.
    let error = client.write_at(&[9; 8192], 4 * MIB + (blocks - 1) * 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let mut block = [0; 4096];
    client.read_at(&mut block, 4 * MIB + (blocks - 1) * 4096).unwrap();
    assert!(block == filling(blocks - 1)[..]);
    client.flush().unwrap();
    client.write_at(&[7; 8192], 4 * MIB).unwrap();
    client.write_zeroes(4 * MIB, 100, false).unwrap();
    client.flush().unwrap();
    // What is given back can be written again, there or elsewhere, and no more than that.
    client.discard(4 * MIB, 64 * 4096).unwrap();
    let again = fill(&client, 9 * MIB);
    assert!((60..=66).contains(&again), "{again}");
    assert_eq!(client.write_at(&[1; 4096], 4 * MIB).unwrap_err().kind(), ErrorKind::NoSpace);
    client.flush().unwrap();
    drop(client);
    let ran = server.terminate();
    assert!(ran.status.success() && ran.stderr.matches("is full").count() == 2, "{ran:?}");
    // Opened again, holes are holes.
    let server = silt.serve("vm", &["--delta-max", "1M"]);
    let client = NbdClient::connect(&server.socket).unwrap();
    assert_eq!(client.write_at(&[1; 4096], 4 * MIB).unwrap_err().kind(), ErrorKind::NoSpace);
    client.write_at(&[1; 4096], 9 * MIB).unwrap();
    // Sealed, the volume has no delta any more.
    silt.ok(&["flatten", "vm"]);
    client.write_at(&[1; 4096], 4 * MIB).unwrap();
    drop(client);
    server.stop();
    silt.assert_verified();
}

/// Replies to requests that were sent at once, by cookie.
fn replies(session: &mut NbdSession, count: usize) -> BTreeMap<u64, u32> {
    (0..count).map(|_| session.reply().unwrap()).map(|reply| (reply.cookie, reply.error)).collect()
}

#[test]
fn writes_wait_for_space_while_everything_else_goes_on() {
    let silt = furnished();
    let server = silt.serve("vm", &["--delta-max", "1M", "--when-full", "pause"]);
    let mut session = NbdSession::connect(&server.socket).unwrap();
    session.enter(true).unwrap();
    let write = (0, 1);
    session.ask(write, (4 * MIB, MIB - 64 * KIB), &vec![5; (MIB - 64 * KIB) as usize]).unwrap();
    // Whole blocks, parts of blocks, and a long one: all of one connection, more than it has threads.
    let block = vec![6; 65_536 * 2];
    for cookie in 0..100 {
        session
            .request(write, cookie, (8 * MIB + cookie * 65_536, 65_536), &block[..65_536])
            .unwrap();
    }
    wait_for("writes to wait", || space_of(&silt)["waiting"].as_u64().unwrap() > 0);
    session.request(write, 200, (6 * MIB + 512, 1024), &block[..1024]).unwrap();
    // Reads, overwrites, flushes, discards of what has no space.
    let others = [
        ((0, 0), 300, (4 * MIB, 4096), &block[..0]),
        ((0, 0), 301, (0, 65_536), &block[..0]),
        (write, 302, (4 * MIB, 8192), &block[..8192]),
        ((0, 3), 303, (0, 0), &block[..0]),
    ];
    for (command, cookie, range, payload) in others {
        session.request(command, cookie, range, payload).unwrap();
    }
    let answered = replies(&mut session, 4 + 1);
    // One of the first writes may have had space.
    let expected = (300..304).map(|cookie| (cookie, 0));
    expected.for_each(|one| assert!(answered.contains_key(&one.0), "{answered:?}"));
    assert!(answered.values().all(|error| *error == 0), "{answered:?}");
    silt.ok(&["snapshot", "vm@meanwhile"]);
    silt.fails(5, &["serve", "vm", "--take-over"]);
    let listed = silt.ok(&["ps"]);
    assert!(listed.contains("wait"), "{listed}");
    // Space is made: by sealing what was frozen. Then what waited goes on, as far as that goes.
    silt.ok(&["seal"]);
    let more = replies(&mut session, 10);
    assert!(more.values().all(|error| *error == 0), "{more:?}");
    wait_for("the volume to be full again", || space_of(&silt)["is_full"] == true);
    // Room is made by the guest's own discard, too.
    let written = || silt.json(&["ps"])[0]["counts"]["write"]["operations"].as_u64().unwrap();
    let before = written();
    // Writes that were under way at once may have gone beyond the limit by what they write.
    for cookie in more.keys().filter(|cookie| **cookie < 100).take(4) {
        session.request((0, 4), 400 + cookie, (8 * MIB + cookie * 65_536, 65_536), b"").unwrap();
    }
    wait_for("another write", || written() > before);
    // At the end those that still wait are refused, and the end is a good one.
    let ran = server.terminate();
    assert!(ran.status.success() && ran.stderr.contains("need space wait"), "{ran:?}");
    let mut refused = 0;
    while let Ok(reply) = session.reply() {
        refused += u32::from(reply.error == 28);
    }
    assert!(refused > 10, "{refused}");
    silt.assert_verified();
}

#[test]
fn fuse_a_full_file_says_enospc_or_waits() {
    let silt = furnished();
    let file = silt.path("disk");
    let serve = |options: &[&str]| {
        let args = [&["serve", "vm", "--fuse", "disk", "--delta-max", "1M"], options].concat();
        let child =
            silt.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the file", || fs::metadata(&file).is_ok_and(|file| file.len() == 16 * MIB));
        child
    };
    let end = |mut child: Child| {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(crate::silt::wait_for_end(&mut child).success());
    };
    let server = serve(&[]);
    let disk = File::options().read(true).write(true).open(&file).unwrap();
    let error = disk.write_all_at(&pseudo_random(2 << 20, 1), 8 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(28), "{error:?}");
    disk.sync_all().unwrap();
    drop(disk);
    end(server);
    let server = serve(&["--when-full", "pause"]);
    let disk = File::options().read(true).write(true).open(&file).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| disk.write_all_at(&pseudo_random(2 << 20, 2), 12 * MIB));
        wait_for("the write to wait", || space_of(&silt)["waiting"].as_u64().unwrap() > 0);
        let mut block = [0; 4096];
        disk.read_exact_at(&mut block, 8 * MIB).unwrap();
        assert!(block == pseudo_random(4096, 1)[..]);
        silt.ok(&["snapshot", "vm@s"]);
        silt.ok(&["seal"]);
        wait_for("it to be full again", || space_of(&silt)["waiting"].as_u64().unwrap() > 0);
        end(server);
        assert!(writer.join().unwrap().is_err());
    });
    drop(disk);
    silt.assert_verified();
}

#[test]
fn a_full_disk_is_an_io_error_for_vhost_user_or_waits() {
    let silt = furnished();
    let socket = silt.path("vhost");
    let serve = |options: &[&str]| {
        let args = ["serve", "vm", "--vhost-user", "vhost", "--delta-max", "1M"];
        let server = silt.start(silt.command(&[&args, options].concat()), socket.clone());
        // Each request of the client has a queue to itself.
        let wishes = Wishes { queues: 8, ..Wishes::default() };
        (server, VhostUserClient::connect(&socket, wishes).unwrap())
    };
    let (server, client) = serve(&[]);
    let refused =
        (0..300).find(|block| client.write_at(&[3; 4096], 8 * MIB + block * 4096).is_err());
    assert!(refused.is_some_and(|block| (240..=256).contains(&block)), "{refused:?}");
    client.flush().unwrap();
    client.write_at(&[4; 4096], 8 * MIB).unwrap();
    drop(client);
    server.stop();
    let (server, client) = serve(&["--when-full", "pause"]);
    thread::scope(|scope| {
        let writer = scope.spawn(|| client.write_at(&[5; 65_536], 2 * MIB));
        wait_for("the write to wait", || space_of(&silt)["waiting"].as_u64().unwrap() > 0);
        let mut block = [0; 4096];
        client.read_at(&mut block, 8 * MIB).unwrap();
        client.flush().unwrap();
        assert!(block == [4; 4096]);
        client.discard(8 * MIB, MIB / 2).unwrap();
        writer.join().unwrap().unwrap();
        client.flush().unwrap();
    });
    drop(client);
    server.stop();
    silt.assert_verified();
    assert!(silt.exported("vm")[2 << 20..][..65_536] == [5; 65_536]);
}

/// What a store holds: every name with its bytes.
fn contents(silt: &Silt) -> BTreeMap<String, Vec<u8>> {
    let names = ["image", "vm", "vm@s"];
    names.into_iter().map(|name| (name.to_owned(), silt.exported(name))).collect()
}

/// A file system filled up so that this much is left to whoever is not privileged.
struct Ballast(PathBuf);

impl Ballast {
    fn leaving(silt: &Silt, kib: u64) -> Ballast {
        let at = silt.store().join("volumes/ballast");
        let file = File::create(&at).unwrap();
        let free = || {
            let found = rustix::fs::statvfs(silt.store()).unwrap();
            found.f_bavail * found.f_frsize
        };
        let piece = vec![1; 64 << 10];
        let mut len = 0;
        while free() > kib * KIB {
            let part = (free() - kib * KIB).clamp(4096, piece.len() as u64);
            if file.write_all_at(&piece[..part as usize], len).is_err() {
                break;
            }
            len += part;
        }
        file.sync_all().unwrap();
        Ballast(at)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Each command with so little space on the file system that it runs out at one of its writes, be it of data, of the database
/// or of a folder: it works, or says so, and nothing else has changed.
#[test]
fn loop_each_command_on_a_file_system_that_fills_up_works_or_says_so() {
    let silt = Silt::new();
    let mounted = on_loop(&silt, 24);
    // Nothing is held back: this is about the kernel saying no.
    judge("tune2fs", &["-r".as_ref(), "0".as_ref(), mounted.device().unwrap().as_os_str()]);
    silt.ok(&["store", "limits", "--reserve", "0"]);
    silt.small_image("image");
    silt.ok(&["clone", "image", "vm"]);
    write_to(&silt, 1);
    silt.ok(&["snapshot", "vm@s"]);
    write_to(&silt, 2);
    let before = contents(&silt);
    let tree = tree_of(&silt, "new-tree", MIB, 3);
    fs::write(silt.path("raw"), pseudo_random(MIB as usize, 4)).unwrap();
    judge(
        "tar",
        &["-cf".as_ref(), silt.path("tar").as_os_str(), "-C".as_ref(), tree.as_ref(), ".".as_ref()],
    );
    let within = silt.store().join("volumes/exported");
    let within = within.to_str().unwrap();
    let commands: [&[&str]; 12] = [
        &["build", &tree, "new"],
        &["build", "raw", "new"],
        &["build", "tar", "new"],
        &["clone", "vm", "new"],
        &["snapshot", "vm@new"],
        &["commit", "vm", "new"],
        &["seal"],
        &["gc"],
        &["rollback", "vm@s"],
        &["export", "vm", within],
        &["store", "limits", "--delta", "1G"],
        &["verify"],
    ];
    let image = fs::read(silt.path("disk")).unwrap();
    drop(mounted);
    let mut refused = 0;
    for args in commands {
        for kib in [0, 40, 300] {
            fs::write(silt.path("disk"), &image).unwrap();
            let _mounted =
                LoopMount::new(&silt.path("disk"), &silt.store(), "rw").unwrap().unwrap();
            let ballast = Ballast::leaving(&silt, kib);
            let ran = silt.run(args);
            let code = ran.status.code().unwrap();
            assert!([0, 8].contains(&code), "{args:?} with {kib} KiB: {ran:?}");
            refused += u32::from(code == 8);
            drop(ballast);
            let _ = fs::remove_file(within);
            silt.assert_verified();
            for (name, bytes) in &before {
                let changed = args[0] == "rollback" && code == 0 && name == "vm";
                assert!(changed || silt.exported(name) == *bytes, "{args:?} {kib}: {name}");
            }
        }
    }
    assert!(refused > 10, "{refused}");
    for kib in [0, 40, 300] {
        fs::write(silt.path("disk"), &image).unwrap();
        let _mounted = LoopMount::new(&silt.path("disk"), &silt.store(), "rw").unwrap().unwrap();
        write_without_space(&silt, kib, &before["vm"]);
    }
}

/// Serves a volume with this much space left, and writes more than that. What was not refused is there, each sector of the rest
/// old or new; once there is space again everything is well.
fn write_without_space(silt: &Silt, kib: u64, before: &[u8]) {
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&filling(0), 2 * MIB).unwrap();
    client.flush().unwrap();
    let ballast = Ballast::leaving(silt, kib);
    let written: Vec<_> =
        (1..200).map(|block| client.write_at(&filling(block), 2 * MIB + block * 4096)).collect();
    let refused = written.iter().filter_map(|written| written.as_ref().err());
    assert!(refused.clone().count() > 100);
    assert!(refused.clone().all(|error| error.kind() == ErrorKind::NoSpace));
    drop(ballast);
    client.write_at(&filling(200), 2 * MIB + 200 * 4096).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    silt.assert_verified();
    let after = silt.exported("vm");
    for block in 0..=200usize {
        let range = (2 << 20) + block * 4096..(2 << 20) + (block + 1) * 4096;
        let is_new = block == 0 || block == 200 || written[block - 1].is_ok();
        let (new, now) = (filling(block as u64), &after[range.clone()]);
        assert!(now == new || !is_new && now == &before[range], "block {block} with {kib} KiB");
    }
}

fn write_to(silt: &Silt, seed: u64) {
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&pseudo_random(256 << 10, seed), 8 * MIB + seed * MIB).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
}

/// Little free space, and a store full of what is not needed: first what takes no space to remove, then the rest.
#[test]
fn loop_a_collection_that_has_no_space_to_move_removes_what_is_dead_and_says_so() {
    let silt = Silt::new();
    let _mounted = on_loop(&silt, 64);
    silt.ok(&["store", "limits", "--reserve", "0"]);
    // A pack with a half that stays, and one that goes as a whole.
    for (name, seed) in [("stays", 1), ("goes", 2)] {
        silt.ok(&["build", &tree_of(&silt, name, 8 * MIB, seed), name]);
    }
    let both = silt.path("both");
    fs::create_dir(&both).unwrap();
    fs::write(both.join("kept"), pseudo_random(6 << 20, 3)).unwrap();
    fs::write(both.join("dropped"), pseudo_random(6 << 20, 4)).unwrap();
    silt.ok(&["build", "both", "half"]);
    fs::remove_file(both.join("dropped")).unwrap();
    silt.ok(&["build", "both", "half", "--replace"]);
    silt.ok(&["rm", "goes"]);
    let before = silt.exported("half");
    let ballast = Ballast::leaving(&silt, 2 << 10);
    let done = silt.json(&["gc"]);
    assert_eq!(done["short_of_space"], true, "{done:#}");
    assert!(done["bytes_removed"].as_u64().unwrap() >= 8 * MIB, "{done:#}");
    silt.assert_verified();
    // Now there is space for the rest.
    let done = silt.json(&["gc"]);
    assert_eq!((&done["short_of_space"], &done["packs_removed"]), (&json!(false), &json!(1)));
    drop(ballast);
    silt.assert_verified();
    assert!(silt.exported("half") == before);
}

#[test]
fn loop_a_store_on_a_read_only_file_system_is_read_and_says_why_it_is_not_written() {
    let silt = Silt::new();
    let mounted = on_loop(&silt, 64);
    silt.small_image("image");
    silt.ok(&["clone", "image", "vm"]);
    write_to(&silt, 1);
    silt.ok(&["snapshot", "vm@s"]);
    let before = contents(&silt);
    let remount = |flags| mount_remount(mounted.path(), flags, "").unwrap();
    remount(MountFlags::RDONLY);
    assert!(contents(&silt) == before);
    for args in [
        &["ls"][..],
        &["info"],
        &["info", "vm"],
        &["info", "image"],
        &["verify"],
        &["log", "vm"],
        &["ps"],
        &["metrics"],
        &["store", "limits"],
        &["diff", "vm@s", "image"],
    ] {
        silt.json(args);
    }
    for args in [
        &["build", "small-tree", "other"][..],
        &["clone", "image", "other"],
        &["rm", "image"],
        &["gc"],
        &["snapshot", "vm@t"],
        &["commit", "vm", "other"],
        &["seal"],
        &["rename", "vm", "other"],
        &["serve", "vm", "--nbd", "here.sock"],
        &["store", "limits", "--quota", "1G"],
    ] {
        let message = silt.fails(10, args).to_lowercase();
        assert!(message.contains("read-only file system"), "{args:?}: {message}");
    }
    remount(MountFlags::empty());
    silt.assert_verified();
    silt.ok(&["rm", "vm", "--recursive"]);
    // A process that was killed leaves its log, in which is what counts.
    let server = silt.serve("image", &["--read-only"]);
    silt.ok(&["clone", "image", "late"]);
    server.kill();
    // Its broker ends a moment later.
    wait_for("a read-only file system", || {
        mount_remount(mounted.path(), MountFlags::RDONLY, "").is_ok()
    });
    assert_eq!(silt.names(), ["image", "late"]);
    remount(MountFlags::empty());
    silt.assert_verified();
}

/// Somebody pulls the disk, or unmounts it lazily, or removes the folder: whoever is at work hears of it, and nobody hangs.
#[test]
fn loop_a_store_that_vanishes_is_an_error_for_everybody() {
    let silt = Silt::new();
    let mounted = on_loop(&silt, 64);
    silt.small_image("image");
    silt.ok(&["clone", "image", "vm"]);
    let server = silt.serve("vm", &["--cache", "1M"]);
    let client = NbdClient::connect(&server.socket).unwrap();
    let mut block = [0; 4096];
    client.read_at(&mut block, 0).unwrap();
    fs::remove_dir_all(silt.store().join("packs")).unwrap();
    fs::remove_file(silt.store().join("catalog.db")).unwrap();
    let error = (0..16).find_map(|at| client.read_at(&mut block, at * MIB).err());
    assert!(error.is_none_or(|error| error.kind() == ErrorKind::Io));
    let codes = [["ls"].as_slice(), &["export", "image", "out"], &["build", "small-tree", "other"]];
    for args in codes {
        let code = silt.run(args).status.code();
        assert!(matches!(code, Some(3 | 7 | 10)), "{args:?}: {code:?}");
    }
    unmount(mounted.path(), UnmountFlags::DETACH).unwrap();
    assert!(silt.run(&["ls"]).status.code() == Some(3));
    // The server still has the files that it has open.
    let written = client.write_at(&block, 0).and_then(|()| client.flush());
    assert!(written.is_ok() || written.is_err_and(|error| error.kind() == ErrorKind::Io));
    drop(client);
    let ran: Ran = Server::terminate(server);
    assert!(matches!(ran.status.code(), Some(0 | 10)), "{ran:?}");
}
