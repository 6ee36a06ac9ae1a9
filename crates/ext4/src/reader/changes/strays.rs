//! What has a path on one side only: added, removed, or, where the inode is the same one, renamed.
//!
//! Everything below a directory that is on one side only is on that side only too, so all of it is collected first and
//! then matched by inode. What lies in a renamed directory under its old name has not been renamed itself.

use super::{
    super::{
        disk::DiskRead,
        inode::{Inode, InodeKind, InodeNumber},
    },
    inodes::Identity,
    paths::{PathId, Paths},
    report::{Aspect, Aspects, Change, Report},
    side::Side,
    walk::{Walk, without_times},
};
use silt_types::Result;
use std::collections::{HashMap, VecDeque};

/// A name that is on one side only.
pub(super) struct Stray {
    path: Vec<u8>,
    number: InodeNumber,
    kind: InodeKind,
    identity: Identity,
    /// The directory that it is in, where that is a stray too.
    parent: Option<usize>,
}

impl Stray {
    fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

impl<A: DiskRead, B: DiskRead> Walk<'_, A, B> {
    pub(super) fn add_removed(
        &mut self,
        directory: PathId,
        name: &[u8],
        number: InodeNumber,
    ) -> Result<()> {
        let Walk { before, removed, paths, report, .. } = self;
        Collecting { side: before, strays: removed, paths, report }.add(directory, name, number)
    }

    pub(super) fn add_added(
        &mut self,
        directory: PathId,
        name: &[u8],
        number: InodeNumber,
    ) -> Result<()> {
        let Walk { after, added, paths, report, .. } = self;
        Collecting { side: after, strays: added, paths, report }.add(directory, name, number)
    }

    /// Collects what is in a directory that was, or has become, something else.
    pub(super) fn add_below(
        &mut self,
        directory: PathId,
        name: &[u8],
        a: &Inode,
        b: &Inode,
    ) -> Result<()> {
        let Walk { before, after, removed, added, paths, report, .. } = self;
        if a.kind == InodeKind::Directory {
            let path = paths.add(directory, name)?;
            Collecting { side: before, strays: removed, paths, report }.all_below(path, a, None)?;
        }
        if b.kind == InodeKind::Directory {
            let path = paths.add(directory, name)?;
            Collecting { side: after, strays: added, paths, report }.all_below(path, b, None)?;
        }
        Ok(())
    }

    /// Tells of everything that was collected.
    pub(super) fn tell_strays(&mut self) -> Result<()> {
        let (removed, added) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.added));
        let (origins, moved) = self.origins(&removed, &added);
        for (index, stray) in added.iter().enumerate() {
            let Some(origin) = origins[index] else {
                self.push(stray, Aspect::Added.into(), None);
                continue;
            };
            let old = &removed[origin];
            let parent_moved = stray.parent.and_then(|parent| origins[parent]);
            let along = parent_moved.is_some() && parent_moved == old.parent;
            let mut what = self.compare_moved(old.number, stray.number)?;
            let renamed = !along || old.name() != stray.name();
            what.add_if(renamed, Aspect::Renamed);
            if !what.is_empty() {
                self.push(stray, what, renamed.then(|| old.path.clone()));
            }
        }
        for (stray, _) in removed.iter().zip(moved).filter(|(_, moved)| !moved) {
            self.push(stray, Aspect::Removed.into(), None);
        }
        Ok(())
    }

    /// For each stray that was added the one that was removed and is the same inode; and which of those were matched.
    /// Several names of one inode are matched in the order of their paths.
    fn origins(&self, removed: &[Stray], added: &[Stray]) -> (Vec<Option<usize>>, Vec<bool>) {
        let (mut origins, mut moved) = (vec![None; added.len()], vec![false; removed.len()]);
        if !self.related {
            return (origins, moved);
        }
        let mut by_identity: HashMap<Identity, VecDeque<usize>> = HashMap::new();
        for index in in_order(removed) {
            by_identity.entry(removed[index].identity).or_default().push_back(index);
        }
        for index in in_order(added) {
            let same = by_identity.get_mut(&added[index].identity);
            if let Some(origin) = same.and_then(VecDeque::pop_front) {
                (origins[index], moved[origin]) = (Some(origin), true);
            }
        }
        (origins, moved)
    }

    /// What else changed of an inode that moved.
    fn compare_moved(&mut self, before: InodeNumber, after: InodeNumber) -> Result<Aspects> {
        let shared = self.is_shared(after)?;
        let (a, b) = (self.before.named(before)?, self.after.named(after)?);
        let aspects = self.compare_once(&a, &b, shared)?;
        let touched = b.kind == InodeKind::Directory && aspects.iter().any(|a| a == Aspect::Times);
        if touched && self.before.entries(&a)? != self.after.entries(&b)? {
            return Ok(without_times(aspects));
        }
        Ok(aspects)
    }

    fn push(&mut self, stray: &Stray, what: Aspects, from: Option<Vec<u8>>) {
        self.report.push(Change { path: stray.path.clone(), kind: stray.kind, what, from });
    }
}

fn in_order(strays: &[Stray]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..strays.len()).collect();
    order.sort_by(|a, b| strays[*a].path.cmp(&strays[*b].path));
    order
}

/// Collects the strays of one side.
struct Collecting<'c, 'a, D> {
    side: &'c mut Side<'a, D>,
    strays: &'c mut Vec<Stray>,
    paths: &'c mut Paths,
    report: &'c mut Report,
}

/// A directory whose entries are still to be collected.
struct Below {
    path: PathId,
    directory: Inode,
    stray: Option<usize>,
}

impl<D: DiskRead> Collecting<'_, '_, D> {
    /// Adds a name and, if it names a directory, everything below.
    fn add(&mut self, directory: PathId, name: &[u8], number: InodeNumber) -> Result<()> {
        match self.add_one(directory, name, number, None)? {
            Some(Below { path, directory, stray }) => self.all_below(path, &directory, stray),
            None => Ok(()),
        }
    }

    fn all_below(&mut self, path: PathId, directory: &Inode, stray: Option<usize>) -> Result<()> {
        let mut pending = vec![Below { path, directory: directory.clone(), stray }];
        while let Some(Below { path, directory, stray }) = pending.pop() {
            self.side.enter(&directory)?;
            for (name, number) in self.side.entries(&directory)? {
                pending.extend(self.add_one(path, &name, number, stray)?);
            }
        }
        Ok(())
    }

    fn add_one(
        &mut self,
        directory: PathId,
        name: &[u8],
        number: InodeNumber,
        parent: Option<usize>,
    ) -> Result<Option<Below>> {
        let inode = self.side.named(number)?;
        let path = self.paths.path(directory, name);
        self.report.claim_path(&path)?;
        let index = self.strays.len();
        let (kind, identity) = (inode.kind, Identity::of(&inode));
        self.strays.push(Stray { path, number, kind, identity, parent });
        if kind != InodeKind::Directory {
            return Ok(None);
        }
        let path = self.paths.add(directory, name)?;
        Ok(Some(Below { path, directory: inode, stray: Some(index) }))
    }
}
