//! Stores of earlier formats, as they were made then: upgraded, opened, with all that they held.

use crate::silt::{Silt, unpack_golden_store};
use std::fs::{self, File};

const IMAGE: &str = "ebca4d84f3509c31d36e294ee5a9479ed0c93e77fb36615572cff8d2fcdb289b:1048576";
const SNAPSHOT: &str = "761f99e388cc5f1c2eb2dc109407ac68cd938d6650a8f5d395132ac0add9bd9e:1048576";

/// A test's folder with a store of this format version.
fn golden(version: u32) -> Silt {
    let silt = Silt::new();
    unpack_golden_store(version, &silt.path(""));
    silt
}

/// What a golden store holds, whatever its format was.
fn assert_holds_what_it_held(silt: &Silt) {
    let mut names = silt.names();
    names.sort();
    assert_eq!(names, ["idle", "image", "side", "vm", "vm@one"]);
    assert_eq!(silt.json(&["info", "image"])["disk_id"], IMAGE);
    assert_eq!(silt.json(&["info", "vm@one"])["disk_id"], SNAPSHOT);
    assert!(silt.exported("idle") == silt.exported("image"));
    let mut disk = silt.exported("image");
    disk[512 << 10..520 << 10].fill(7);
    assert!(silt.exported("vm@one") == disk && silt.exported("side") == disk);
    disk[600 << 10..604 << 10].fill(9);
    assert!(silt.exported("vm") == disk);
    silt.assert_verified();
}

#[test]
fn a_store_of_version_2_is_refused_and_upgraded_with_all_it_holds() {
    let silt = golden(2);
    let message = silt.fails(9, &["ls"]);
    assert!(message.contains("silt store upgrade"), "{message}");
    let lease = silt.store().join("leases/00112233445566778899aabbccddeeff");
    let held = File::create(&lease).unwrap();
    held.lock().unwrap();
    silt.fails(5, &["store", "upgrade"]);
    drop(held);
    let upgraded = silt.json(&["store", "upgrade"]);
    assert_eq!((&upgraded["version_before"], &upgraded["version"]), (&2.into(), &3.into()));
    assert_holds_what_it_held(&silt);
    assert_eq!(silt.json(&["store", "upgrade"])["version_before"], 3);
    // And goes on like one that was made today.
    silt.small_image("new");
    let chunks = |silt: &Silt| silt.json(&["info"])["chunks"].as_u64().unwrap();
    let before = chunks(&silt);
    silt.ok(&["gc"]);
    assert!(chunks(&silt) < before, "what was removed before goes");
    silt.ok(&["rm", "new"]);
    silt.ok(&["gc"]);
    assert_holds_what_it_held(&silt);
}

#[test]
fn a_store_of_version_3_is_opened_with_all_it_holds() {
    let silt = golden(3);
    assert_holds_what_it_held(&silt);
    let limits = silt.json(&["store", "limits"]);
    assert_eq!(
        (&limits["quota"], &limits["delta"]),
        (&(100u64 << 30).into(), &(10u64 << 30).into())
    );
    assert_eq!(silt.json(&["scrub", "--once"])["passes"], 2);
    assert_eq!(silt.json(&["store", "upgrade"])["version_before"], 3);
    silt.ok(&["flatten", "vm"]);
    silt.ok(&["gc"]);
    assert_holds_what_it_held(&silt);
}

/// A part of a format that this build does not know is refused, whatever file has it.
#[test]
fn a_feature_that_is_not_known_is_refused_by_name() {
    let silt = golden(3);
    let mut files: Vec<_> = ["store", "limits"].map(|name| silt.store().join(name)).into();
    let mut packs = fs::read_dir(silt.store().join("packs")).unwrap();
    files.push(packs.next().unwrap().unwrap().path());
    files.extend(silt.files_called("map.log"));
    // Compatible, read-only compatible, incompatible: see the file header in docs/internals/formats.md.
    for (at, is_known) in [(12, true), (16, false), (20, false)] {
        for file in &files {
            let whole = fs::read(file).unwrap();
            let mut bytes = whole.clone();
            bytes[at] = 4;
            let sum = crc32c::crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&sum.to_le_bytes());
            fs::write(file, &bytes).unwrap();
            let ran = silt.run(&["verify"]);
            let about = format!("{} at {at}: {ran:?}", file.display());
            let told = String::from_utf8_lossy(&ran.stdout).into_owned() + &ran.stderr;
            match is_known {
                true => assert!(ran.status.success(), "{about}"),
                false => {
                    assert!(matches!(ran.status.code(), Some(7 | 9)), "{about}");
                    assert!(told.contains("feature"), "{about}");
                }
            }
            fs::write(file, whole).unwrap();
        }
    }
    silt.assert_verified();
}

#[test]
fn what_cannot_be_upgraded_is_left_as_it_is() {
    let silt = golden(2);
    let database = silt.store().join("catalog.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute("UPDATE pack SET size = size + 1 WHERE number = 2", []).unwrap();
    drop(connection);
    let before = fs::read(&database).unwrap();
    let message = silt.fails(7, &["store", "upgrade"]);
    assert!(message.contains("pack"), "{message}");
    assert!(fs::read(&database).unwrap() == before);
    let version: i64 = rusqlite::Connection::open(&database)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 2);
    let empty = Silt::new();
    empty.fails(3, &["store", "upgrade"]);
    assert!(!empty.store().exists());
}
