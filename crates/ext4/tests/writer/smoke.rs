use super::examples::*;
use silt_ext4::EntryId;
use silt_testkit::ext4_image::{e2fsck, write_image};

#[test]
fn images_of_every_size_are_clean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mib = 1u64 << 20;
    let sizes = [
        mib,
        3 * mib + 12345,
        8 * mib - 4096,
        8 * mib,
        33 * mib,
        128 * mib,
        129 * mib,
        160 * mib,
        1000 * mib,
        3000 * mib,
        20_000 * mib,
    ];
    for size in sizes {
        let mut hierarchy = empty();
        let folder = add_directory(&mut hierarchy, EntryId::ROOT, "folder");
        for n in 0..20 {
            add_file(&mut hierarchy, folder, &format!("file{n}"), n * 3000);
        }
        let layout = write_image(&hierarchy, Some(size), &path).unwrap();
        println!("{:?}", layout.summary());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        e2fsck(&path).unwrap();
    }
}
