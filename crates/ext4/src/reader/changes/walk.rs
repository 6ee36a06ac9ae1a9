//! Walking two trees side by side, by path.

use super::{
    super::{
        Ext4,
        disk::DiskRead,
        inode::{Inode, InodeKind, InodeNumber},
    },
    DiskPair,
    paths::{PathId, Paths},
    report::{Aspect, Aspects, Change, Report},
    side::{Entries, Side},
    strays::Stray,
};
use silt_types::{Error, Result};
use std::{cmp::Ordering, collections::HashMap, mem::discriminant};

/// Bytes of paths for each byte of the disks, as for attributes: a disk is no shorter than what it takes to tell of it.
const PATH_BYTES_PER_BYTE: u64 = 2;

pub(super) struct Walk<'a, A, B> {
    pub(super) before: Side<'a, A>,
    pub(super) after: Side<'a, B>,
    pub(super) pair: &'a dyn DiskPair,
    /// Whether both are states of one file system, so that inode numbers mean the same.
    pub(super) related: bool,
    pub(super) paths: Paths,
    pub(super) report: Report,
    /// What is on one side only.
    pub(super) removed: Vec<Stray>,
    pub(super) added: Vec<Stray>,
    pending: Vec<DirectoryPair>,
    /// The first inode of the block that was asked for last, and whether it is the same on both sides.
    pub(super) last_shared: Option<(u32, bool)>,
    /// What was found of inodes that have several names on both sides.
    compared: HashMap<(InodeNumber, InodeNumber), Aspects>,
}

/// Directories of one path that are still to be compared.
struct DirectoryPair {
    path: PathId,
    before: InodeNumber,
    after: InodeNumber,
}

impl<'a, A: DiskRead, B: DiskRead> Walk<'a, A, B> {
    pub(super) fn new(
        before: &'a Ext4<A>,
        after: &'a Ext4<B>,
        pair: &'a dyn DiskPair,
    ) -> Walk<'a, A, B> {
        let bytes = before.size_bytes().saturating_add(after.size_bytes());
        Walk {
            before: Side::new(before),
            after: Side::new(after),
            pair,
            related: are_states_of_one(before, after),
            paths: Paths::new(),
            report: Report::new(bytes.saturating_mul(PATH_BYTES_PER_BYTE)),
            removed: Vec::new(),
            added: Vec::new(),
            pending: Vec::new(),
            last_shared: None,
            compared: HashMap::new(),
        }
    }

    /// Compares what has a path on both sides, and collects the rest.
    pub(super) fn run(&mut self) -> Result<()> {
        let root = InodeNumber::ROOT;
        self.pending.push(DirectoryPair { path: PathId::ROOT, before: root, after: root });
        while let Some(pair) = self.pending.pop() {
            self.compare_directories(&pair)?;
        }
        Ok(())
    }

    fn compare_directories(&mut self, pair: &DirectoryPair) -> Result<()> {
        let shared = pair.before == pair.after && self.is_shared(pair.after)?;
        let after = self.after.named(pair.after)?;
        let read;
        let before = if shared {
            &after
        } else {
            read = self.before.named(pair.before)?;
            &read
        };
        if [before, &after].iter().any(|inode| inode.kind != InodeKind::Directory) {
            return Err(Error::corrupt("the root inode is not a directory"));
        }
        self.before.enter(before)?;
        self.after.enter(&after)?;
        let entries = self.after.entries(&after)?;
        let changed = if shared && self.has_same_blocks(&after)? {
            for (name, number) in &entries {
                self.compare_entry(pair.path, name, *number, *number)?;
            }
            false
        } else {
            let entries_before = self.before.entries(before)?;
            self.compare_entries(pair.path, &entries_before, &entries)?
        };
        let mut aspects = self.compare(before, &after, shared)?;
        if changed {
            aspects = without_times(aspects);
        }
        if !aspects.is_empty() {
            let path = self.paths.directory(pair.path);
            self.tell(path, after.kind, aspects)?;
        }
        Ok(())
    }

    /// Merges the names of two directories. True if they are not the same, or name other inodes.
    fn compare_entries(&mut self, path: PathId, a: &Entries, b: &Entries) -> Result<bool> {
        let mut changed = false;
        let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (None, None) => return Ok(changed),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((x, _)), Some((y, _))) => x.cmp(y),
            };
            let before = if order.is_le() { a.next() } else { None };
            let after = if order.is_ge() { b.next() } else { None };
            match (before, after) {
                (Some((name, x)), Some((_, y))) => {
                    changed |= self.related && x != y;
                    self.compare_entry(path, name, *x, *y)?;
                }
                (Some((name, number)), None) => self.add_removed(path, name, *number)?,
                (None, Some((name, number))) => self.add_added(path, name, *number)?,
                (None, None) => {}
            }
            changed |= order.is_ne();
        }
    }

    fn compare_entry(
        &mut self,
        directory: PathId,
        name: &[u8],
        a: InodeNumber,
        b: InodeNumber,
    ) -> Result<()> {
        let shared = a == b && self.is_shared(b)?;
        let after = self.after.named(b)?;
        let read;
        let before = if shared {
            &after
        } else {
            read = self.before.named(a)?;
            &read
        };
        if discriminant(&before.kind) != discriminant(&after.kind) {
            self.tell(self.paths.path(directory, name), after.kind, Aspect::Kind.into())?;
            self.add_below(directory, name, before, &after)
        } else if after.kind == InodeKind::Directory {
            let path = self.paths.add(directory, name)?;
            self.pending.push(DirectoryPair { path, before: a, after: b });
            Ok(())
        } else {
            let aspects = self.compare_once(before, &after, shared)?;
            if aspects.is_empty() {
                return Ok(());
            }
            self.tell(self.paths.path(directory, name), after.kind, aspects)
        }
    }

    /// As [`Walk::compare`], once for inodes that meet under several names.
    pub(super) fn compare_once(&mut self, a: &Inode, b: &Inode, shared: bool) -> Result<Aspects> {
        if a.links < 2 || b.links < 2 {
            return self.compare(a, b, shared);
        }
        let key = (a.number, b.number);
        if let Some(aspects) = self.compared.get(&key) {
            return Ok(*aspects);
        }
        let aspects = self.compare(a, b, shared)?;
        self.compared.insert(key, aspects);
        Ok(aspects)
    }

    fn tell(&mut self, path: Vec<u8>, kind: InodeKind, what: Aspects) -> Result<()> {
        self.report.claim_path(&path)?;
        self.report.push(Change { path, kind, what, from: None });
        Ok(())
    }
}

/// Whether inodes of one number are states of one inode, and their checksums start alike: the same file system, perhaps
/// grown meanwhile.
fn are_states_of_one<A: DiskRead, B: DiskRead>(a: &Ext4<A>, b: &Ext4<B>) -> bool {
    let (x, y) = (a.geometry(), b.geometry());
    a.uuid() == b.uuid()
        && x.seed == y.seed
        && x.metadata_checksums == y.metadata_checksums
        && x.block_size_bytes == y.block_size_bytes
        && x.inode_size_bytes == y.inode_size_bytes
        && x.inodes_per_group == y.inodes_per_group
}

/// The time of a directory whose entries changed goes without saying.
pub(super) fn without_times(aspects: Aspects) -> Aspects {
    let mut kept = Aspects::default();
    aspects.iter().filter(|a| *a != Aspect::Times).for_each(|a| kept.add_if(true, a));
    kept
}
