//! Flipped bits: found by verification, named, and never wrong bytes.

use crate::silt::{Silt, pseudo_random};
use serde_json::Value;
use silt_testkit::{
    fault::{every_file_of, flip_bit},
    nbd_client::NbdClient,
};
use silt_volume::BlockDevice as _;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const NAMES: [&str; 3] = ["copy", "image", "volume"];

/// A store with an image, a written volume and a written clone of that, closed in good order.
struct Furnished {
    silt: Silt,
    disks: BTreeMap<&'static str, Vec<u8>>,
}

impl Furnished {
    fn new() -> Furnished {
        let silt = Silt::new();
        silt.small_image("image");
        silt.json(&["clone", "image", "volume"]);
        for (volume, source) in [("volume", ""), ("copy", "volume")] {
            if !source.is_empty() {
                silt.json(&["clone", source, volume]);
            }
            let server = silt.serve(volume, &[]);
            let client = NbdClient::connect(&server.socket).unwrap();
            client.write_at(&pseudo_random(50_000, volume.len() as u64), 5 << 20).unwrap();
            client.flush().unwrap();
            client.discard(9 << 20, 1 << 20).unwrap();
            drop(client);
            server.stop();
        }
        let disks = NAMES.into_iter().map(|name| (name, silt.exported(name))).collect();
        silt.assert_verified();
        Furnished { silt, disks }
    }

    /// Files of the store whose names match, at least one.
    fn files(&self, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        // Caches may be damaged or missing at any time.
        let all = every_file_of(&self.silt.store()).unwrap();
        let caches = self.silt.store().join("caches");
        let found: Vec<_> = all
            .into_iter()
            .filter(|path| !path.starts_with(&caches))
            .filter(|path| matches(path.file_name().unwrap().to_str().unwrap()))
            .collect();
        assert!(!found.is_empty());
        found
    }

    /// What verification says; `None` if all is well.
    fn verified(&self, about: &str) -> Option<Value> {
        let ran = self.silt.run(&["verify", "--json"]);
        match ran.status.code() {
            Some(0) => None,
            Some(7) => Some(ran.document()),
            _ => panic!("{about}: {ran:?}"),
        }
    }

    /// Every disk is exported exactly or refused as corrupt. Answers whether all were.
    fn assert_no_wrong_bytes(&self, about: &str) -> bool {
        let mut whole = true;
        for (name, disk) in &self.disks {
            let ran = self.silt.run(&["export", name, "after"]);
            match ran.status.code() {
                Some(0) => {
                    assert!(fs::read(self.silt.path("after")).unwrap() == *disk, "{about}: {name}")
                }
                Some(7) => whole = false,
                _ => panic!("{about}: {ran:?}"),
            }
            let _ = fs::remove_file(self.silt.path("after"));
        }
        whole
    }

    /// Flips one bit, looks, and flips it back.
    fn with_flip(&self, path: &Path, offset: u64, bit: u8, look: impl FnOnce(&str)) {
        flip_bit(path, offset, bit).unwrap();
        look(&format!("bit {bit} at {offset} of {}", path.display()));
        flip_bit(path, offset, bit).unwrap();
    }
}

/// Offsets spread over a file, with its first and its last bytes.
fn spread(path: &Path, count: u64) -> Vec<u64> {
    let len = fs::metadata(path).unwrap().len();
    let mut offsets: Vec<u64> = (0..count).map(|n| n * (len - 1) / (count - 1).max(1)).collect();
    offsets.dedup();
    offsets
}

#[test]
fn a_flipped_bit_anywhere_in_a_pack_is_found_and_named() {
    let furnished = Furnished::new();
    for pack in furnished.files(|name| name.ends_with(".pack")) {
        for (n, offset) in spread(&pack, 24).into_iter().enumerate() {
            furnished.with_flip(&pack, offset, (n % 8) as u8, |about| {
                let report = furnished.verified(about).expect(about);
                let text = report["damages"].to_string();
                let id = pack.file_stem().unwrap().to_str().unwrap();
                assert!(text.contains("chunk ") || text.contains(id), "{about}: {text}");
                furnished.assert_no_wrong_bytes(about);
            });
        }
    }
    furnished.silt.assert_verified();
}

#[test]
fn a_damaged_chunk_names_every_image_and_volume_that_needs_it() {
    let furnished = Furnished::new();
    let pack = &furnished.files(|name| name.ends_with(".pack"))[0];
    // The middle of a pack that is nearly all content of one file.
    let middle = fs::metadata(pack).unwrap().len() / 2;
    furnished.with_flip(pack, middle, 3, |about| {
        let report = furnished.verified(about).expect(about);
        let damages = report["damages"].as_array().unwrap();
        let needed: Vec<_> =
            damages.iter().flat_map(|d| d["needed_by"].as_array().unwrap()).collect();
        for name in ["image image", "volume volume", "volume copy"] {
            assert!(needed.iter().any(|by| *by == name), "{report:#}");
        }
        let text = furnished.silt.run(&["verify"]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("damaged:") && text.contains("needed by"), "{text}");
        assert!(furnished.silt.fails(7, &["export", "image", "after"]).contains("chunk "));
        assert!(!furnished.silt.path("after").exists());
        // A guest gets an error for the damaged part, and the rest as it is.
        let server = furnished.silt.serve("volume", &[]);
        let client = NbdClient::connect(&server.socket).unwrap();
        let (mut failed, expected) = (0, &furnished.disks["volume"]);
        for at in (0..16 << 20).step_by(65_536) {
            let mut bytes = vec![0; 65_536];
            match client.read_at(&mut bytes, at) {
                Ok(()) => assert!(bytes == expected[at as usize..][..65_536], "{at}"),
                Err(_) => failed += 1,
            }
        }
        assert!((1..=3).contains(&failed), "{failed}");
        server.stop();
    });
    furnished.silt.assert_verified();
}

#[test]
fn what_is_missing_or_cut_off_is_found() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    let files = furnished.files(|name| name != "lock" && !name.starts_with("data."));
    for path in files {
        let whole = fs::read(&path).unwrap();
        for len in [None, Some(0), Some(whole.len() / 2), Some(whole.len() - 1)] {
            match len {
                None => fs::remove_file(&path).unwrap(),
                Some(len) => fs::write(&path, &whole[..len]).unwrap(),
            }
            let about = format!("{} cut to {len:?}", path.display());
            let ran = silt.run(&["verify"]);
            let is_store_file = path.ends_with("store/store");
            let is_header = path.file_name().unwrap() == "header";
            match (ran.status.code(), len) {
                (Some(7), _) => {}
                // Without the file that says so there is no store; a header is made again.
                (Some(3), None) if is_store_file => {}
                (Some(0), None) if is_header => {}
                _ => panic!("{about}: {ran:?}"),
            }
            for (name, disk) in &furnished.disks {
                let ran = silt.run(&["export", name, "after"]);
                if ran.status.success() {
                    assert!(fs::read(silt.path("after")).unwrap() == *disk, "{about}");
                } else {
                    assert!(matches!(ran.status.code(), Some(7 | 3 | 10)), "{about}: {ran:?}");
                }
            }
            fs::write(&path, &whole).unwrap();
        }
    }
    silt.assert_verified();
}

#[test]
fn a_damaged_delta_keeps_no_other_from_being_sealed() {
    let silt = Silt::new();
    silt.small_image("image");
    for volume in ["a", "b", "c"] {
        silt.json(&["clone", "image", volume]);
        let server = silt.serve(volume, &[]);
        let client = NbdClient::connect(&server.socket).unwrap();
        client.write_at(&pseudo_random(50_000, volume.len() as u64), 5 << 20).unwrap();
        drop(client);
        server.stop();
        silt.json(&["snapshot", &format!("{volume}@x")]);
    }
    let records = silt.files_called("map.log");
    let record = records.first().unwrap();
    flip_bit(record, 9, 1).unwrap();
    let message = silt.fails(7, &["seal"]);
    assert!(message.contains("map.log"), "{message}");
    flip_bit(record, 9, 1).unwrap();
    let sealed = |name: &str| !silt.json(&["info", name])["disk_id"].is_null();
    let count = ["a@x", "b@x", "c@x"].into_iter().filter(|name| sealed(name)).count();
    assert_eq!(count, 2, "all but the damaged one");
    assert_eq!(silt.json(&["seal"])["deltas"], 1);
    silt.assert_verified();
}

/// The seal ended at a delta that was not there, and what was behind it stayed in deltas.
#[test]
fn a_missing_delta_keeps_no_other_from_being_sealed() {
    let silt = Silt::new();
    silt.small_image("image");
    let deltas = || {
        let maps = silt.files_called("map.log");
        maps.iter().map(|path| path.parent().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut missing = Vec::new();
    for volume in ["a", "b", "c"] {
        missing = deltas();
        silt.json(&["clone", "image", volume]);
        let server = silt.serve(volume, &[]);
        let client = NbdClient::connect(&server.socket).unwrap();
        client.write_at(&pseudo_random(50_000, 1), 5 << 20).unwrap();
        drop(client);
        server.stop();
        silt.json(&["snapshot", &format!("{volume}@x")]);
    }
    // Those of all but the last volume.
    assert_eq!((missing.len(), deltas().len()), (2, 3));
    let aside: Vec<_> = (0..2).map(|at| silt.path(format!("aside-{at}"))).collect();
    let pairs = || missing.iter().zip(&aside);
    pairs().for_each(|(folder, aside)| std::fs::rename(folder, aside).unwrap());
    let message = silt.fails(10, &["seal"]);
    assert!(message.contains("No such file"), "{message}");
    assert!(!silt.json(&["info", "c@x"])["disk_id"].is_null(), "c@x was left, too");
    pairs().for_each(|(folder, aside)| std::fs::rename(aside, folder).unwrap());
    assert_eq!(silt.json(&["seal"])["deltas"], 2);
    silt.assert_verified();
}
