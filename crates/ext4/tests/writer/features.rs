//! The features and seeds that dumpe2fs and debugfs see, and the tables of `docs/internals/ext4.md`.

use super::examples::{add_directory, add_file, empty, write_metadata};
use silt_ext4::{
    EntryId,
    format::{CHECKSUM_SEED, HASH_SEED, hash::half_md4},
};
use silt_testkit::ext4_image::run;
use std::{path::Path, process::Command};

const DOCUMENT: &str = include_str!("../../../../docs/internals/ext4.md");

fn dumpe2fs(path: &Path) -> String {
    let output = run(Command::new("dumpe2fs").arg(path)).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim()
}

#[test]
fn dumpe2fs_sees_the_documented_features() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&empty(), Some(100 << 20), &path);
    let shown = dumpe2fs(&path);
    let mut features: Vec<_> = field(&shown, "Filesystem features").split(' ').collect();
    let mut documented: Vec<_> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` | feature |"))
        .map(|(name, _)| name)
        .collect();
    features.sort_unstable();
    documented.sort_unstable();
    assert_eq!(features, documented);
    assert_eq!(field(&shown, "Filesystem state"), "clean");
    assert_eq!(field(&shown, "Default directory hash"), "half_md4");
    assert_eq!(field(&shown, "Filesystem flags"), "unsigned_directory_hash");
    assert_eq!(field(&shown, "Checksum seed"), format!("{CHECKSUM_SEED:#010x}"));
    assert!(DOCUMENT.contains(&format!("{CHECKSUM_SEED:#010x}")));
    assert!(DOCUMENT.contains(field(&shown, "Directory Hash Seed")));
    assert_eq!(field(&shown, "Inode size"), "256");
    assert_eq!(field(&shown, "Flex block group size"), "16");
    write_metadata(&empty(), Some(7 << 20), &path);
    assert!(!field(&dumpe2fs(&path), "Filesystem features").contains("has_journal"));
}

#[test]
fn nothing_is_left_for_the_kernel_to_initialise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_metadata(&empty(), Some(5 << 30), &path);
    let shown = dumpe2fs(&path);
    let groups: Vec<_> = shown
        .lines()
        .filter(|line| line.starts_with("Group ") && line.contains(": (Blocks "))
        .collect();
    assert_eq!(groups.len(), 40);
    assert!(groups.iter().all(|group| group.contains("ITABLE_ZEROED")), "{groups:?}");
    let empty_groups = groups.iter().filter(|group| group.contains("INODE_UNINIT")).count();
    assert_eq!(empty_groups, 39);
}

#[test]
fn debugfs_hashes_names_as_we_do() {
    // It knows the signed hash only, which is the same for these names.
    let [a, b, c, d] = HASH_SEED.map(u32::to_le_bytes);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let seed = format!(
        "{}-{}-{}-{}-{}{}",
        hex(&a),
        hex(&b[..2]),
        hex(&b[2..]),
        hex(&c[..2]),
        hex(&c[2..]),
        hex(&d)
    );
    let mut commands = String::new();
    let names: Vec<String> = (1..=255)
        .map(|len| "Name-with.1234_z".chars().cycle().take(len).collect::<String>())
        .collect();
    for name in &names {
        commands += &format!("dx_hash -h half_md4 -s {seed} {name}\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("commands");
    std::fs::write(&script, commands).unwrap();
    let output = run(Command::new("debugfs").arg("-f").arg(&script)).unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let hashes: Vec<_> = output
        .lines()
        .filter_map(|line| line.split_once(" is 0x"))
        .map(|(_, rest)| u32::from_str_radix(rest.split(' ').next().unwrap(), 16).unwrap())
        .collect();
    let expected: Vec<_> = names.iter().map(|name| half_md4(&HASH_SEED, name.as_bytes())).collect();
    assert_eq!(hashes, expected);
}

#[test]
fn debugfs_finds_names_through_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut hierarchy = empty();
    let many = add_directory(&mut hierarchy, EntryId::ROOT, "many");
    for n in 0..5000 {
        add_file(&mut hierarchy, many, &format!("file{n}"), 0);
    }
    write_metadata(&hierarchy, None, &path);
    let output = run(Command::new("debugfs").args(["-R", "htree_dump /many"]).arg(&path)).unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("Hash Version: 1") && output.contains("file4999"), "{output}");
}
