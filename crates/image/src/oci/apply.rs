//! One layer over those below it: what it hides, then what it has.
//!
//! Whiteouts speak of lower layers only, wherever they stand, so they come first. The rest is as those do it who run
//! containers: the last of a name counts, a file takes the place of a folder, symbolic links on the way are followed
//! within the root, hard links lead to files of lower layers, too.
//!
//! Source: OCI image format 1.1, layer.md, "Whiteouts" and "Opaque Whiteout".

use super::cache::LayerFile;
use crate::{
    contents::{ContentsWriter, Step},
    placing::Placing,
    tar::{Member, MemberKind},
};
use silt_ext4::{EntryId, EntryKind, Metadata, Timestamp};
use silt_format::{LayerKind, LayerMember, LayerRecord};
use silt_store::Ingest;
use silt_types::{CHUNK_SIZE_BYTES_MAX, Error, Result};

const WHITEOUT: &[u8] = b".wh.";
/// What aufs kept for itself; of these only the mark of an opaque folder means something.
const OF_AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a member of a layer is for.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// It is there.
    There,
    /// Hides what this path names.
    Hides(Vec<u8>),
    /// Hides what the folder of this path holds.
    HidesAllIn(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// Puts a layer over what is there. `known` counts its chunks where they were not handed in by reading it.
pub(super) fn apply(
    layer: &LayerFile,
    placing: &mut Placing,
    contents: &ContentsWriter,
    known: Option<&Ingest>,
) -> Result<()> {
    layer.for_each(&mut |record| match record {
        LayerRecord::Member(member) => hide(placing, &member),
        LayerRecord::Content { .. } => Ok(()),
    })?;
    let mut entries: Vec<Option<EntryId>> = Vec::new();
    layer.for_each(&mut |record| {
        match record {
            LayerRecord::Member(member) => {
                let is_there = is_there(&member.path)?;
                let member = from_record(member);
                entries.push(if is_there { placing.place(&member)? } else { None });
            }
            LayerRecord::Content { member, steps } => {
                if let Some(entry) = entries.get(member as usize).copied().flatten() {
                    if let Some(ingest) = known {
                        count(ingest, placing.hierarchy.size_bytes(entry), &steps);
                    }
                    contents.add(entry, &steps)?;
                }
            }
        }
        Ok(())
    })?;
    placing.link_waiting()
}

/// Takes away what a member hides of the layers below.
fn hide(placing: &mut Placing, member: &LayerMember) -> Result<()> {
    match meaning(&member.path)? {
        Meaning::Nothing => Ok(()),
        Meaning::Hides(path) => placing.remove(&path),
        Meaning::HidesAllIn(path) => {
            let Some(folder) = placing.lookup(&path)? else { return Ok(()) };
            let children = placing.hierarchy.children(folder);
            let names: Vec<Vec<u8>> = children.iter().map(|child| child.name.to_vec()).collect();
            names.iter().try_for_each(|name| placing.hierarchy.remove(folder, name))
        }
        // A folder that takes the place of a symbolic link: nothing behind it leads through the link any more.
        Meaning::There if member.kind == LayerKind::Directory => {
            let there = placing.lookup(&member.path)?;
            let is_folder = |entry| matches!(placing.hierarchy.kind(entry), EntryKind::Directory);
            if there.is_some_and(|entry| !is_folder(entry)) {
                return placing.remove(&member.path);
            }
            Ok(())
        }
        Meaning::There => Ok(()),
    }
}

/// Whether a member of this name is more than a mark. `Invalid` for a whiteout that hides nothing that could be.
pub(super) fn is_there(path: &[u8]) -> Result<bool> {
    Ok(meaning(path)? == Meaning::There)
}

/// What a member of this name is for. `Invalid` for a whiteout that hides nothing that could be.
fn meaning(path: &[u8]) -> Result<Meaning> {
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    let Some((last, folders)) = names.split_last() else {
        return Ok(Meaning::There);
    };
    if folders.iter().any(|name| name.starts_with(OF_AUFS)) {
        return Ok(Meaning::Nothing);
    }
    if *last == OPAQUE {
        return Ok(Meaning::HidesAllIn(folders.join(&b'/')));
    }
    if last.starts_with(OF_AUFS) {
        return Ok(Meaning::Nothing);
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::There),
        Some(b"" | b"." | b"..") => {
            let path = String::from_utf8_lossy(path).into_owned();
            Err(Error::invalid(format!("{path:?}: a whiteout that names nothing")))
        }
        Some(hidden) => Ok(Meaning::Hides([folders, &[hidden]].concat().join(&b'/'))),
    }
}

/// Counts steps of a file as handed in.
fn count(ingest: &Ingest, size_bytes: u64, steps: &[Step]) {
    let step_len = CHUNK_SIZE_BYTES_MAX as u64;
    let len =
        |step: &Step| size_bytes.saturating_sub(u64::from(step.number) * step_len).min(step_len);
    ingest.count_known(steps.len() as u64, steps.iter().map(len).sum());
}

/// A member as the file of a layer keeps it.
pub(super) fn to_record(member: &Member) -> LayerRecord {
    let kind = match &member.kind {
        MemberKind::Directory => LayerKind::Directory,
        MemberKind::File => LayerKind::File(member.size_bytes),
        MemberKind::Symlink(target) => LayerKind::Symlink(target.clone()),
        MemberKind::HardLink(target) => LayerKind::HardLink(target.clone()),
        MemberKind::CharDevice { major, minor } => LayerKind::CharDevice(*major, *minor),
        MemberKind::BlockDevice { major, minor } => LayerKind::BlockDevice(*major, *minor),
        MemberKind::Fifo => LayerKind::Fifo,
    };
    let Metadata { permissions, uid, gid, mtime } = member.metadata;
    LayerRecord::Member(LayerMember {
        path: member.path.clone(),
        kind,
        permissions,
        uid,
        gid,
        mtime_seconds: mtime.seconds,
        mtime_nanoseconds: mtime.nanoseconds,
        xattrs: member.xattrs.clone(),
    })
}

fn from_record(member: LayerMember) -> Member {
    let size_bytes = if let LayerKind::File(size_bytes) = member.kind { size_bytes } else { 0 };
    let kind = match member.kind {
        LayerKind::Directory => MemberKind::Directory,
        LayerKind::File(_) => MemberKind::File,
        LayerKind::Symlink(target) => MemberKind::Symlink(target),
        LayerKind::HardLink(target) => MemberKind::HardLink(target),
        LayerKind::CharDevice(major, minor) => MemberKind::CharDevice { major, minor },
        LayerKind::BlockDevice(major, minor) => MemberKind::BlockDevice { major, minor },
        LayerKind::Fifo => MemberKind::Fifo,
    };
    let mtime = Timestamp { seconds: member.mtime_seconds, nanoseconds: member.mtime_nanoseconds };
    let (permissions, uid, gid) = (member.permissions, member.uid, member.gid);
    let metadata = Metadata { permissions, uid, gid, mtime };
    Member { path: member.path, kind, metadata, xattrs: member.xattrs, size_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_members_are_for() {
        let hides = |path: &[u8]| Meaning::Hides(path.to_vec());
        let hides_all = |path: &[u8]| Meaning::HidesAllIn(path.to_vec());
        for (path, expected) in [
            (&b"./"[..], Meaning::There),
            (b"a/b", Meaning::There),
            (b"a/.whiteout", Meaning::There),
            (b"./a/.wh.b", hides(b"a/b")),
            (b".wh.b", hides(b"b")),
            (b".wh..hidden", hides(b".hidden")),
            (b"a/.wh...b", hides(b"a/..b")),
            (b"a/.wh..wh..opq", hides_all(b"a")),
            (b".wh..wh..opq", hides_all(b"")),
            (b".wh..wh.plnk/1.2", Meaning::Nothing),
            (b".wh..wh.aufs", Meaning::Nothing),
        ] {
            assert_eq!(meaning(path).unwrap(), expected, "{}", path.escape_ascii());
        }
        for bad in [&b".wh."[..], b"a/.wh..", b"a/.wh..."] {
            assert!(meaning(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
