//! Any bytes as a disk with a partition table: what is found lies on the disk, and nothing panics or runs away.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_volume::{ext4_places, partitions};

fuzz_target!(|disk: &[u8]| {
    let (disk, len) = (disk.to_vec(), disk.len() as u64);
    let found = partitions(&disk).expect("memory can be read");
    for part in found.iter().chain(&ext4_places(&disk).expect("memory can be read")) {
        assert!(part.size_bytes > 0 && part.start_bytes + part.size_bytes <= len);
    }
});
