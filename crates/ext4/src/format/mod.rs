//! The on-disk structures of ext4: bytes to types and back, nothing else.
//!
//! Decoders never panic, whatever the bytes, and allocate only in proportion to their input. They check what makes
//! a structure meaningless (magic, checksum, lengths that leave the block); whether values make sense together is the
//! reader's business. Encoders produce bytes that pass the same checks. No I/O, no layout decisions: see
//! [`crate::writer`] and the reader.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/` and `jbd2` on-disk format descriptions.

pub mod acl;
mod bytes;
pub mod checksum;
pub mod directory;
pub mod extent;
pub mod group;
pub mod hash;
pub mod inode;
pub mod journal;
pub mod resize;
pub mod superblock;
pub mod xattr;

pub(crate) use bytes::{put_u16, put_u32, u16_at, u32_at, u64_halves};

/// The block size the writer makes, in bytes; the reader meets others.
pub const BLOCK_SIZE: usize = 4096;

/// Checksum seed of every file system the writer makes (feature `metadata_csum_seed`), so that the UUID is in no other
/// checksum than the superblock's. Published: the first four bytes of "Siltstone" as a little-endian number.
pub const CHECKSUM_SEED: u32 = u32::from_le_bytes(*b"Silt");

/// Seed of the directory hash of every file system the writer makes. Published: "Siltstone ext4.1" in four little-endian words.
pub const HASH_SEED: [u32; 4] = [
    u32::from_le_bytes(*b"Silt"),
    u32::from_le_bytes(*b"ston"),
    u32::from_le_bytes(*b"e ex"),
    u32::from_le_bytes(*b"t4.1"),
];
