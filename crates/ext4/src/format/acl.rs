//! POSIX ACLs: the form ext4 keeps differs from the form that `getxattr(2)` gives.
//!
//! The kernel's form is a version 2 header and entries of 8 bytes; ext4's is a version 1 header and entries that
//! leave the id out where there is none.

use super::{put_u16, put_u32, u16_at, u32_at};
use silt_types::{Error, Result};

const KERNEL_VERSION: u32 = 2;
const DISK_VERSION: u32 = 1;
const HEADER_SIZE: usize = 4;
const LONG_ENTRY_SIZE: usize = 8;
const SHORT_ENTRY_SIZE: usize = 4;
const NO_ID: u32 = u32::MAX;

const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;
/// The owner, the owning group, the mask, everybody else: entries without an id.
const TAGS_WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];

/// From the form of `getxattr(2)` to ext4's. `Invalid` when it is not such a value.
pub fn acl_to_disk(kernel_form: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::invalid("POSIX ACL: not in the kernel's form, version 2");
    let (header, entries) = kernel_form.split_first_chunk::<HEADER_SIZE>().ok_or_else(bad)?;
    if u32_at(header, 0) != KERNEL_VERSION || entries.len() % LONG_ENTRY_SIZE != 0 {
        return Err(bad());
    }
    let mut disk = DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(LONG_ENTRY_SIZE) {
        let tag = u16_at(entry, 0);
        match tag {
            TAG_USER | TAG_GROUP => disk.extend_from_slice(entry),
            _ if TAGS_WITHOUT_ID.contains(&tag) => {
                disk.extend_from_slice(&entry[..SHORT_ENTRY_SIZE]);
            }
            _ => return Err(bad()),
        }
    }
    Ok(disk)
}

/// From ext4's form to that of `getxattr(2)`. `Corrupt` when it is not such a value.
pub fn acl_from_disk(disk_form: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::corrupt("POSIX ACL: not in ext4's form, version 1");
    let (header, mut rest) = disk_form.split_first_chunk::<HEADER_SIZE>().ok_or_else(bad)?;
    if u32_at(header, 0) != DISK_VERSION {
        return Err(bad());
    }
    let mut kernel = KERNEL_VERSION.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let mut entry = [0; LONG_ENTRY_SIZE];
        let short = rest.get(..SHORT_ENTRY_SIZE).ok_or_else(bad)?;
        put_u32(&mut entry, 4, NO_ID);
        put_u16(&mut entry, 0, u16_at(short, 0));
        put_u16(&mut entry, 2, u16_at(short, 2));
        let size = match u16_at(short, 0) {
            TAG_USER | TAG_GROUP => {
                let long = rest.get(..LONG_ENTRY_SIZE).ok_or_else(bad)?;
                put_u32(&mut entry, 4, u32_at(long, 4));
                LONG_ENTRY_SIZE
            }
            tag if TAGS_WITHOUT_ID.contains(&tag) => SHORT_ENTRY_SIZE,
            _ => return Err(bad()),
        };
        kernel.extend_from_slice(&entry);
        rest = &rest[size..];
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_survives_both_ways() {
        let mut kernel = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (0x01u16, 7u16, u32::MAX),
            (0x02, 6, 1000),
            (0x04, 5, u32::MAX),
            (0x08, 4, 70_000),
            (0x10, 7, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            kernel.extend_from_slice(&tag.to_le_bytes());
            kernel.extend_from_slice(&permissions.to_le_bytes());
            kernel.extend_from_slice(&id.to_le_bytes());
        }
        let disk = acl_to_disk(&kernel).unwrap();
        assert_eq!(disk.len(), 4 + 4 * 4 + 2 * 8);
        assert_eq!(acl_from_disk(&disk).unwrap(), kernel);
        for len in 0..disk.len() {
            let _ = acl_from_disk(&disk[..len]);
        }
        assert!(acl_to_disk(&kernel[..9]).is_err());
        assert!(acl_to_disk(&[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
