//! Inodes: metadata of one file, and the first 60 bytes of where its content is.

use super::{bytes::array_at, checksum, put_u16, put_u32, u16_at, u32_at, u64_halves};

/// Length of the inodes the writer makes, in bytes.
pub const INODE_SIZE: usize = 256;

/// Length of the part every inode has, in bytes.
pub const INODE_SIZE_MIN: usize = 128;

/// `i_extra_isize` of the inodes the writer makes: nanoseconds, creation time, checksum and project id.
pub const EXTRA_SIZE: u16 = 32;

/// Where the attributes inside an inode of the writer begin, in bytes.
pub const INLINE_XATTR_OFFSET: usize = INODE_SIZE_MIN + EXTRA_SIZE as usize;

/// Sectors of 512 bytes, the unit of `i_blocks`, in a block of the writer.
pub const SECTORS_PER_BLOCK: u64 = 8;

/// Inode of the root directory.
pub const INODE_ROOT: u32 = 2;
/// Inode of the blocks reserved for group descriptors.
pub const INODE_RESIZE: u32 = 7;
/// Inode of the journal.
pub const INODE_JOURNAL: u32 = 8;
/// The first inode that is not reserved; by custom `lost+found`.
pub const INODE_FIRST: u32 = 11;

/// The directory has a hash index.
pub const FLAG_INDEX: u32 = 0x1000;
/// `i_blocks` counts blocks, not sectors.
pub const FLAG_HUGE_FILE: u32 = 0x4_0000;
/// `i_block` holds an extent tree.
pub const FLAG_EXTENTS: u32 = 0x8_0000;
/// The inode holds the value of an attribute.
pub const FLAG_EA_INODE: u32 = 0x20_0000;
/// The content is in the inode.
pub const FLAG_INLINE_DATA: u32 = 0x1000_0000;
/// The content is encrypted.
pub const FLAG_ENCRYPT: u32 = 0x800;

/// The type bits of `i_mode`.
pub const MODE_TYPE_MASK: u16 = 0o170_000;
/// `i_mode`: a FIFO.
pub const MODE_FIFO: u16 = 0o010_000;
/// `i_mode`: a character device.
pub const MODE_CHAR_DEVICE: u16 = 0o020_000;
/// `i_mode`: a directory.
pub const MODE_DIRECTORY: u16 = 0o040_000;
/// `i_mode`: a block device.
pub const MODE_BLOCK_DEVICE: u16 = 0o060_000;
/// `i_mode`: a regular file.
pub const MODE_FILE: u16 = 0o100_000;
/// `i_mode`: a symbolic link.
pub const MODE_SYMLINK: u16 = 0o120_000;
/// `i_mode`: a socket.
pub const MODE_SOCKET: u16 = 0o140_000;

/// The earliest second an inode with extra space can hold (1901).
pub const SECONDS_MIN: i64 = i32::MIN as i64;
/// The latest second an inode with extra space can hold (2446).
pub const SECONDS_MAX: i64 = SECONDS_MIN + (1 << 34) - 1;

/// A time as an inode keeps it: 34 bits of seconds from 1901 on, 30 bits of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeTime {
    /// Seconds since 1970, within [`SECONDS_MIN`] and [`SECONDS_MAX`].
    pub seconds: i64,
    /// Nanoseconds; hostile inodes hold up to 2^30 - 1.
    pub nanoseconds: u32,
}

impl InodeTime {
    /// The base field and the extra field.
    fn encode(self) -> (u32, u32) {
        let epoch = ((self.seconds - i64::from(self.seconds as i32)) >> 32) as u32 & 3;
        (self.seconds as u32, self.nanoseconds << 2 | epoch)
    }

    fn decode(base: u32, extra: u32) -> InodeTime {
        let seconds = i64::from(base as i32) + (i64::from(extra & 3) << 32);
        InodeTime { seconds, nanoseconds: extra >> 2 }
    }
}

/// What an inode says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawInode {
    /// Type and permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of the content in bytes.
    pub size: u64,
    /// Last access.
    pub atime: InodeTime,
    /// Last change of the inode.
    pub ctime: InodeTime,
    /// Last change of the content.
    pub mtime: InodeTime,
    /// Creation.
    pub crtime: InodeTime,
    /// Deletion, in seconds; or, in an orphan, the next orphan's inode number.
    pub dtime: u32,
    /// Number of directory entries, or 1 in a directory of more than 65000.
    pub links_count: u16,
    /// Allocated sectors of 512 bytes, or blocks with [`FLAG_HUGE_FILE`].
    pub blocks: u64,
    /// Bits `FLAG_*`.
    pub flags: u32,
    /// Extent tree root, block pointers, symbolic link target or device number.
    pub block: [u8; 60],
    /// Generation, part of the checksum seed.
    pub generation: u32,
    /// Block of extended attributes, or 0.
    pub xattr_block: u64,
    /// Bytes in use beyond the first 128.
    pub extra_size: u16,
}

impl RawInode {
    /// Writes the inode, without the attributes inside it and without checksum, into `bytes`, which is all zero.
    pub fn encode(&self, bytes: &mut [u8; INODE_SIZE]) {
        let b = bytes;
        put_u16(b, 0x00, self.mode);
        put_u16(b, 0x02, self.uid as u16);
        put_u16(b, 0x18, self.gid as u16);
        put_u16(b, 0x78, (self.uid >> 16) as u16);
        put_u16(b, 0x7A, (self.gid >> 16) as u16);
        put_u32(b, 0x04, self.size as u32);
        put_u32(b, 0x6C, (self.size >> 32) as u32);
        put_u32(b, 0x14, self.dtime);
        put_u16(b, 0x1A, self.links_count);
        put_blocks(b, self.blocks);
        put_u32(b, 0x20, self.flags);
        b[0x28..0x64].copy_from_slice(&self.block);
        put_u32(b, 0x64, self.generation);
        put_u32(b, 0x68, self.xattr_block as u32);
        put_u16(b, 0x76, (self.xattr_block >> 32) as u16);
        put_u16(b, 0x80, self.extra_size);
        for (base, extra, time) in [
            (0x08, 0x8C, self.atime),
            (0x0C, 0x84, self.ctime),
            (0x10, 0x88, self.mtime),
            (0x90, 0x94, self.crtime),
        ] {
            let (seconds, nanoseconds) = time.encode();
            put_u32(b, base, seconds);
            put_u32(b, extra, nanoseconds);
        }
    }

    /// Reads an inode of any size. Fields that lie beyond 128 bytes plus `i_extra_isize`, or past the end, are zero.
    pub fn decode(bytes: &[u8]) -> RawInode {
        let extra_size = if bytes.len() > INODE_SIZE_MIN { u16_at(bytes, 0x80) } else { 0 };
        let end = (INODE_SIZE_MIN + usize::from(extra_size)).min(bytes.len());
        let b = bytes.get(..end).unwrap_or(bytes);
        let wide = |low, high| u32::from(u16_at(b, low)) | u32::from(u16_at(b, high)) << 16;
        let time = |base, extra| InodeTime::decode(u32_at(b, base), u32_at(b, extra));
        RawInode {
            mode: u16_at(b, 0x00),
            uid: wide(0x02, 0x78),
            gid: wide(0x18, 0x7A),
            size: u64_halves(b, 0x04, 0x6C),
            atime: time(0x08, 0x8C),
            ctime: time(0x0C, 0x84),
            mtime: time(0x10, 0x88),
            crtime: time(0x90, 0x94),
            dtime: u32_at(b, 0x14),
            links_count: u16_at(b, 0x1A),
            blocks: u64::from(u32_at(b, 0x1C)) | u64::from(u16_at(b, 0x74)) << 32,
            flags: u32_at(b, 0x20),
            block: array_at(b, 0x28).unwrap_or([0; 60]),
            generation: u32_at(b, 0x64),
            xattr_block: u64::from(u32_at(b, 0x68)) | u64::from(u16_at(b, 0x76)) << 32,
            extra_size,
        }
    }
}

/// The checksum of the inode in `bytes`, to be compared with [`stored_inode_checksum`]. Only the low 16 bits are kept
/// where the inode has no room for the high ones. `seed` is that of [`checksum::inode_seed`].
pub fn inode_checksum(seed: u32, bytes: &[u8]) -> u32 {
    let part = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
    let sum = checksum::crc32c(seed, part(0..0x7C));
    let sum = checksum::crc32c(sum, &[0, 0]);
    let sum = checksum::crc32c(sum, part(0x7E..INODE_SIZE_MIN));
    if bytes.len() <= INODE_SIZE_MIN {
        return sum & 0xFFFF;
    }
    if !has_high_checksum(bytes) {
        return checksum::crc32c(sum, part(INODE_SIZE_MIN..bytes.len())) & 0xFFFF;
    }
    let sum = checksum::crc32c(sum, part(INODE_SIZE_MIN..0x82));
    let sum = checksum::crc32c(sum, &[0, 0]);
    checksum::crc32c(sum, part(0x84..bytes.len()))
}

/// The checksum that the inode in `bytes` carries.
pub fn stored_inode_checksum(bytes: &[u8]) -> u32 {
    let low = u32::from(u16_at(bytes, 0x7C));
    if has_high_checksum(bytes) { low | u32::from(u16_at(bytes, 0x82)) << 16 } else { low }
}

/// Sets `i_blocks` of the inode in `bytes`, and no checksum.
pub fn put_blocks(bytes: &mut [u8; INODE_SIZE], blocks: u64) {
    put_u32(bytes, 0x1C, blocks as u32);
    put_u16(bytes, 0x74, (blocks >> 32) as u16);
}

/// Stores the checksum of a complete inode in it.
pub fn seal_inode(seed: u32, bytes: &mut [u8; INODE_SIZE]) {
    let sum = inode_checksum(seed, bytes);
    put_u16(bytes, 0x7C, sum as u16);
    put_u16(bytes, 0x82, (sum >> 16) as u16);
}

/// Whether the inode in `bytes` has room for all 32 bits of its checksum.
pub fn has_high_checksum(bytes: &[u8]) -> bool {
    bytes.len() > INODE_SIZE_MIN && u16_at(bytes, 0x80) >= 4
}

/// The device number as `i_block` keeps it: 8 bits each where that is enough, else 12 and 20 bits.
/// `None` where the numbers are larger still.
pub fn encode_device(major: u32, minor: u32) -> Option<[u8; 60]> {
    let mut block = [0; 60];
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    if major < 256 && minor < 256 {
        put_u32(&mut block, 0, major << 8 | minor);
    } else {
        put_u32(&mut block, 4, minor & 0xFF | major << 8 | (minor & !0xFF) << 12);
    }
    Some(block)
}

/// Major and minor number of a device inode.
pub fn decode_device(block: &[u8; 60]) -> (u32, u32) {
    match u32_at(block, 0) {
        0 => {
            let new = u32_at(block, 4);
            (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xF_FF00)
        }
        old => (old >> 8 & 0xFF, old & 0xFF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_34_bits_read_back() {
        for seconds in [SECONDS_MIN, -1, 0, i64::from(i32::MAX), 1 << 31, 1 << 33, SECONDS_MAX] {
            let time = InodeTime { seconds, nanoseconds: 999_999_999 };
            let (base, extra) = time.encode();
            assert_eq!(InodeTime::decode(base, extra), time);
        }
    }

    #[test]
    fn devices_read_back_in_both_encodings() {
        for (major, minor) in [(0, 0), (1, 3), (255, 255), (256, 0), (8, 256), (4095, 0xF_FFFF)] {
            assert_eq!(decode_device(&encode_device(major, minor).unwrap()), (major, minor));
        }
        assert_eq!(encode_device(4096, 0), None);
        assert_eq!(encode_device(0, 1 << 20), None);
    }

    #[test]
    fn an_inode_reads_back_and_its_checksum_holds() {
        let time = InodeTime { seconds: -5, nanoseconds: 7 };
        let inode = RawInode {
            mode: MODE_FILE | 0o4755,
            uid: 0x12345,
            gid: 0x54321,
            size: 0x1_2345_6789,
            atime: time,
            ctime: InodeTime { seconds: 1 << 32, nanoseconds: 1 },
            mtime: time,
            crtime: time,
            dtime: 9,
            links_count: 3,
            blocks: 0x2_0000_0008,
            flags: FLAG_EXTENTS,
            block: std::array::from_fn(|index| index as u8),
            generation: 77,
            xattr_block: 0x1_0000_0002,
            extra_size: EXTRA_SIZE,
        };
        let mut bytes = [0; INODE_SIZE];
        inode.encode(&mut bytes);
        seal_inode(5, &mut bytes);
        assert_eq!(RawInode::decode(&bytes), inode);
        assert_eq!(inode_checksum(5, &bytes), stored_inode_checksum(&bytes));
        for len in 0..INODE_SIZE {
            let _ = RawInode::decode(&bytes[..len]);
            let _ = inode_checksum(5, &bytes[..len]);
        }
    }
}
