//! Small edits of what a source has, before it is laid out: nothing is mounted, and what is not touched keeps its chunks.

use crate::{build::Owner, contents::ContentsWriter, feed::feed, paths::for_each_path};
use rustix::fs::{FileType, Mode, OFlags};
use silt_ext4::{EntryId, EntryKind, Hierarchy, Metadata, Timestamp};
use silt_store::ChunkSink;
use silt_types::{Error, ErrorKind, Result};
use std::{
    fs::File,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// What to change of a source, in this order: owner of all, what is left out, removed, added, then modes and owners of
/// single paths. Paths are from the root; a leading slash may be there.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Owner of every entry, instead of its own.
    pub owner: Option<Owner>,
    /// What to leave out of the source.
    pub excluded: Vec<Glob>,
    /// Paths to remove, with all beneath. Each must be there.
    pub removed: Vec<PathBuf>,
    /// Files to add or to put in place of others.
    pub added: Vec<AddedFile>,
    /// Permission bits for paths, setuid and the like among them.
    pub modes: Vec<(PathBuf, u16)>,
    /// Owners for paths.
    pub owners: Vec<(PathBuf, Owner)>,
}

/// A file from outside.
#[derive(Clone, Debug)]
pub struct AddedFile {
    /// Where it is.
    pub file: PathBuf,
    /// Where it goes. Folders on the way are made; after a slash at the end the file keeps its name.
    pub path: PathBuf,
}

/// A pattern of paths: `*`, `?`, `[a-z]`, `{a,b}` within a name, `**` over several. One without a slash, but for one at its
/// end, is about names wherever they are; others are about paths from the root. With a slash at the end it means folders
/// alone.
#[derive(Clone, Debug)]
pub struct Glob {
    pattern: String,
    is_path: bool,
    folders_only: bool,
}

impl Glob {
    /// `Invalid` for a pattern that cannot be read.
    pub fn parse(text: &str) -> Result<Glob> {
        let (pattern, folders_only) =
            text.strip_suffix('/').map_or((text, false), |pattern| (pattern, true));
        let is_path = pattern.contains('/');
        let pattern = pattern.trim_start_matches('/');
        if pattern.is_empty() {
            return Err(Error::invalid(format!("bad pattern {text:?}: it is empty")));
        }
        fast_glob::validate(pattern)
            .map_err(|error| Error::invalid(format!("bad pattern {text:?}: {error}")))?;
        Ok(Glob { pattern: pattern.to_owned(), is_path, folders_only })
    }

    /// Whether it is about this path, which has no leading slash.
    pub(crate) fn matches(&self, path: &[u8], is_folder: bool) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let subject = if self.is_path { path } else { name };
        (is_folder || !self.folders_only) && fast_glob::glob_match(&self.pattern, subject)
    }
}

impl Edits {
    /// Whether a path, which has no leading slash, is left out.
    pub(crate) fn excludes(&self, path: &[u8], is_folder: bool) -> bool {
        self.excluded.iter().any(|glob| glob.matches(path, is_folder))
    }

    /// Whether nothing is to be done.
    pub(crate) fn is_empty(&self) -> bool {
        let Edits { owner, excluded, removed, added, modes, owners } = self;
        owner.is_none()
            && excluded.is_empty()
            && removed.is_empty()
            && added.is_empty()
            && modes.is_empty()
            && owners.is_empty()
    }

    /// Changes a hierarchy; the content of added files goes to `sink` and `contents`. Answers the bytes read for it.
    /// `NotFound`, naming it, for a path that is not there.
    pub(crate) fn apply(
        &self,
        hierarchy: &mut Hierarchy,
        sink: &dyn ChunkSink,
        contents: &ContentsWriter,
    ) -> Result<u64> {
        if let Some(owner) = self.owner {
            let all: Vec<EntryId> = hierarchy.entries().collect();
            all.into_iter().try_for_each(|entry| set_owner(hierarchy, entry, owner))?;
        }
        self.exclude(hierarchy)?;
        for path in &self.removed {
            let (parent, name, _) = find(hierarchy, path)?;
            let name = name.ok_or_else(|| invalid(path, "the root cannot be removed"))?;
            hierarchy.remove(parent, &name)?;
        }
        let read = self.add(hierarchy, sink, contents)?;
        for (path, permissions) in &self.modes {
            let (_, _, entry) = find(hierarchy, path)?;
            if matches!(hierarchy.kind(entry), EntryKind::Symlink(_)) {
                return Err(invalid(path, "it is a symbolic link, which has no mode of its own"));
            }
            let metadata = hierarchy.metadata(entry);
            hierarchy.set_metadata(entry, Metadata { permissions: *permissions, ..metadata })?;
        }
        for (path, owner) in &self.owners {
            let (_, _, entry) = find(hierarchy, path)?;
            set_owner(hierarchy, entry, *owner)?;
        }
        Ok(read)
    }

    fn exclude(&self, hierarchy: &mut Hierarchy) -> Result<()> {
        if self.excluded.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        for_each_path(hierarchy, |visit, path| {
            let is_folder = hierarchy.kind(visit.entry) == EntryKind::Directory;
            if self.excludes(path, is_folder) {
                out.push((visit.parent, visit.name.to_vec()));
            }
            Ok(())
        })?;
        for (parent, name) in out {
            // It may have gone with a folder above.
            if hierarchy.lookup(parent, &name).is_some() {
                hierarchy.remove(parent, &name)?;
            }
        }
        Ok(())
    }

    fn add(
        &self,
        hierarchy: &mut Hierarchy,
        sink: &dyn ChunkSink,
        contents: &ContentsWriter,
    ) -> Result<u64> {
        if self.added.is_empty() {
            return Ok(0);
        }
        let take = |entry, steps: &[_]| contents.add(entry, steps);
        feed(sink, &take, |feeder| {
            let mut read = 0;
            for AddedFile { file, path } in &self.added {
                let cannot = |error| Error::io(format!("cannot read {}", file.display()), error);
                let (mut opened, size_bytes, metadata) = open(file, self.owner)?;
                let entry = place(hierarchy, &destination(file, path), metadata)?;
                hierarchy.set_file_content(entry, size_bytes, &[])?;
                feeder.begin(entry, size_bytes);
                feeder.run(0..size_bytes, |buffer| opened.read_exact(buffer).map_err(cannot))?;
                if opened.read(&mut [0]).map_err(cannot)? > 0 {
                    let message = format!("{} changed while it was read", file.display());
                    return Err(Error::new(ErrorKind::Io, message));
                }
                read += size_bytes;
            }
            Ok(read)
        })
    }
}

/// Opens a file to be added. Answers its length and what it is to be described as: root's, unless there is an owner of all.
fn open(path: &Path, owner: Option<Owner>) -> Result<(File, u64, Metadata)> {
    let cannot = |error: rustix::io::Errno| {
        Error::io(format!("cannot open {}", path.display()), error.into())
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(cannot)?;
    let stat = rustix::fs::fstat(&file).map_err(cannot)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("{} is no regular file", path.display())));
    }
    let owner = owner.unwrap_or(Owner { uid: 0, gid: 0 });
    let mtime = Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
    let permissions = (stat.st_mode & 0o7777) as u16;
    let metadata = Metadata { permissions, uid: owner.uid, gid: owner.gid, mtime };
    Ok((file.into(), stat.st_size as u64, metadata))
}

fn destination(file: &Path, path: &Path) -> PathBuf {
    match (path.as_os_str().as_bytes().last(), file.file_name()) {
        (Some(b'/'), Some(name)) => path.join(name),
        _ => path.to_owned(),
    }
}

/// Puts an empty file at a path, in place of what is there; folders on the way are made, as root's.
fn place(hierarchy: &mut Hierarchy, path: &Path, metadata: Metadata) -> Result<EntryId> {
    let names = names_of(path)?;
    let Some((name, folders)) = names.split_last() else {
        return Err(invalid(path, "a file cannot be the root"));
    };
    let mut parent = EntryId::ROOT;
    for folder in folders {
        parent = match hierarchy.lookup(parent, folder) {
            Some(entry) => entry,
            None => {
                let made = Metadata { permissions: 0o755, ..metadata };
                hierarchy.add(parent, folder, EntryKind::Directory, made)?
            }
        };
        refuse_link(hierarchy, parent, path)?;
    }
    if let Some(there) = hierarchy.lookup(parent, name) {
        if hierarchy.kind(there) == EntryKind::Directory {
            return Err(invalid(
                path,
                "there is a folder of that name; with a slash behind it the file goes into it",
            ));
        }
        hierarchy.remove(parent, name)?;
    }
    hierarchy.add(parent, name, EntryKind::File, metadata)
}

/// The folder of a path, its name in it, and what it names; no name for the root.
fn find(hierarchy: &Hierarchy, path: &Path) -> Result<(EntryId, Option<Vec<u8>>, EntryId)> {
    let (mut parent, mut name, mut entry) = (EntryId::ROOT, None, EntryId::ROOT);
    for next in names_of(path)? {
        refuse_link(hierarchy, entry, path)?;
        parent = entry;
        entry = hierarchy.lookup(parent, &next).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no {} in the source", path.display()))
        })?;
        name = Some(next);
    }
    Ok((parent, name, entry))
}

fn names_of(path: &Path) -> Result<Vec<Vec<u8>>> {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let names: Vec<_> =
        names.filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec).collect();
    if names.iter().any(|name| name == b"..") {
        return Err(invalid(path, "a path with '..'"));
    }
    Ok(names)
}

fn refuse_link(hierarchy: &Hierarchy, entry: EntryId, path: &Path) -> Result<()> {
    if let EntryKind::Symlink(target) = hierarchy.kind(entry) {
        let target = String::from_utf8_lossy(target).into_owned();
        return Err(invalid(path, &format!("it leads through a symbolic link, to {target:?}")));
    }
    Ok(())
}

fn set_owner(hierarchy: &mut Hierarchy, entry: EntryId, owner: Owner) -> Result<()> {
    let metadata = hierarchy.metadata(entry);
    hierarchy.set_metadata(entry, Metadata { uid: owner.uid, gid: owner.gid, ..metadata })
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::invalid(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_anywhere_or_paths_from_the_root() {
        let cases: [(&str, &str, bool, bool); 12] = [
            ("*.pyc", "usr/lib/a.pyc", false, true),
            ("*.pyc", "a.pyc.txt", false, false),
            ("cache", "var/cache", true, true),
            ("cache/", "var/cache", true, true),
            ("cache/", "var/cache", false, false),
            ("/proc/*", "proc/1", true, true),
            ("proc/*", "a/proc/1", true, false),
            ("/var", "var", true, true),
            ("var/**/log", "var/a/b/log", false, true),
            ("usr/share/{doc,man}", "usr/share/man", true, true),
            ("?", "a/b", false, true),
            ("[a-c]*", "dir", true, false),
        ];
        for (pattern, path, is_folder, expected) in cases {
            let glob = Glob::parse(pattern).unwrap();
            assert_eq!(glob.matches(path.as_bytes(), is_folder), expected, "{pattern} {path}");
        }
        for bad in ["", "/", "[a", "{a"] {
            assert!(Glob::parse(bad).is_err(), "{bad}");
        }
    }
}
