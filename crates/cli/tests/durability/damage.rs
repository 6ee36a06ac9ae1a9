//! A bit flipped in each kind of file: every answer is right or an error, and whatever fails makes verification fail.

use super::{
    facts::{Facts, complaints, export, look},
    scenes::Props,
    stage::{copy_folder, scratch, silt},
};
use silt_engine::{CloneRequest, Engine, Listing};
use silt_testkit::fault::{every_file_of, flip_bit};
use silt_types::{DiskName, Error, ErrorKind, Name};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Places looked at in each file, besides its first and last bytes.
const PLACES: u64 = 16;
/// In the database, which has more kinds of content.
const PLACES_IN_DATABASE: u64 = 160;

/// Offset and bit of the flips in a file: the first and last bytes, some spread over all of it, and as many spread over
/// what is not zero.
fn places(bytes: &[u8], count: u64) -> Vec<(u64, u8)> {
    let len = bytes.len() as u64;
    let filled: Vec<u64> = (0..len).filter(|at| bytes[*at as usize] != 0).collect();
    // The header of the database is the longest.
    let ends =
        (0..len.min(if count == PLACES { 4 } else { 100 })).chain(len.saturating_sub(4)..len);
    let spread = (0..count.min(len)).map(|n| (n * len / count.min(len)).wrapping_add(n * 7) % len);
    let step = filled.len().div_ceil(count as usize).max(1);
    let mut all: Vec<u64> = ends.chain(spread).chain(filled.into_iter().step_by(step)).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(|at| (at, (at * 5 % 8) as u8)).collect()
}

/// What a kind of file is called, whatever its ids.
pub(super) fn kind_of(file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    file.extension().map_or(name.clone(), |ext| match ext.to_str() {
        Some("pack") => "pack".to_owned(),
        _ => name,
    })
}

/// What commands say, and what failed.
pub(super) struct Asked {
    pub(super) failed: Vec<Error>,
    pub(super) wrong: Vec<String>,
}

/// Asks everything that only reads, and a clone of each name. `soft` names may differ in their bytes.
pub(super) fn ask(
    store: &Path,
    right: &Facts,
    disks: &BTreeMap<String, Vec<u8>>,
    soft: &[String],
) -> Asked {
    let mut asked = Asked { failed: Vec::new(), wrong: Vec::new() };
    let engine = match Engine::open(store, 8 << 20) {
        Ok(engine) => engine,
        Err(error) => {
            asked.failed.push(error);
            return asked;
        }
    };
    match engine.list() {
        Ok(all) if count(&all) == right.len() => {}
        Ok(_) => asked.wrong.push("the list is another".into()),
        Err(error) => asked.failed.push(error),
    }
    asked.failed.extend(engine.store_info().err());
    for name in right.keys() {
        let parsed: DiskName = name.parse().unwrap();
        match export(&engine, &parsed) {
            Ok(bytes) if bytes == disks[name] || soft.contains(name) => {}
            Ok(_) => asked.wrong.push(format!("the bytes of {name} are others")),
            Err(error) => asked.failed.push(error),
        }
        asked.failed.extend(engine.info(&parsed).err());
    }
    for name in right.keys() {
        let volume: Name = format!("{}-clone", name.replace('@', "-")).parse().unwrap();
        let volumes = vec![volume.clone()];
        let request = CloneRequest { source: name.parse().unwrap(), volumes };
        match engine.clone_disk(&request).and_then(|_| export(&engine, &volume.into())) {
            Ok(bytes) if bytes == disks[name] || soft.contains(name) => {}
            Ok(_) => asked.wrong.push(format!("the bytes of a clone of {name} are others")),
            Err(error) => asked.failed.push(error),
        }
    }
    asked
}

fn count(all: &Listing) -> usize {
    all.images.len() + all.volumes.len() + all.snapshots.len()
}

/// Whether an error says what is damaged: it names a file, a chunk, a pack, a row or the database.
fn names_an_object(error: &Error) -> bool {
    let text = error.chain();
    [
        "chunk", "pack", "row", "catalog", "database", "header", "map.log", "data.0", "commit",
        "store",
    ]
    .iter()
    .any(|word| text.contains(word))
}

pub(super) fn judge(asked: &Asked, found: &[String]) -> Vec<String> {
    let mut complaints = asked.wrong.clone();
    for error in &asked.failed {
        if !names_an_object(error) {
            complaints.push(format!("no object is named: {error:?}"));
        }
        if error.kind() != ErrorKind::Corrupt {
            complaints.push(format!("of another kind: {error:?}"));
        }
    }
    if !asked.failed.is_empty() && found.is_empty() {
        complaints.push(format!("{:?}, but verification is content", asked.failed[0]));
    }
    complaints
}

#[test]
fn a_flipped_bit_in_any_file_is_an_error_and_never_wrong_bytes() {
    let props = Props::new();
    let whole = look(&props.store()).unwrap();
    let place = scratch();
    let mut complaints_of = Vec::new();
    let mut tried: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for file in every_file_of(&props.store()).unwrap() {
        let inside = file.strip_prefix(props.store()).unwrap().to_path_buf();
        let kind = kind_of(&file);
        let count = if kind == "catalog.db" { PLACES_IN_DATABASE } else { PLACES };
        // The data of an unsealed delta carries no checksum, like a raw disk.
        let soft: Vec<String> = if kind.starts_with("data.") {
            ["used", "parent", "child"].map(String::from).into()
        } else {
            Vec::new()
        };
        for (at, bit) in places(&fs::read(&file).unwrap(), count) {
            let store: PathBuf = place.path().join("store");
            copy_folder(&props.store(), &store);
            flip_bit(&store.join(&inside), at, bit).unwrap();
            let found = complaints(&store);
            let asked = ask(&store, &whole.facts, &whole.disks, &soft);
            let tried = tried.entry(kind.clone()).or_default();
            *tried = (tried.0 + 1, tried.1 + u64::from(!found.is_empty()));
            for complaint in judge(&asked, &found) {
                complaints_of.push(format!("{kind}, byte {at}, bit {bit}: {complaint}"));
            }
            fs::remove_dir_all(&store).unwrap();
        }
    }
    println!("{tried:?} (tried, found by verification)");
    for kind in ["store", "commit", "catalog.db", "pack", "header", "map.log", "data.000"] {
        assert!(tried.contains_key(kind), "no {kind}");
    }
    let count = complaints_of.len();
    assert!(complaints_of.is_empty(), "{count}:\n{}", complaints_of.join("\n"));
}

/// The same from outside, once for each kind of file.
#[test]
fn a_flipped_bit_makes_verify_exit_7_and_export_7_or_0() {
    let props = Props::new();
    let place = scratch();
    for file in every_file_of(&props.store()).unwrap() {
        let inside = file.strip_prefix(props.store()).unwrap().to_path_buf();
        let at = match kind_of(&file).as_str() {
            "pack" => 200,
            "store" | "header" | "map.log" => 20,
            "commit" => 515,
            "catalog.db" => 3,
            _ => continue,
        };
        let store = place.path().join("store");
        copy_folder(&props.store(), &store);
        let path = store.join(&inside);
        if fs::read(&path).unwrap()[at as usize..].iter().take(8).all(|byte| *byte == 0)
            && kind_of(&file) == "commit"
        {
            fs::remove_dir_all(&store).unwrap();
            continue;
        }
        flip_bit(&path, at, 4).unwrap();
        let answer = silt(&store, &["verify"]);
        assert_eq!(answer.code(), 7, "{}: {}", inside.display(), answer.stderr);
        for name in ["base", "used", "child"] {
            let answer = silt(&store, &["export", name, "/dev/null"]);
            assert!([0, 7].contains(&answer.code()), "{name}: {}", answer.stderr);
        }
        fs::remove_dir_all(&store).unwrap();
    }
}
