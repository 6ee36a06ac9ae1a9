//! Several commands at once on one store.

use crate::silt::{Ran, Silt, pseudo_random};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    fs,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

fn start(silt: &Silt, args: &[&str]) -> Child {
    silt.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Trees that share half of their content.
fn trees(silt: &Silt, count: usize) -> Vec<String> {
    let make = |n: usize| {
        let dir = silt.path(format!("tree-{n}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..60 {
            let seed = if file % 2 == 0 { file } else { file + 1000 * n };
            fs::write(dir.join(format!("{file}")), pseudo_random(100_000, seed as u64)).unwrap();
        }
        format!("tree-{n}")
    };
    (0..count).map(make).collect()
}

#[test]
fn first_builds_at_once_make_one_store_and_the_same_disks_as_alone() {
    let silt = Silt::new();
    let trees = trees(&silt, 4);
    let builds: Vec<_> = trees.iter().map(|tree| start(&silt, &["build", tree, tree])).collect();
    builds.into_iter().for_each(finish);
    silt.assert_verified();
    for tree in &trees {
        let alone = Silt::new();
        let dir = silt.path(tree);
        let built = alone.json(&["build", dir.to_str().unwrap(), "image"]);
        assert_eq!(silt.json(&["info", tree])["disk_id"], built["disk_id"]);
    }
    assert_eq!(silt.names(), trees);
}

#[test]
fn one_of_several_builds_of_one_name_wins() {
    let silt = Silt::new();
    let trees = trees(&silt, 3);
    let builds: Vec<_> = trees.iter().map(|tree| start(&silt, &["build", tree, "image"])).collect();
    let codes: Vec<_> =
        builds.into_iter().map(|build| build.wait_with_output().unwrap().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(4)).count(), 2, "{codes:?}");
    assert_eq!(silt.names(), ["image"]);
    silt.assert_verified();
}

#[test]
fn guests_are_served_while_images_are_built_and_everything_is_verified() {
    let silt = Silt::new();
    let trees = trees(&silt, 3);
    silt.json(&["build", &trees[0], "base", "--size", "32M"]);
    silt.json(&["clone", "base", "volume"]);
    let expected = silt.exported("base");
    let server = silt.serve("volume", &["--cache", "1M"]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let client = NbdClient::connect(&server.socket).unwrap();
            let mut rounds = 0;
            while !done.load(Relaxed) || rounds == 0 {
                for at in (0..expected.len()).step_by(1 << 20) {
                    let mut bytes = vec![0; 65_536];
                    client.read_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes == expected[at..at + 65_536]);
                    client.write_at(&bytes, at as u64).unwrap();
                }
                client.flush().unwrap();
                rounds += 1;
            }
        });
        let verifier = scope.spawn(|| {
            while !done.load(Relaxed) {
                let report = silt.json(&["verify"]);
                assert_eq!(report["ok"], true, "{report:#}");
            }
        });
        for round in 0..3 {
            for tree in &trees[1..] {
                finish(start(&silt, &["build", tree, tree, "--replace"]));
                finish(start(&silt, &["clone", tree, &format!("{tree}-{round}")]));
                silt.json(&["info"]);
                silt.json(&["info", "volume"]);
            }
        }
        done.store(true, Relaxed);
        reader.join().unwrap();
        verifier.join().unwrap();
    });
    server.stop();
    assert!(silt.exported("volume") == expected);
    silt.assert_verified();
}

#[test]
fn clones_at_once_all_succeed_and_one_name_goes_to_one() {
    let silt = Silt::new();
    silt.small_image("image");
    let clones: Vec<_> =
        (0..12).map(|n| start(&silt, &["clone", "image", &format!("v{n}")])).collect();
    clones.into_iter().for_each(finish);
    assert_eq!(silt.names().len(), 13);
    let same: Vec<_> = (0..6).map(|_| start(&silt, &["clone", "image", "same"])).collect();
    let codes: Vec<_> =
        same.into_iter().map(|clone| clone.wait_with_output().unwrap().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(4)).count(), 5, "{codes:?}");
    let removals: Vec<_> = (0..12).map(|n| start(&silt, &["rm", &format!("v{n}")])).collect();
    removals.into_iter().for_each(finish);
    assert_eq!(silt.names(), ["image", "same"]);
    silt.assert_verified();
}

#[test]
fn what_is_killed_leaves_nothing_that_the_next_build_does_not_put_right() {
    let silt = Silt::new();
    let trees = trees(&silt, 2);
    for millis in [5, 20, 40, 60, 90, 130] {
        let mut build = start(&silt, &["build", &trees[0], "killed"]);
        thread::sleep(std::time::Duration::from_millis(millis));
        build.kill().unwrap();
        build.wait().unwrap();
        if silt.store().join("store").exists() {
            silt.assert_verified();
            if silt.names() == ["killed"] {
                silt.json(&["rm", "killed"]);
            }
        }
    }
    silt.json(&["build", &trees[1], "image"]);
    let left = Ran::of(std::process::Command::new("find").arg(silt.store()).args([
        "-name",
        "*.tmp",
        "-o",
        "-path",
        "*/leases/*",
        "!",
        "-name",
        "lock",
    ]));
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
    silt.assert_verified();
}

/// A name is looked up, listed and verified while others come and go: what is read must be of one moment.
#[test]
fn listing_and_verifying_never_mistake_change_for_damage() {
    let silt = Silt::new();
    silt.small_image("image");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = [&["ls"][..], &["verify"], &["info"], &["info", "image"]]
            .map(|args| {
                let (silt, done) = (&silt, &done);
                scope.spawn(move || {
                    while !done.load(Relaxed) {
                        silt.json(args);
                    }
                })
            })
            .into();
        for _ in 0..6 {
            silt.json(&["clone", "image", "written"]);
            let server = silt.serve("written", &[]);
            let client = NbdClient::connect(&server.socket).unwrap();
            client.write_at(&[1; 4096], 0).unwrap();
            client.flush().unwrap();
            drop(client);
            server.stop();
            silt.json(&["clone", "written", "copy"]);
            silt.json(&["clone", "written", "another"]);
            silt.json(&["rm", "written", "copy", "another"]);
        }
        done.store(true, Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    silt.assert_verified();
}
