//! The checksums of feature `metadata_csum`: CRC-32C without the final inversion, chained from seed to seed.

/// Continues a checksum over `bytes`. The first seed of all is `!0`.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !::crc32c::crc32c_append(!seed, bytes)
}

/// The seed of everything that belongs to one inode: the inode itself, its extent blocks and its directory blocks.
pub fn inode_seed(filesystem_seed: u32, inode_number: u32, generation: u32) -> u32 {
    let seed = crc32c(filesystem_seed, &inode_number.to_le_bytes());
    crc32c(seed, &generation.to_le_bytes())
}
