//! Everything as a user without rights, on a folder of others.

use crate::{
    silt::{NOBODY, Silt, is_root, pseudo_random},
    survey::{assert_same, survey, survey_mounted},
};
use silt_ext4::reader::{Ext4, FileDisk};
use silt_testkit::{
    ext4_image::{LoopMount, e2fsck},
    nbd_client::NbdClient,
};
use silt_volume::BlockDevice as _;
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, lchown, symlink},
};

#[test]
fn root_any_user_builds_clones_serves_exports_and_verifies_and_owners_are_kept() {
    if !is_root() {
        return;
    }
    let silt = Silt::as_user(NOBODY);
    let dir = silt.small_tree("tree");
    for (n, owner) in [0u32, 1, 1000, 65_536, 4_000_000_000].into_iter().enumerate() {
        let file = dir.join(format!("of {owner}"));
        fs::write(&file, pseudo_random(1000 * (n + 1), n as u64)).unwrap();
        lchown(&file, Some(owner), Some(owner + 1)).unwrap();
        let link = dir.join(format!("link of {owner}"));
        symlink("x", &link).unwrap();
        lchown(&link, Some(owner), Some(owner + 1)).unwrap();
    }
    let built = silt.json(&["build", "tree", "image", "--size", "16M"]);
    silt.json(&["clone", "image", "volume"]);
    let server = silt.serve("volume", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&[1; 4096], 12 << 20).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    silt.json(&["clone", "volume", "copy"]);
    silt.json(&["export", "image", "exported"]);
    silt.json(&["export", "copy", "exported-copy"]);
    silt.assert_verified();
    silt.json(&["rm", "copy"]);
    let image = silt.path("exported");
    assert_eq!(fs::metadata(&image).unwrap().uid(), NOBODY);
    e2fsck(&image).unwrap();
    let disk = Ext4::open(FileDisk::new(File::open(&image).unwrap()).unwrap()).unwrap();
    let read = disk.hierarchy().unwrap().hierarchy;
    let owners = read.entries().map(|entry| read.metadata(entry).uid).collect::<Vec<_>>();
    assert!(owners.contains(&4_000_000_000) && owners.contains(&65_536), "{owners:?}");
    fs::create_dir(silt.path("mnt")).unwrap();
    if let Some(mounted) = LoopMount::new(&image, &silt.path("mnt"), "ro").unwrap() {
        assert_same(&survey(&dir), &survey_mounted(mounted.path()));
    }
    // Whoever builds it: the same disk, as there is nothing here that only root could read.
    let as_root = Silt::new();
    let again = as_root.json(&["build", dir.to_str().unwrap(), "image", "--size", "16M"]);
    assert_eq!(again["disk_id"], built["disk_id"]);
}
