//! Where members of archives belong: their paths become entries of a hierarchy, parents first, the last one of a name
//! counting.
//!
//! Nothing leads out: `..` is refused, and a path goes through a symbolic link only where the members are layers of a
//! container, within the root, as those who run containers do it.

use crate::tar::{Member, MemberKind};
use silt_ext4::{EntryId, EntryKind, Hierarchy, Metadata, Timestamp};
use silt_types::{Error, Result};

/// Names that archives may bring: the inodes of an ext4 of 128 GiB, and a gigabyte of memory. A compressed archive of a few
/// megabytes could ask for any number.
const NAMES_MAX: usize = 8 << 20;
/// `MAXSYMLINKS` of Linux.
const LINKS_FOLLOWED_MAX: usize = 40;
/// A folder that no member describes.
const IMPLIED: Metadata = Metadata {
    permissions: 0o755,
    uid: 0,
    gid: 0,
    mtime: Timestamp { seconds: 0, nanoseconds: 0 },
};

/// What may stand in the way of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// One archive: absolute paths, paths through symbolic links, and files in place of folders that hold something are
    /// mistakes.
    Archive,
    /// One of several layers: those are what layers do.
    Layer,
}

/// A hierarchy that members are put into.
pub(crate) struct Placing {
    pub(crate) hierarchy: Hierarchy,
    strictness: Strictness,
    /// Hard links to what has not come yet.
    waiting: Vec<Waiting>,
}

struct Waiting {
    parent: EntryId,
    name: Vec<u8>,
    target: Vec<u8>,
}

/// Where a path leads: the folders on its way, the root first, and the last name; no name for the root itself.
struct Place {
    folders: Vec<EntryId>,
    name: Option<Vec<u8>>,
}

impl Place {
    fn parent(&self) -> EntryId {
        self.folders.last().copied().unwrap_or(EntryId::ROOT)
    }
}

impl Placing {
    /// An empty hierarchy.
    pub(crate) fn new(strictness: Strictness) -> Result<Placing> {
        Ok(Placing { hierarchy: Hierarchy::new(IMPLIED)?, strictness, waiting: Vec::new() })
    }

    /// Puts a member in place. Answers the entry, if it is a file whose content follows. `Invalid`, naming it, for what cannot
    /// be.
    pub(crate) fn place(&mut self, member: &Member) -> Result<Option<EntryId>> {
        if self.hierarchy.len() + self.waiting.len() >= NAMES_MAX {
            return Err(invalid(&member.path, &format!("there are more than {NAMES_MAX} names")));
        }
        let place = self.find(&member.path, true)?;
        let Some(name) = &place.name else {
            if member.kind != MemberKind::Directory {
                return Err(invalid(&member.path, "the root can only be a folder"));
            }
            self.describe(EntryId::ROOT, member)?;
            return Ok(None);
        };
        let parent = place.parent();
        let there = self.hierarchy.lookup(parent, name);
        if let (Some(entry), MemberKind::Directory) = (there, &member.kind)
            && self.hierarchy.kind(entry) == EntryKind::Directory
        {
            self.describe(entry, member)?;
            return Ok(None);
        }
        let kind = match &member.kind {
            MemberKind::HardLink(target) => {
                self.link(parent, name, target, member)?;
                return Ok(None);
            }
            MemberKind::Directory => EntryKind::Directory,
            MemberKind::File => EntryKind::File,
            MemberKind::Symlink(target) => EntryKind::Symlink(target),
            MemberKind::CharDevice { major, minor } => {
                EntryKind::CharDevice { major: *major, minor: *minor }
            }
            MemberKind::BlockDevice { major, minor } => {
                EntryKind::BlockDevice { major: *major, minor: *minor }
            }
            MemberKind::Fifo => EntryKind::Fifo,
        };
        self.clear(parent, name, &member.path)?;
        let entry = self.hierarchy.add(parent, name, kind, member.metadata)?;
        self.describe(entry, member)?;
        if member.kind != MemberKind::File {
            return Ok(None);
        }
        self.hierarchy.set_file_content(entry, member.size_bytes, &[])?;
        Ok(Some(entry))
    }

    /// Takes away what a path names, and all beneath; the path need not be there. For layers, whose whiteouts these are.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<()> {
        let place = self.find(path, false)?;
        match &place.name {
            Some(name) if self.hierarchy.lookup(place.parent(), name).is_some() => {
                self.hierarchy.remove(place.parent(), name)
            }
            _ => Ok(()),
        }
    }

    /// The hierarchy, once all came. `Invalid`, naming it, for a hard link to what is not there.
    pub(crate) fn finish(mut self) -> Result<Hierarchy> {
        self.link_waiting()?;
        Ok(self.hierarchy)
    }

    /// Makes the hard links to what came after them.
    pub(crate) fn link_waiting(&mut self) -> Result<()> {
        for Waiting { parent, name, target } in std::mem::take(&mut self.waiting) {
            let mut path = self.hierarchy.path(parent);
            path.push(b'/');
            path.extend_from_slice(&name);
            let Some(entry) = self.lookup(&target)? else {
                let target = String::from_utf8_lossy(&target).into_owned();
                return Err(invalid(
                    &path,
                    &format!("it is a link to {target:?}, which is not there"),
                ));
            };
            self.hierarchy.link(parent, &name, entry)?;
        }
        Ok(())
    }

    fn link(&mut self, parent: EntryId, name: &[u8], target: &[u8], member: &Member) -> Result<()> {
        let found = self.lookup(target)?;
        let there = self.hierarchy.lookup(parent, name);
        match found {
            Some(entry) if there == Some(entry) => match self.strictness {
                // Said again by a higher layer.
                Strictness::Layer => Ok(()),
                Strictness::Archive => Err(invalid(&member.path, "it is a link to itself")),
            },
            Some(entry) => {
                self.clear(parent, name, &member.path)?;
                self.hierarchy.link(parent, name, entry)
            }
            None => {
                self.clear(parent, name, &member.path)?;
                let (name, target) = (name.to_vec(), target.to_vec());
                self.waiting.push(Waiting { parent, name, target });
                Ok(())
            }
        }
    }

    /// Makes room for an entry of this name.
    fn clear(&mut self, parent: EntryId, name: &[u8], path: &[u8]) -> Result<()> {
        let Some(there) = self.hierarchy.lookup(parent, name) else { return Ok(()) };
        if self.strictness == Strictness::Archive && self.hierarchy.children_count(there) > 0 {
            return Err(invalid(path, "there is a folder of that name that holds something"));
        }
        self.hierarchy.remove(parent, name)
    }

    fn describe(&mut self, entry: EntryId, member: &Member) -> Result<()> {
        self.hierarchy.set_metadata(entry, member.metadata)?;
        let xattrs: Vec<(&[u8], &[u8])> =
            member.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        self.hierarchy.set_xattrs(entry, &xattrs)
    }

    /// The entry that a path names, the last name not followed. `None` if there is none.
    pub(crate) fn lookup(&mut self, path: &[u8]) -> Result<Option<EntryId>> {
        let place = self.find(path, false)?;
        Ok(match &place.name {
            None => Some(EntryId::ROOT),
            Some(name) => self.hierarchy.lookup(place.parent(), name),
        })
    }

    /// Goes along a path to the folder of its last name. Folders on the way that are missing are made if `make`; otherwise
    /// the way ends there, at a name that nothing has.
    fn find(&mut self, path: &[u8], make: bool) -> Result<Place> {
        if path.starts_with(b"/") && self.strictness == Strictness::Archive {
            return Err(invalid(path, "the path is absolute"));
        }
        let mut place = Place { folders: vec![EntryId::ROOT], name: None };
        let mut links = 0;
        // What is still to go, the next name last.
        let mut names: Vec<Vec<u8>> = Vec::new();
        push_names(&mut names, path);
        while let Some(name) = names.pop() {
            if name == b".." {
                // Of a path an escape, of a link's target the way things are.
                if links == 0 {
                    return Err(invalid(path, "the path leads out by '..'"));
                }
                if place.folders.len() > 1 {
                    place.folders.pop();
                }
                continue;
            }
            let parent = place.parent();
            if names.is_empty() {
                place.name = Some(name);
                break;
            }
            let there = self.hierarchy.lookup(parent, &name);
            let next = match there.map(|there| (there, self.hierarchy.kind(there))) {
                None if make => self.hierarchy.add(parent, &name, EntryKind::Directory, IMPLIED)?,
                None => {
                    place.name = Some(name);
                    break;
                }
                Some((folder, EntryKind::Directory)) => folder,
                Some((_, EntryKind::Symlink(target))) if self.strictness == Strictness::Layer => {
                    links += 1;
                    if links > LINKS_FOLLOWED_MAX {
                        return Err(invalid(path, "too many symbolic links are on its way"));
                    }
                    if target.starts_with(b"/") {
                        place.folders.truncate(1);
                    }
                    push_names(&mut names, target);
                    continue;
                }
                Some((_, EntryKind::Symlink(_))) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    return Err(invalid(
                        path,
                        &format!("it leads through the symbolic link {name:?}"),
                    ));
                }
                // Nothing is behind it; and nothing has a name without a letter.
                Some(_) if !make => {
                    place.name = Some(Vec::new());
                    break;
                }
                Some(_) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    return Err(invalid(
                        path,
                        &format!("it leads through {name:?}, which is no folder"),
                    ));
                }
            };
            place.folders.push(next);
        }
        Ok(place)
    }
}

/// Adds the names of a path before those there, the first one last.
fn push_names(names: &mut Vec<Vec<u8>>, path: &[u8]) {
    let all = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.extend(all.rev().map(<[u8]>::to_vec));
}

fn invalid(path: &[u8], why: &str) -> Error {
    Error::invalid(format!("{:?}: {why}", String::from_utf8_lossy(path)))
}
