//! `silt verify --repair`: what a store says twice is made good, what it says once is told of, nothing is thrown away.

use crate::silt::{Ran, Silt, pseudo_random};
use rusqlite::Connection;
use serde_json::Value;
use silt_testkit::{fault::flip_bit, nbd_client::NbdClient};
use silt_volume::BlockDevice as _;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const NAMES: [&str; 5] = ["image", "copy", "volume", "volume@sealed", "volume@later"];

/// A store with an image, a volume with a sealed snapshot and one that is not, and a written clone of that, all at rest.
pub(crate) struct Furnished {
    pub(crate) silt: Silt,
    disks: BTreeMap<String, Vec<u8>>,
}

impl Furnished {
    pub(crate) fn new() -> Furnished {
        let silt = Silt::new();
        silt.small_image("image");
        silt.json(&["clone", "image", "volume"]);
        let write = |volume: &str, seed: u64, at: u64| write_to(&silt, volume, seed, at);
        write("volume", 1, 5 << 20);
        silt.json(&["snapshot", "volume@sealed", "--wait"]);
        write("volume", 2, 6 << 20);
        silt.json(&["snapshot", "volume@later"]);
        write("volume", 3, 7 << 20);
        silt.json(&["clone", "volume", "copy"]);
        write("copy", 4, 8 << 20);
        let disks = NAMES.map(|name| (name.to_owned(), silt.exported(name)));
        silt.assert_verified();
        let furnished = Furnished { silt, disks: disks.into() };
        furnished.copy("store", "pristine");
        furnished
    }

    fn write(&self, volume: &str, seed: u64, at: u64) {
        write_to(&self.silt, volume, seed, at);
    }

    /// Builds the image again, under another name.
    fn build(&self, name: &str) {
        self.silt.json(&["build", "small-tree", name, "--size", "16M"]);
    }

    fn copy(&self, from: &str, to: &str) {
        let _ = fs::remove_dir_all(self.silt.path(to));
        let copied = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([self.silt.path(from), self.silt.path(to)])
            .status();
        assert!(copied.unwrap().success());
    }

    /// The store as it was before anything was damaged.
    pub(crate) fn again(&self) {
        self.copy("pristine", "store");
    }

    fn repair(&self, options: &[&str]) -> Ran {
        self.silt.run(&[&["verify", "--repair", "--json"], options].concat())
    }

    /// Repairs, which makes good all there is. Answers what was done.
    fn repaired(&self, about: &str, options: &[&str]) -> String {
        let ran = self.repair(options);
        assert!(ran.status.success(), "{about}: {ran:#?}");
        let done = ran.document()["repaired"].to_string();
        self.assert_as_it_was(about);
        done
    }

    /// Every name is there and has its bytes, and no other.
    fn assert_as_it_was(&self, about: &str) {
        assert_eq!(self.silt.names(), NAMES, "{about}");
        for (name, disk) in &self.disks {
            assert!(self.silt.exported(name) == *disk, "{about}: {name}");
        }
        self.silt.assert_verified();
    }

    /// No name has wrong bytes. Answers those that can be read.
    pub(crate) fn assert_no_wrong_bytes(&self, about: &str) -> Vec<&str> {
        let mut whole = Vec::new();
        for (name, disk) in &self.disks {
            let ran = self.silt.run(&["export", name, "after"]);
            match ran.status.code() {
                Some(0) => {
                    assert!(fs::read(self.silt.path("after")).unwrap() == *disk, "{about}: {name}");
                    whole.push(name.as_str());
                }
                Some(3 | 7 | 10) => {}
                _ => panic!("{about}: {ran:?}"),
            }
            let _ = fs::remove_file(self.silt.path("after"));
        }
        whole
    }

    /// Damages a chunk of a file that every name has.
    pub(crate) fn hurt_a_chunk(&self) {
        overwrite(&self.largest_pack(), 0.5, b"not what was here");
    }

    fn database(&self) -> PathBuf {
        self.silt.path("store/catalog.db")
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.silt.path("store/packs")).unwrap();
        let mut packs: Vec<_> = packs.map(|entry| entry.unwrap().path()).collect();
        packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
        packs
    }

    fn largest_pack(&self) -> PathBuf {
        self.packs().pop().unwrap()
    }

    fn in_quarantine(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(self.silt.path("store/quarantine")) else { return Vec::new() };
        let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

fn write_to(silt: &Silt, volume: &str, seed: u64, at: u64) {
    let server = silt.serve(volume, &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&pseudo_random(50_000, seed), at).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
}

fn overwrite(path: &Path, at: f64, with: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = (bytes.len() as f64 * at) as usize;
    let end = (at + with.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
    fs::write(path, bytes).unwrap();
}

fn execute(database: &Path, sql: &str) {
    Connection::open(database).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_sound_store_is_left_as_it_is() {
    let furnished = Furnished::new();
    let done = furnished.repaired("sound", &[]);
    assert_eq!(done, "[]");
    assert!(furnished.in_quarantine().is_empty());
}

/// A way to hurt a store, by what it is called.
type Harm<'a> = (&'a str, Box<dyn Fn(&Furnished) + 'a>);

#[test]
fn a_damaged_database_is_made_again_and_every_name_is_there() {
    let furnished = Furnished::new();
    let sql = |sql: &'static str| -> Box<dyn Fn(&Furnished)> {
        Box::new(move |furnished| execute(&furnished.database(), sql))
    };
    let harms: Vec<Harm<'_>> = vec![
        ("an image row", sql("UPDATE image SET size = size + 4096")),
        ("a chunk row", sql("UPDATE chunk SET offset = offset + 1 WHERE kind = 1")),
        ("rows of chunks gone", sql("DELETE FROM chunk WHERE kind = 3")),
        ("a pack row", sql("UPDATE pack SET size = 1 WHERE number = 1")),
        ("packs gone", sql("DELETE FROM pack")),
        ("the state", sql("UPDATE state SET packs = packs + 1")),
        ("no state", sql("DELETE FROM state")),
        ("a table", sql("DROP TABLE grave")),
        ("its schema", sql("CREATE TABLE stranger (x)")),
        // What may write it, by the header: SQLite takes such a file for a read-only one.
        ("its version", Box::new(|furnished| flip_bit(&furnished.database(), 18, 4).unwrap())),
    ];
    for (about, harm) in harms {
        furnished.again();
        harm(&furnished);
        assert_eq!(furnished.silt.run(&["verify"]).status.code(), Some(7), "{about}");
        let ran = furnished.repair(&[]);
        // Without its counts nobody knows how many names there were.
        let code = if about.contains("state") { 7 } else { 0 };
        assert_eq!(ran.status.code(), Some(code), "{about}: {ran:#?}");
        furnished.assert_as_it_was(about);
        let done = ran.document()["repaired"].to_string();
        assert!(done.contains("the database was made again"), "{about}: {done}");
        assert!(furnished.in_quarantine().contains(&"catalog.db".to_owned()), "{about}");
        // And it is one to work with.
        furnished.silt.json(&["rm", "copy"]);
        furnished.silt.json(&["gc"]);
        furnished.silt.assert_verified();
        furnished.build("another");
    }
}

/// Rows of volumes that were never written are nowhere else; here every one has a folder.
#[test]
fn a_lost_database_is_made_again_from_packs_and_headers() {
    let furnished = Furnished::new();
    let gone = |furnished: &Furnished| fs::remove_file(furnished.database()).unwrap();
    let zeros = |furnished: &Furnished| fs::write(furnished.database(), [0; 70_000]).unwrap();
    let short = |furnished: &Furnished| {
        let bytes = fs::read(furnished.database()).unwrap();
        fs::write(furnished.database(), &bytes[..bytes.len() / 2]).unwrap();
    };
    let harms: Vec<Harm<'_>> =
        vec![("gone", Box::new(gone)), ("zeros", Box::new(zeros)), ("half", Box::new(short))];
    for (about, harm) in harms {
        furnished.again();
        harm(&furnished);
        let ran = furnished.repair(&[]);
        assert_eq!(ran.status.code(), Some(7), "{about}: {ran:#?}");
        let damages = ran.document()["damages"].clone();
        assert_eq!(damages.as_array().unwrap().len(), 1, "{about}: {damages:#}");
        assert!(damages[0]["what"].as_str().unwrap().contains("alone had"), "{damages:#}");
        // A snapshot that is not sealed stands in the catalog alone; what it holds, its volume has too.
        let whole = furnished.assert_no_wrong_bytes(about);
        for name in ["copy", "image", "volume", "volume@sealed"] {
            assert!(whole.contains(&name), "{about}: {name} {ran:#?}");
        }
        furnished.silt.assert_verified();
        furnished.silt.json(&["gc"]);
        assert_eq!(furnished.assert_no_wrong_bytes(about), whole, "{about}");
        // What the copy reads through is nobody's to write, though the header of the volume still has it.
        furnished.write("volume", 8, 10 << 20);
        assert!(furnished.silt.exported("copy") == furnished.disks["copy"], "{about}");
    }
}

/// The header of a volume that nobody serves stays behind the catalog: its own delta was frozen and sealed since.
#[test]
fn a_volume_whose_writes_were_sealed_since_its_header_was_written_has_them() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    silt.json(&["clone", "image", "sealed"]);
    furnished.write("sealed", 5, 3 << 20);
    let disk = silt.exported("sealed");
    silt.json(&["snapshot", "sealed@last", "--wait"]);
    let old = fs::read(furnished.database()).unwrap();
    fs::remove_file(furnished.database()).unwrap();
    assert_eq!(furnished.repair(&[]).status.code(), Some(7));
    assert!(silt.exported("sealed") == disk && silt.exported("sealed@last") == disk);
    // Another state than that of what was below its writes, which is all that the header tells.
    let state = |name: &str| silt.json(&["info", name])["state_id"].clone();
    assert!(!state("sealed").is_null() && state("sealed") != state("image"));
    // An old database in its place, from before more was written and sealed.
    furnished.write("sealed", 6, 4 << 20);
    silt.json(&["snapshot", "sealed@later", "--wait"]);
    furnished.write("sealed", 7, 5 << 20);
    let disk = silt.exported("sealed");
    fs::write(furnished.database(), old).unwrap();
    assert_eq!(silt.run(&["ls"]).status.code(), Some(7));
    assert!(furnished.repair(&[]).status.code().is_some_and(|code| matches!(code, 0 | 7)));
    assert!(silt.exported("sealed") == disk);
    silt.assert_verified();
}

#[test]
fn what_was_removed_does_not_come_back_with_a_database_that_knows_all_names() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    furnished.build("removed");
    silt.json(&["rm", "removed"]);
    execute(&furnished.database(), "DELETE FROM chunk WHERE kind = 3");
    furnished.repaired("chunks gone", &[]);
    // Nothing tells what was removed from what was lost; better too much than too little.
    execute(&furnished.database(), "UPDATE image SET size = 1");
    let ran = furnished.repair(&[]);
    assert!(ran.status.success(), "{ran:#?}");
    assert!(silt.names().contains(&"removed".to_owned()), "{ran:#?}");
}

#[test]
fn files_at_the_top_are_made_again() {
    let furnished = Furnished::new();
    let remove = |name: &'static str| -> Box<dyn Fn(&Furnished)> {
        Box::new(move |furnished| fs::remove_file(furnished.silt.path(name)).unwrap())
    };
    let flip = |name: &'static str| -> Box<dyn Fn(&Furnished)> {
        Box::new(move |furnished| flip_bit(&furnished.silt.path(name), 70, 3).unwrap())
    };
    let cut = |name: &'static str| -> Box<dyn Fn(&Furnished)> {
        Box::new(move |furnished| fs::write(furnished.silt.path(name), b"SILT").unwrap())
    };
    let no_folders = |furnished: &Furnished| {
        ["run", "leases"]
            .iter()
            .for_each(|name| fs::remove_dir_all(furnished.silt.store().join(name)).unwrap());
    };
    let swapped = |furnished: &Furnished| {
        let packs = furnished.packs();
        let aside = furnished.silt.path("aside");
        fs::rename(&packs[0], &aside).unwrap();
        fs::rename(&packs[1], &packs[0]).unwrap();
        fs::rename(&aside, &packs[1]).unwrap();
    };
    let harms: Vec<Harm<'_>> = vec![
        ("no store file", remove("store/store")),
        ("a flipped store file", flip("store/store")),
        ("a cut store file", cut("store/store")),
        ("no commit file", remove("store/commit")),
        ("a flipped commit file", flip("store/commit")),
        ("a cut commit file", cut("store/commit")),
        ("no folders", Box::new(no_folders)),
        ("swapped packs", Box::new(swapped)),
    ];
    for (about, harm) in harms {
        furnished.again();
        harm(&furnished);
        let done = furnished.repaired(about, &[]);
        assert_ne!(done, "[]", "{about}");
    }
}

#[test]
fn a_damaged_header_is_written_anew() {
    let furnished = Furnished::new();
    let headers = furnished.silt.files_called("header");
    for at in [3, 70, 170] {
        headers.iter().for_each(|header| flip_bit(header, at, 5).unwrap());
        let done = furnished.repaired("headers", &[]);
        assert!(done.contains("the header of volume"), "{done}");
    }
    let [first, second] = &headers[..] else { panic!("{headers:?}") };
    let aside = furnished.silt.path("aside");
    fs::rename(first, &aside).unwrap();
    fs::rename(second, first).unwrap();
    fs::rename(&aside, second).unwrap();
    furnished.repaired("swapped headers", &[]);
}

#[test]
fn a_pack_that_does_not_say_what_it_has_loses_nothing() {
    let furnished = Furnished::new();
    for pack in furnished.packs() {
        furnished.again();
        let len = fs::metadata(&pack).unwrap().len();
        flip_bit(&pack, len - 20, 1).unwrap();
        let done = furnished.repaired("the trailer", &[]);
        assert!(done.contains("was moved to quarantine"), "{done}");
        let name = pack.file_name().unwrap().to_str().unwrap();
        assert_eq!(furnished.in_quarantine(), [format!("packs-{name}")]);
        // The names are in packs again: without a database they are found.
        fs::remove_file(furnished.database()).unwrap();
        assert_eq!(furnished.repair(&[]).status.code(), Some(7));
        assert!(furnished.silt.names().contains(&"image".to_owned()));
    }
}

/// Damages a chunk of a file, and says what verification then says.
fn hurt_a_file(furnished: &Furnished) -> Value {
    furnished.hurt_a_chunk();
    let ran = furnished.silt.run(&["verify", "--files", "--json"]);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    ran.document()
}

#[test]
fn a_lost_chunk_is_told_with_its_files_and_the_rest_goes_on() {
    let furnished = Furnished::new();
    let report = hurt_a_file(&furnished);
    let damage = &report["damages"][0];
    let files: Vec<_> = damage["files"].as_array().unwrap().iter().collect();
    for name in NAMES {
        assert!(files.iter().any(|file| **file == format!("{name}:/data")), "{report:#}");
    }
    let ran = furnished.repair(&["--files"]);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    let after = ran.document();
    assert_eq!(after["damages"].as_array().unwrap().len(), 1, "{after:#}");
    assert_eq!(after["damages"][0]["chunk"], damage["chunk"], "{after:#}");
    assert_eq!(after["damages"][0]["files"], damage["files"], "{after:#}");
    assert!(furnished.assert_no_wrong_bytes("lost").is_empty());
    // Collection goes on, and building what was lost heals.
    furnished.silt.json(&["gc"]);
    furnished.build("again");
    furnished.silt.json(&["rm", "again"]);
    furnished.assert_as_it_was("built again");
    assert_eq!(furnished.in_quarantine().len(), 1);
}

#[test]
fn lost_chunks_are_found_in_another_store_or_in_the_source() {
    let furnished = Furnished::new();
    let tree = furnished.silt.path("small-tree");
    let archive = furnished.silt.path("small.tar");
    let tar = Command::new("tar")
        .args(["--xattrs", "--numeric-owner", "--format=pax", "-C"])
        .args([&tree, Path::new("-cf"), &archive, Path::new(".")])
        .status();
    assert!(tar.unwrap().success());
    for from in [furnished.silt.path("pristine"), tree, archive] {
        furnished.again();
        hurt_a_file(&furnished);
        let done = furnished.repaired("from", &["--from", from.to_str().unwrap()]);
        assert!(done.contains("found elsewhere") || done.contains("read from"), "{from:?}: {done}");
    }
    // All packs but the smallest, with maps and trees: one place has them.
    furnished.again();
    for pack in furnished.packs().iter().skip(1) {
        furnished.again();
        fs::remove_file(pack).unwrap();
        furnished
            .repaired("a pack", &["--from", furnished.silt.path("pristine").to_str().unwrap()]);
    }
    // The source gives the file system and its map, too.
    furnished.again();
    let pack = furnished.largest_pack();
    let whole = fs::read(&pack).unwrap();
    for at in [0.2, 0.7, 0.9, 0.95, 0.97] {
        fs::write(&pack, &whole).unwrap();
        overwrite(&pack, at, &[0x55; 2000]);
        let tree = furnished.silt.path("small-tree");
        furnished.repaired("metadata", &["--from", tree.to_str().unwrap()]);
        furnished.again();
    }
}

#[test]
fn a_store_that_is_worked_with_is_healed_beside_and_its_database_is_not_made_again() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    let pristine = silt.path("pristine");
    hurt_a_file(&furnished);
    let server = silt.serve("copy", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&pseudo_random(50_000, 9), 9 << 20).unwrap();
    let ran = furnished.repair(&["--from", pristine.to_str().unwrap()]);
    assert!(ran.status.success(), "{ran:#?}");
    // What the server could not read, it can now.
    let mut bytes = vec![0; 16 << 20];
    client.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..9 << 20], furnished.disks["copy"][..9 << 20]);
    execute(&furnished.database(), "UPDATE chunk SET offset = offset + 1 WHERE kind = 1");
    let ran = furnished.repair(&[]);
    assert_eq!(ran.status.code(), Some(5), "{ran:#?}");
    drop(client);
    server.stop();
    assert!(furnished.repair(&[]).status.success());
    silt.assert_verified();
}

#[test]
fn one_name_and_a_sample_are_verified_alone() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    let all = silt.json(&["verify"])["chunks"].as_u64().unwrap();
    let one = silt.json(&["verify", "image"]);
    assert_eq!((&one["images"], &one["volumes"]), (&1.into(), &0.into()), "{one:#}");
    assert!((1..all).contains(&one["chunks"].as_u64().unwrap()), "{one:#}");
    let part = silt.json(&["verify", "--sample", "20"])["chunks"].as_u64().unwrap();
    assert!(part < all, "{part} of {all}");
    silt.fails(6, &["verify", "--sample", "0"]);
    silt.fails(3, &["verify", "nothing"]);
    // What only another one needs is nothing to it.
    let dir = silt.path("other-tree");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("big"), pseudo_random(600_000, 77)).unwrap();
    silt.json(&["build", dir.to_str().unwrap(), "other"]);
    overwrite(&furnished.largest_pack(), 0.5, b"not what was here");
    silt.json(&["verify", "image"]);
    silt.json(&["verify", "volume@later"]);
    let ran = silt.run(&["verify", "--files", "other"]);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("file other:/big"), "{text}");
}
