//! Thousands of disks with something wrong and checksums that hold: none makes growing panic, run away, or write a block
//! twice or behind the end.

use super::grown::{GIB, MIB, tree};
use silt_ext4::{
    format::{
        checksum::{crc32c, inode_seed},
        group::{DESCRIPTOR_SIZE, GroupDescriptor},
        inode::{INODE_RESIZE, INODE_SIZE, RawInode, seal_inode},
        superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock, seal_superblock},
    },
    growth::grow,
};
use silt_testkit::ext4_image::write_image;
use silt_types::{ErrorKind, Result};
use std::panic;

const DISKS: u64 = 3000;

const EXPECTED: [ErrorKind; 3] = [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::Invalid];

/// The numbers that decide, one after the other.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Where superblock, descriptors, block bitmap, list of reserved blocks and resize inode stand: offset and length.
fn places(disk: &[u8]) -> Vec<(usize, usize)> {
    let descriptor = |group: usize| {
        GroupDescriptor::decode(&disk[4096 + group * DESCRIPTOR_SIZE..][..DESCRIPTOR_SIZE])
    };
    let (first, last) = (descriptor(0), descriptor(1));
    vec![
        (SUPERBLOCK_OFFSET as usize, SUPERBLOCK_SIZE),
        (4096, 2 * DESCRIPTOR_SIZE),
        (last.block_bitmap as usize * 4096, 4096),
        (first.block_bitmap as usize * 4096 - 4096, 64),
        (first.inode_table as usize * 4096 + 6 * INODE_SIZE, INODE_SIZE),
    ]
}

/// Makes the checksums right that growing checks.
fn seal(disk: &mut [u8], places: &[(usize, usize)]) {
    let superblock = &mut disk[places[0].0..][..SUPERBLOCK_SIZE];
    seal_superblock(superblock.first_chunk_mut().unwrap(), 0);
    let seed = Superblock::decode(superblock).map_or(0, |superblock| superblock.seed());
    let bitmap_sum = crc32c(seed, &disk[places[2].0..][..4096]);
    for group in 0..2 {
        let slot = &mut disk[4096 + group * DESCRIPTOR_SIZE..][..DESCRIPTOR_SIZE];
        let mut descriptor = GroupDescriptor::decode(slot);
        if group == 1 {
            descriptor.block_bitmap_checksum = bitmap_sum;
        }
        slot.copy_from_slice(&descriptor.encode(seed, group as u32));
    }
    let inode = &mut disk[places[4].0..][..INODE_SIZE];
    let seed = inode_seed(seed, INODE_RESIZE, RawInode::decode(inode).generation);
    seal_inode(seed, inode.first_chunk_mut().unwrap());
}

fn change(disk: &mut [u8], places: &[(usize, usize)], numbers: &mut Numbers) {
    for _ in 0..=numbers.next() % 3 {
        let (start, len) = places[(numbers.next() % places.len() as u64) as usize];
        let at = start + (numbers.next() as usize % (len / 4)) * 4;
        let number = numbers.next();
        let word = match number % 5 {
            0 => 0,
            1 => u32::MAX,
            2 => (number >> 32) as u32,
            3 => (number >> 32) as u32 % 70_000,
            _ => {
                u32::from_le_bytes(disk[at..at + 4].try_into().unwrap()) ^ 1 << (number >> 40 & 31)
            }
        };
        disk[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Grows the disk; gives the number of blocks written.
fn try_to_grow(disk: &Vec<u8>, size: u64) -> Result<u64> {
    let mut next = 0;
    grow(disk, size, &mut |block, bytes| {
        assert!(block >= next && block < size / 4096 && bytes.len() == 4096);
        next = block + 1;
        Ok(())
    })
    .map(|growth| growth.blocks_written)
}

#[test]
fn no_mutated_disk_makes_growing_panic_or_run_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    write_image(&tree(), Some(150 * MIB), &path).unwrap();
    let sound = std::fs::read(&path).unwrap();
    let places = places(&sound);
    let (mut disk, mut refused) = (sound.clone(), 0);
    seal(&mut disk, &places);
    assert!(disk == sound, "sealing changes nothing on a sound disk");
    for number in 0..DISKS {
        change(&mut disk, &places, &mut Numbers(number));
        if number % 8 != 0 {
            seal(&mut disk, &places);
        }
        match panic::catch_unwind(|| try_to_grow(&disk, 100 * GIB)) {
            Ok(Ok(written)) if written < 3000 => {}
            Ok(Err(error)) if EXPECTED.contains(&error.kind()) => refused += 1,
            Ok(outcome) => panic!("disk {number}: {outcome:?}"),
            Err(_) => panic!("disk {number}: growing panics"),
        }
        for (start, len) in &places {
            disk[*start..start + len].copy_from_slice(&sound[*start..start + len]);
        }
    }
    println!("{refused} of {DISKS} disks refused");
    assert!(refused > DISKS / 4 && refused < DISKS);
}
