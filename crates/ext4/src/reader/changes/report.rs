//! The records of what changed.

use super::super::inode::InodeKind;
use silt_types::{Error, Result};

/// One way in which an entry changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// It is only on the second side.
    Added,
    /// It is only on the first side.
    Removed,
    /// It had another path.
    Renamed,
    /// It has become something else, a directory where there was a file for instance. Then nothing else is told.
    Kind,
    /// Length or bytes of a file.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Number of a device.
    Device,
    /// Permissions.
    Mode,
    /// User or group.
    Owner,
    /// Time of the last change.
    Times,
    /// Extended attributes, ACLs among them.
    Xattrs,
}

impl Aspect {
    /// All of them, in the order in which they are told.
    pub const ALL: [Aspect; 11] = [
        Aspect::Added,
        Aspect::Removed,
        Aspect::Renamed,
        Aspect::Kind,
        Aspect::Content,
        Aspect::Target,
        Aspect::Device,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Times,
        Aspect::Xattrs,
    ];

    /// Its name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Aspect::Added => "added",
            Aspect::Removed => "removed",
            Aspect::Renamed => "renamed",
            Aspect::Kind => "kind",
            Aspect::Content => "content",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Times => "times",
            Aspect::Xattrs => "xattrs",
        }
    }
}

/// A set of [`Aspect`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects(u16);

impl Aspects {
    /// Whether nothing changed.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `aspect` is among them.
    pub fn contains(self, aspect: Aspect) -> bool {
        self.0 & 1 << aspect as u16 != 0
    }

    /// Those there are, in the order of [`Aspect::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.contains(*aspect))
    }

    pub(super) fn add_if(&mut self, changed: bool, aspect: Aspect) {
        if changed {
            self.0 |= 1 << aspect as u16;
        }
    }
}

impl From<Aspect> for Aspects {
    fn from(aspect: Aspect) -> Aspects {
        Aspects(1 << aspect as u16)
    }
}

/// What changed of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the root of the file system, without a leading slash; the root itself is empty. Of what was removed, where
    /// it was.
    pub path: Vec<u8>,
    /// What it is; of what was removed, what it was.
    pub kind: InodeKind,
    /// How it changed; at least one.
    pub what: Aspects,
    /// Its path before, if it was renamed.
    pub from: Option<Vec<u8>>,
}

/// The changes found so far.
pub(super) struct Report {
    changes: Vec<Change>,
    /// Bytes that the rest of the paths may have.
    path_bytes_left: u64,
}

impl Report {
    pub(super) fn new(path_bytes_max: u64) -> Report {
        Report { changes: Vec::new(), path_bytes_left: path_bytes_max }
    }

    /// Takes the length of a path from what may be kept.
    pub(super) fn claim_path(&mut self, path: &[u8]) -> Result<()> {
        let left = self.path_bytes_left.checked_sub(path.len() as u64);
        self.path_bytes_left =
            left.ok_or_else(|| Error::corrupt("the paths that changed are longer than the disks"))?;
        Ok(())
    }

    /// Adds a change, whose path has been claimed.
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(super) fn in_order(mut self) -> Vec<Change> {
        self.changes.sort_by(|a, b| a.path.cmp(&b.path));
        self.changes
    }
}
