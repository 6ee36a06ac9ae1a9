//! Any bytes as an ext4 disk that is to grow: nothing may panic or run away, and no block comes twice or behind the end.
//!
//! A good start is a corpus of small disks of the writer. Checksums find most of what is changed; the tests of `silt-ext4`
//! change disks and put the checksums right.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_ext4::growth::grow;

const SIZE_BYTES: u64 = 1 << 35;

fuzz_target!(|disk: &[u8]| {
    let mut next = 0;
    let _ = grow(disk, SIZE_BYTES, &mut |block, bytes| {
        assert!(block >= next && block < SIZE_BYTES / 4096 && bytes.len() == 4096);
        next = block + 1;
        Ok(())
    });
});
