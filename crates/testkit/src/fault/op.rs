//! What a recording is made of: one [`Op`] for every change that reached the backing folder.
//!
//! Files are named by [`FileId`], never by path: a rename changes no id, an unlinked file keeps its id, and
//! an inode number that the backing file system uses again gets a new one.

use std::{ffi::OsString, fmt, ops::Range};

/// A file or folder for the length of one recording. The mounted folder itself is [`FileId::ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(super) u64);

impl FileId {
    /// The folder that is mounted.
    pub const ROOT: FileId = FileId(0);
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Where a name stands: a folder and an entry in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The folder.
    pub dir: FileId,
    /// The entry, any bytes but `/` and NUL.
    pub name: OsString,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dir, self.name.to_string_lossy())
    }
}

/// What a new name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// An empty regular file.
    File,
    /// An empty folder.
    Dir,
    /// A symbolic link to this target.
    Symlink(OsString),
    /// A socket, FIFO or device: the type bits of `st_mode`.
    Special(u32),
}

/// How a rename treats a name that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameKind {
    /// Replaces it.
    Replace,
    /// Refused it (`RENAME_NOREPLACE`), so there was none.
    NoReplace,
    /// Swapped the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// What an fallocate did to its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Gave it space; what was there stays.
    Reserve,
    /// Made it a hole that reads as zero (`FALLOC_FL_PUNCH_HOLE`).
    Punch,
    /// Made it read as zero and kept the space (`FALLOC_FL_ZERO_RANGE`).
    Zero,
}

/// One change, in the order in which changes happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new file, folder, symbolic link or special file. `mode` holds the permission bits.
    Create {
        /// Its name.
        at: Slot,
        /// Its id.
        file: FileId,
        /// What it is.
        made: Made,
        /// Permission bits, umask applied.
        mode: u32,
        /// User and group.
        owner: (u32, u32),
    },
    /// Bytes at an offset; grows the file where they end beyond it.
    Write {
        /// The file.
        file: FileId,
        /// Of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Box<[u8]>,
    },
    /// A new size, smaller or larger.
    Truncate {
        /// The file.
        file: FileId,
        /// In bytes.
        size: u64,
    },
    /// Space given, taken or zeroed.
    Fallocate {
        /// The file.
        file: FileId,
        /// In bytes.
        range: Range<u64>,
        /// What happened to the range.
        allocation: Allocation,
        /// The size afterwards.
        size: u64,
    },
    /// A name moved.
    Rename {
        /// From here,
        from: Slot,
        /// to here.
        to: Slot,
        /// What became of `to`.
        kind: RenameKind,
    },
    /// Another name for a file.
    Link {
        /// The file.
        file: FileId,
        /// The new name.
        at: Slot,
    },
    /// A name of a file removed.
    Unlink {
        /// The name.
        at: Slot,
    },
    /// A folder removed.
    Rmdir {
        /// The name.
        at: Slot,
    },
    /// New permission bits or owner. Changes of times alone are not recorded.
    SetAttr {
        /// The file.
        file: FileId,
        /// Permission bits afterwards.
        mode: u32,
        /// User and group afterwards.
        owner: (u32, u32),
    },
    /// An answered fsync, or fdatasync where `data_only`.
    Fsync {
        /// The file.
        file: FileId,
        /// Whether permission bits and owner were left out.
        data_only: bool,
    },
    /// An answered fsync of a folder.
    FsyncDir {
        /// The folder.
        dir: FileId,
    },
    /// An fsync that failed: what was unsynced stays so for good, a later fsync does not save it.
    FsyncFailed {
        /// The file or folder.
        file: FileId,
    },
    /// Not a change: something the scenario wrote down, such as "commit 7 was answered".
    Mark {
        /// The scenario's words.
        label: String,
    },
}

impl Op {
    /// The file whose content or attributes this changes, where it changes no name.
    pub(super) fn content_of(&self) -> Option<FileId> {
        match self {
            Op::Write { file, .. }
            | Op::Truncate { file, .. }
            | Op::Fallocate { file, .. }
            | Op::SetAttr { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// The names this changes.
    pub(super) fn slots(&self) -> Vec<&Slot> {
        match self {
            Op::Create { at, .. } | Op::Link { at, .. } | Op::Unlink { at } | Op::Rmdir { at } => {
                vec![at]
            }
            Op::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// The folder whose fsync promises this change of names: for a rename the one with the new name.
    pub(super) fn guarantor(&self) -> Option<FileId> {
        self.slots().last().map(|slot| slot.dir)
    }

    /// Whether a power cut may keep or lose it: neither a sync nor a mark.
    pub(super) fn is_change(&self) -> bool {
        !matches!(
            self,
            Op::Fsync { .. } | Op::FsyncDir { .. } | Op::FsyncFailed { .. } | Op::Mark { .. }
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create { at, file, made, mode, .. } => {
                write!(f, "create {at} as {file} {made:?} {mode:o}")
            }
            Op::Write { file, offset, bytes } => {
                write!(f, "write {file} {offset}+{}", bytes.len())
            }
            Op::Truncate { file, size } => write!(f, "truncate {file} to {size}"),
            Op::Fallocate { file, range, allocation, .. } => {
                write!(f, "fallocate {file} {allocation:?} {}..{}", range.start, range.end)
            }
            Op::Rename { from, to, kind } => write!(f, "rename {from} to {to} {kind:?}"),
            Op::Link { file, at } => write!(f, "link {file} as {at}"),
            Op::Unlink { at } => write!(f, "unlink {at}"),
            Op::Rmdir { at } => write!(f, "rmdir {at}"),
            Op::SetAttr { file, mode, owner } => {
                write!(f, "setattr {file} {mode:o} {}:{}", owner.0, owner.1)
            }
            Op::Fsync { file, data_only: false } => write!(f, "fsync {file}"),
            Op::Fsync { file, data_only: true } => write!(f, "fdatasync {file}"),
            Op::FsyncDir { dir } => write!(f, "fsync folder {dir}"),
            Op::FsyncFailed { file } => write!(f, "fsync {file} FAILED"),
            Op::Mark { label } => write!(f, "mark {label:?}"),
        }
    }
}
