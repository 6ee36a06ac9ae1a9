//! An inode as programs see it: kind, owner, times, size; and what the rest of the reader needs to go on from it.
//!
//! Decoding checks what can be checked of an inode alone. Where its blocks lie is in `extents`, what they hold in `file`,
//! `directory` and `xattr`.

use super::{Ext4, disk::DiskRead};
use crate::{
    format::{
        checksum::inode_seed,
        inode::{
            FLAG_ENCRYPT, FLAG_EXTENTS, FLAG_INDEX, FLAG_INLINE_DATA, INODE_ROOT, INODE_SIZE_MIN,
            InodeTime, MODE_BLOCK_DEVICE, MODE_CHAR_DEVICE, MODE_DIRECTORY, MODE_FIFO, MODE_FILE,
            MODE_SOCKET, MODE_SYMLINK, MODE_TYPE_MASK, RawInode, decode_device, inode_checksum,
            stored_inode_checksum,
        },
    },
    hierarchy::Timestamp,
};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{fmt, num::NonZeroU32};

/// Content of a symbolic link up to this length stands where others keep their block numbers.
const SHORT_LINK_LEN_MAX: u64 = 59;

/// The number of an inode, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNumber(NonZeroU32);

impl InodeNumber {
    /// The root directory.
    pub const ROOT: InodeNumber =
        InodeNumber(NonZeroU32::new(INODE_ROOT).expect("two is not zero"));

    /// Inode `number`, or `None` for 0, which stands for no inode.
    pub fn new(number: u32) -> Option<InodeNumber> {
        NonZeroU32::new(number).map(InodeNumber)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for InodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for InodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InodeNumber({self})")
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory: see [`Ext4::read_dir`].
    Directory,
    /// A regular file: see [`Ext4::read_file_at`].
    File,
    /// A symbolic link: see [`Ext4::read_link`].
    Symlink,
    /// A character device.
    CharDevice {
        /// Its driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode. The bytes behind it are those of the moment it was read.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub number: InodeNumber,
    /// What it is.
    pub kind: InodeKind,
    /// The bits of `07777`.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Length of a file's content, a link's target, or a directory's blocks, in bytes. Nothing bounds it but 64 bits.
    pub size_bytes: u64,
    /// Names it has. 0 if it is open but deleted; 1 in a directory that has too many subdirectories to count.
    pub links: u16,
    /// The bits of `i_flags`.
    pub flags: u32,
    /// Block of attributes, or 0.
    pub(super) xattr_block: u64,
    /// Extent tree, block map, link target or device.
    pub(super) block_area: [u8; 60],
    /// What stands behind the inode's fields: attributes.
    pub(super) xattr_area: Box<[u8]>,
    /// Where the checksums of what belongs to the inode start.
    pub(super) checksum_seed: u32,
    /// Generation, and time of creation as it stands there: they tell it from others that have had its number.
    pub(super) birth: (u32, i64, u32),
}

/// How an inode tells where its blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockForm {
    /// It has none.
    None,
    /// By an extent tree.
    Tree,
    /// By a block map.
    Map,
}

impl<D: DiskRead> Ext4<D> {
    /// The root directory.
    pub fn root(&self) -> Result<Inode> {
        self.inode(InodeNumber::ROOT)
    }

    /// Reads inode `number`. `Corrupt` if there is no such number, its checksum does not match, or it is not in use.
    pub fn inode(&self, number: InodeNumber) -> Result<Inode> {
        let (block, start) = self.inode_place(number)?;
        let block = self.blocks().read(block).context(|| format!("cannot read inode {number}"))?;
        let bytes = &block[start..start + self.geometry().inode_size_bytes as usize];
        self.decode_inode(number, bytes)
            .map_err(|what| Error::corrupt(format!("inode {number}: {what}")))
    }

    fn decode_inode(&self, number: InodeNumber, bytes: &[u8]) -> Result<Inode, &'static str> {
        let raw = RawInode::decode(bytes);
        if raw.mode == 0 && raw.links_count == 0 {
            return Err("it is not in use");
        }
        let checksum_seed = inode_seed(self.geometry().seed, number.get(), raw.generation);
        if self.geometry().metadata_checksums
            && inode_checksum(checksum_seed, bytes) != stored_inode_checksum(bytes)
        {
            return Err("its checksum does not match");
        }
        let fields_len = INODE_SIZE_MIN + usize::from(raw.extra_size);
        if fields_len > bytes.len() || !raw.extra_size.is_multiple_of(4) {
            return Err("its fields do not fit");
        }
        let (major, minor) = decode_device(&raw.block);
        let kind = match raw.mode & MODE_TYPE_MASK {
            MODE_DIRECTORY => InodeKind::Directory,
            MODE_FILE => InodeKind::File,
            MODE_SYMLINK => InodeKind::Symlink,
            MODE_CHAR_DEVICE => InodeKind::CharDevice { major, minor },
            MODE_BLOCK_DEVICE => InodeKind::BlockDevice { major, minor },
            MODE_FIFO => InodeKind::Fifo,
            MODE_SOCKET => InodeKind::Socket,
            _ => return Err("it is of no known kind"),
        };
        // Only files and directories use the high half of the size; in others it may hold anything.
        let long = matches!(kind, InodeKind::File | InodeKind::Directory);
        Ok(Inode {
            number,
            kind,
            permissions: raw.mode & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            atime: timestamp(raw.atime)?,
            ctime: timestamp(raw.ctime)?,
            mtime: timestamp(raw.mtime)?,
            size_bytes: if long { raw.size } else { raw.size & 0xFFFF_FFFF },
            links: raw.links_count,
            flags: raw.flags,
            xattr_block: raw.xattr_block,
            block_area: raw.block,
            xattr_area: bytes[fields_len.max(INODE_SIZE_MIN)..].into(),
            checksum_seed,
            birth: (raw.generation, raw.crtime.seconds, raw.crtime.nanoseconds),
        })
    }
}

impl Inode {
    /// How it tells where its blocks are.
    pub(super) fn block_form(&self) -> BlockForm {
        let has_content =
            matches!(self.kind, InodeKind::File | InodeKind::Directory | InodeKind::Symlink);
        if !has_content || self.is_inline() || self.is_short_link() {
            BlockForm::None
        } else if self.flags & FLAG_EXTENTS != 0 {
            BlockForm::Tree
        } else {
            BlockForm::Map
        }
    }

    /// Its content is in the inode itself, by feature `inline_data`.
    pub fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE_DATA != 0
    }

    /// It is a symbolic link whose target stands in the inode itself.
    pub(super) fn is_short_link(&self) -> bool {
        self.kind == InodeKind::Symlink
            && self.size_bytes <= SHORT_LINK_LEN_MAX
            && self.flags & FLAG_EXTENTS == 0
    }

    /// It is a directory with an index.
    pub(super) fn is_indexed(&self) -> bool {
        self.flags & FLAG_INDEX != 0
    }

    /// `Unsupported` if content and names are encrypted.
    pub(super) fn refuse_encrypted(&self) -> Result<()> {
        if self.flags & FLAG_ENCRYPT == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, format!("inode {} is encrypted", self.number)))
    }
}

fn timestamp(time: InodeTime) -> Result<Timestamp, &'static str> {
    if time.nanoseconds >= 1_000_000_000 {
        return Err("it has a time with more than a second of nanoseconds");
    }
    Ok(Timestamp { seconds: time.seconds, nanoseconds: time.nanoseconds })
}
