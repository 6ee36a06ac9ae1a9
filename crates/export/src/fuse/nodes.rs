//! The inodes of a folder: which disk each is, for as long as the kernel knows it, and the disks that are open.

use super::{disk::Disk, folder::DiskEntry, limits::DISKS_OPEN_MAX};
use fuser::{Errno, INodeNo};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The folder itself.
pub(super) const FOLDER: INodeNo = INodeNo::ROOT;

/// Every inode the kernel knows, but for the folder.
#[derive(Default)]
pub(super) struct Nodes(Mutex<Table>);

#[derive(Default)]
struct Table {
    nodes: HashMap<u64, Node>,
    disks_open: usize,
}

struct Node {
    entry: DiskEntry,
    /// How often the kernel was told of it and has not forgotten.
    lookups: u64,
    /// How many have it open, and what they have open.
    opens: u64,
    disk: Option<Disk>,
}

impl Nodes {
    /// The inode of a disk, known from now on.
    pub(super) fn remember(&self, entry: &DiskEntry) -> INodeNo {
        let mut table = self.lock();
        let number = table.number_of(entry);
        let new = || Node { entry: entry.clone(), lookups: 0, opens: 0, disk: None };
        table.nodes.entry(number).or_insert_with(new).lookups += 1;
        INodeNo(number)
    }

    /// The number that a disk has, or would have.
    pub(super) fn number_of(&self, entry: &DiskEntry) -> u64 {
        self.lock().number_of(entry)
    }

    pub(super) fn forget(&self, node: INodeNo, lookups: u64) {
        let mut table = self.lock();
        let Some(known) = table.nodes.get_mut(&node.0) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0 && known.opens == 0 {
            table.nodes.remove(&node.0);
        }
    }

    pub(super) fn entry(&self, node: INodeNo) -> Option<DiskEntry> {
        self.lock().nodes.get(&node.0).map(|known| known.entry.clone())
    }

    /// The disk of a file that somebody has open.
    pub(super) fn disk(&self, node: INodeNo) -> Option<Disk> {
        self.lock().nodes.get(&node.0)?.disk.clone()
    }

    /// Counts one more who has a file open; the first has its disk opened. `ENFILE` if too many are.
    pub(super) fn open(
        &self,
        node: INodeNo,
        open: impl FnOnce(&DiskEntry) -> Result<Disk, Errno>,
    ) -> Result<(), Errno> {
        if self.join(node)? {
            return Ok(());
        }
        // Nobody else waits while a disk is opened; who comes second with one finds the first's.
        let entry = self.entry(node).ok_or(Errno::ESTALE)?;
        let opened = open(&entry)?;
        if self.join(node)? {
            return Ok(());
        }
        let mut table = self.lock();
        let known = table.nodes.get_mut(&node.0).ok_or(Errno::ESTALE)?;
        known.opens += 1;
        if known.disk.replace(opened).is_none() {
            table.disks_open += 1;
        }
        Ok(())
    }

    /// Counts one more if the disk is open already.
    fn join(&self, node: INodeNo) -> Result<bool, Errno> {
        let mut table = self.lock();
        let is_full = table.disks_open >= DISKS_OPEN_MAX;
        let known = table.nodes.get_mut(&node.0).ok_or(Errno::ESTALE)?;
        match known.disk {
            Some(_) => known.opens += 1,
            None if is_full => return Err(Errno::ENFILE),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Counts one less; with the last the disk is closed.
    pub(super) fn close(&self, node: INodeNo) {
        let mut table = self.lock();
        let Some(known) = table.nodes.get_mut(&node.0) else { return };
        known.opens = known.opens.saturating_sub(1);
        if known.opens > 0 {
            return;
        }
        let (closed, is_forgotten) = (known.disk.take(), known.lookups == 0);
        if is_forgotten {
            table.nodes.remove(&node.0);
        }
        if closed.is_some() {
            table.disks_open -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The disk's own number, which is the same in every mount, unless another disk that the kernel knows has it.
    fn number_of(&self, entry: &DiskEntry) -> u64 {
        let mut number = entry.identity;
        loop {
            let is_reserved = number <= FOLDER.0;
            match self.nodes.get(&number) {
                _ if is_reserved => number = FOLDER.0 + 1,
                Some(other) if !other.entry.is_same(entry) => number = number.wrapping_add(1),
                _ => return number,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::workers::Workers;
    use silt_volume::MemoryDevice;
    use std::sync::Arc;

    fn entry(name: &str, identity: u64) -> DiskEntry {
        DiskEntry { name: name.to_owned(), identity, size_bytes: 4096, created_ns: 0 }
    }

    fn opened(_: &DiskEntry) -> Result<Disk, Errno> {
        Ok(Disk::new(Arc::new(MemoryDevice::new(vec![0; 4096], true)), Workers::default()))
    }

    #[test]
    fn disks_of_one_number_are_kept_apart_and_none_is_the_folder() {
        let nodes = Nodes::default();
        let numbers = ["a", "b", "c"].map(|name| nodes.remember(&entry(name, 7)).0);
        assert_eq!(numbers, [7, 8, 9]);
        assert_eq!(nodes.remember(&entry("a", 7)).0, 7);
        assert!([0, 1].iter().all(|identity| nodes.remember(&entry("x", *identity)).0 > 1));
        let last = nodes.remember(&entry("y", u64::MAX));
        assert!(nodes.remember(&entry("z", u64::MAX)) != last);
    }

    #[test]
    fn an_open_disk_is_kept_after_its_name_was_forgotten_and_closed_with_the_last() {
        let nodes = Nodes::default();
        let node = nodes.remember(&entry("a", 7));
        nodes.open(node, opened).unwrap();
        nodes.open(node, |_| unreachable!("it is open")).unwrap();
        nodes.forget(node, 1);
        nodes.close(node);
        assert!(nodes.disk(node).is_some());
        nodes.close(node);
        assert!(nodes.disk(node).is_none() && nodes.entry(node).is_none());
        assert_eq!(nodes.open(node, opened).unwrap_err().code(), Errno::ESTALE.code());
        // What no kernel does.
        nodes.close(node);
        nodes.forget(node, u64::MAX);
    }

    #[test]
    fn so_many_disks_are_open_and_no_more() {
        let nodes = Nodes::default();
        for number in 0..DISKS_OPEN_MAX as u64 {
            nodes.open(nodes.remember(&entry("a", 10 + number)), opened).unwrap();
        }
        let one_more = nodes.remember(&entry("a", 5));
        assert_eq!(nodes.open(one_more, opened).unwrap_err().code(), Errno::ENFILE.code());
        nodes.close(INodeNo(10));
        nodes.open(one_more, opened).unwrap();
    }
}
