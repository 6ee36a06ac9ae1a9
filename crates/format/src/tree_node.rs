//! Nodes of tree manifests.
//!
//! A tree is one sequence of entries, ordered depth first and by name bytes, cut into leaves; inner nodes list the
//! leaves, or one another, with the first path of each. Nodes are chunks: their id is their checksum.

use crate::{
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{CHUNK_SIZE_BYTES_MAX, ChunkId, Error, Result};

const MAGIC: [u8; 4] = *b"STRN";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;

/// Longest path in a tree, in bytes. A walk by directory handles can go deeper than `PATH_MAX`; this is what one entry
/// can hold with room to spare in a node.
pub const TREE_PATH_LEN_MAX: usize = 16 * 1024;
/// Longest extended attributes of one entry, names and values together, in bytes.
pub const TREE_XATTRS_LEN_MAX: usize = 16 * 1024;
/// The most chunks that an entry lists itself; a longer file has a map instead.
pub const TREE_INLINE_CHUNKS_MAX: usize = 64;

/// The layout of the header of a node, as documented in `docs/internals/formats.md`.
pub const TREE_NODE_RECORD: Record = Record {
    name: "tree node header",
    len: HEADER_LEN,
    fields: &[
        Field::new(0, 4, "magic", "`STRN`"),
        Field::new(4, 1, "version", "1"),
        Field::new(5, 1, "level", "0 for a leaf, 1 and up for inner nodes"),
        Field::new(6, 2, "reserved", "zero"),
    ],
};

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeContent {
    /// One chunk for each 64 KiB step; an all-zero id stands for a step that is all zero. At most
    /// [`TREE_INLINE_CHUNKS_MAX`].
    Chunks(Vec<ChunkId>),
    /// The root of a disk map over the file's content, as long as the file.
    Map(ChunkId),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// A folder.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size_bytes: u64,
        /// Where its bytes are.
        content: TreeContent,
    },
    /// A symbolic link to these bytes.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Another name of the entry with this path, which comes earlier in the tree. Carries no metadata of its own.
    HardLink(Vec<u8>),
}

/// An extended attribute: its full name and its value.
pub type TreeXattr = (Vec<u8>, Vec<u8>);

/// One name in a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Path from the root, without leading slash; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TreeKind,
    /// Permission bits with set-user-id, set-group-id and sticky: `07777`. Zero for a hard link, like all below.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time, nanoseconds of the second.
    pub mtime_nanoseconds: u32,
    /// Extended attributes, by name.
    pub xattrs: Vec<TreeXattr>,
}

impl TreeEntry {
    /// An entry whose metadata is all zero, as a hard link's is.
    pub fn bare(path: Vec<u8>, kind: TreeKind) -> TreeEntry {
        TreeEntry {
            path,
            kind,
            permissions: 0,
            uid: 0,
            gid: 0,
            mtime_seconds: 0,
            mtime_nanoseconds: 0,
            xattrs: Vec::new(),
        }
    }
}

/// A child of an inner node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeChild {
    /// Path of its first entry.
    pub first_path: Vec<u8>,
    /// Its name.
    pub id: ChunkId,
}

/// A decoded node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeNode {
    /// Entries.
    Leaf(Vec<TreeEntry>),
    /// Children, one level down.
    Inner {
        /// 1 and up.
        level: u8,
        /// In the order of their first paths.
        children: Vec<TreeChild>,
    },
}

/// Writes a node entry by entry, so that the caller can cut by length.
pub struct TreeNodeWriter {
    bytes: Vec<u8>,
    last_path: Vec<u8>,
    count: usize,
}

impl TreeNodeWriter {
    /// An empty node; level 0 is a leaf.
    pub fn new(level: u8) -> TreeNodeWriter {
        let mut bytes = Vec::with_capacity(CHUNK_SIZE_BYTES_MAX);
        bytes.put_bytes(&MAGIC);
        bytes.put_u8(VERSION);
        bytes.put_u8(level);
        bytes.put_u16(0);
        TreeNodeWriter { bytes, last_path: Vec::new(), count: 0 }
    }

    /// The encoded node so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Entries or children so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Appends an entry to a leaf. `Invalid`, naming the path, if a part of it is longer than a node can hold.
    pub fn push_entry(&mut self, entry: &TreeEntry) -> Result<()> {
        let xattrs_len: usize =
            entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        if entry.path.len() > TREE_PATH_LEN_MAX || xattrs_len > TREE_XATTRS_LEN_MAX {
            let path = String::from_utf8_lossy(&entry.path);
            let what =
                if xattrs_len > TREE_XATTRS_LEN_MAX { "extended attributes" } else { "path" };
            return Err(Error::invalid(format!(
                "{path:?} cannot be stored: its {what} are longer than 16 KiB"
            )));
        }
        self.put_path(&entry.path);
        self.put_kind(&entry.kind);
        if matches!(entry.kind, TreeKind::HardLink(_)) {
            return Ok(());
        }
        self.bytes.put_u16(entry.permissions);
        self.bytes.put_u32(entry.uid);
        self.bytes.put_u32(entry.gid);
        self.bytes.put_u64(entry.mtime_seconds as u64);
        self.bytes.put_u32(entry.mtime_nanoseconds);
        self.bytes.put_u16(entry.xattrs.len() as u16);
        for (name, value) in &entry.xattrs {
            self.bytes.put_u16(name.len() as u16);
            self.bytes.put_bytes(name);
            self.bytes.put_u16(value.len() as u16);
            self.bytes.put_bytes(value);
        }
        Ok(())
    }

    /// Appends a child to an inner node.
    pub fn push_child(&mut self, child: &TreeChild) {
        self.put_path(&child.first_path);
        self.bytes.put_bytes(child.id.as_bytes());
    }

    fn put_path(&mut self, path: &[u8]) {
        let shared = path.iter().zip(&self.last_path).take_while(|(a, b)| a == b).count();
        self.bytes.put_u16(shared as u16);
        self.bytes.put_u16((path.len() - shared) as u16);
        self.bytes.put_bytes(&path[shared..]);
        self.last_path.clear();
        self.last_path.extend_from_slice(path);
        self.count += 1;
    }

    fn put_kind(&mut self, kind: &TreeKind) {
        let out = &mut self.bytes;
        let mut numbered = |number: u8, major: u32, minor: u32| {
            out.put_u8(number);
            out.put_u32(major);
            out.put_u32(minor);
        };
        match kind {
            TreeKind::Directory => out.put_u8(1),
            TreeKind::File { size_bytes, content } => {
                out.put_u8(if matches!(content, TreeContent::Chunks(_)) { 2 } else { 3 });
                out.put_u64(*size_bytes);
                match content {
                    TreeContent::Chunks(ids) => {
                        ids.iter().for_each(|id| out.put_bytes(id.as_bytes()))
                    }
                    TreeContent::Map(root) => out.put_bytes(root.as_bytes()),
                }
            }
            TreeKind::Symlink(target) => {
                out.put_u8(4);
                out.put_u16(target.len() as u16);
                out.put_bytes(target);
            }
            TreeKind::CharDevice { major, minor } => numbered(5, *major, *minor),
            TreeKind::BlockDevice { major, minor } => numbered(6, *major, *minor),
            TreeKind::Fifo => out.put_u8(7),
            TreeKind::Socket => out.put_u8(8),
            TreeKind::HardLink(path) => {
                out.put_u8(9);
                out.put_u16(path.len() as u16);
                out.put_bytes(path);
            }
        }
    }
}

impl TreeNode {
    /// Decodes a node. Bounded by the length of a chunk; checks that paths ascend.
    pub fn decode(bytes: &[u8]) -> Result<TreeNode> {
        let mut wire = WireReader::new(bytes, "tree node");
        if bytes.len() > CHUNK_SIZE_BYTES_MAX || wire.array()? != MAGIC || wire.u8()? != VERSION {
            return Err(wire.corrupt("it is none of this version"));
        }
        let level = wire.u8()?;
        wire.u16()?;
        let (mut entries, mut children) = (Vec::new(), Vec::new());
        let mut last: Option<Vec<u8>> = None;
        while wire.remaining() > 0 {
            let path = read_path(&mut wire, last.as_deref())?;
            if last.as_ref().is_some_and(|last| !path_before(last, &path)) {
                return Err(wire.corrupt("its paths do not ascend"));
            }
            match level {
                0 => entries.push(read_entry(&mut wire, path.clone())?),
                _ => children.push(TreeChild {
                    first_path: path.clone(),
                    id: ChunkId::from_bytes(wire.array()?),
                }),
            }
            last = Some(path);
        }
        if last.is_none() {
            return Err(wire.corrupt("it is empty"));
        }
        Ok(if level == 0 { TreeNode::Leaf(entries) } else { TreeNode::Inner { level, children } })
    }
}

/// Whether path `a` comes before path `b` in a tree: component by component, a folder before what it holds.
pub fn path_before(a: &[u8], b: &[u8]) -> bool {
    // A slash sorts before every other byte, so comparing bytes compares components.
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    a.iter().map(rank).lt(b.iter().map(rank))
}

fn read_path(wire: &mut WireReader<'_>, last: Option<&[u8]>) -> Result<Vec<u8>> {
    let (shared, len) = (usize::from(wire.u16()?), usize::from(wire.u16()?));
    let prefix = last
        .unwrap_or_default()
        .get(..shared)
        .ok_or_else(|| wire.corrupt("a path shares too much"))?;
    let path = [prefix, wire.bytes(len)?].concat();
    let bad = |part: &[u8]| {
        part.is_empty() || part == b"." || part == b".." || part.len() > 255 || part.contains(&0)
    };
    if path.len() > TREE_PATH_LEN_MAX
        || !path.is_empty() && path.split(|byte| *byte == b'/').any(bad)
    {
        return Err(wire.corrupt("a path is none"));
    }
    Ok(path)
}

fn read_kind(wire: &mut WireReader<'_>) -> Result<TreeKind> {
    let number = wire.u8()?;
    let mut short_bytes = || {
        let len = usize::from(wire.u16()?);
        wire.bytes(len).map(<[u8]>::to_vec)
    };
    Ok(match number {
        1 => TreeKind::Directory,
        2 => {
            let size_bytes = wire.u64()?;
            let chunks = size_bytes.div_ceil(CHUNK_SIZE_BYTES_MAX as u64);
            if chunks > TREE_INLINE_CHUNKS_MAX as u64 {
                return Err(wire.corrupt("a file lists too many chunks"));
            }
            let ids = (0..chunks)
                .map(|_| wire.array().map(ChunkId::from_bytes))
                .collect::<Result<_>>()?;
            TreeKind::File { size_bytes, content: TreeContent::Chunks(ids) }
        }
        3 => {
            let size_bytes = wire.u64()?;
            TreeKind::File {
                size_bytes,
                content: TreeContent::Map(ChunkId::from_bytes(wire.array()?)),
            }
        }
        4 => TreeKind::Symlink(short_bytes()?),
        5 => TreeKind::CharDevice { major: wire.u32()?, minor: wire.u32()? },
        6 => TreeKind::BlockDevice { major: wire.u32()?, minor: wire.u32()? },
        7 => TreeKind::Fifo,
        8 => TreeKind::Socket,
        9 => TreeKind::HardLink(short_bytes()?),
        _ => return Err(wire.corrupt("an entry has an unknown kind")),
    })
}

fn read_entry(wire: &mut WireReader<'_>, path: Vec<u8>) -> Result<TreeEntry> {
    let kind = read_kind(wire)?;
    let mut entry = TreeEntry::bare(path, kind);
    if matches!(entry.kind, TreeKind::HardLink(_)) {
        return Ok(entry);
    }
    entry.permissions = wire.u16()?;
    entry.uid = wire.u32()?;
    entry.gid = wire.u32()?;
    entry.mtime_seconds = wire.u64()? as i64;
    entry.mtime_nanoseconds = wire.u32()?;
    if entry.permissions > 0o7777 || entry.mtime_nanoseconds > 999_999_999 {
        return Err(wire.corrupt("an entry has impossible metadata"));
    }
    for _ in 0..wire.u16()? {
        let len = usize::from(wire.u16()?);
        let name = wire.bytes(len)?.to_vec();
        let len = usize::from(wire.u16()?);
        entry.xattrs.push((name, wire.bytes(len)?.to_vec()));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<TreeEntry> {
        let ids = vec![ChunkId::from_bytes([1; 32]), ChunkId::from_bytes([0; 32])];
        let kinds: [(&[u8], TreeKind); 9] = [
            (b"", TreeKind::Directory),
            (b"a", TreeKind::Directory),
            (b"a/\xff\n", TreeKind::File { size_bytes: 70_000, content: TreeContent::Chunks(ids) }),
            (b"a-", TreeKind::Symlink(b"../b".to_vec())),
            (b"b", TreeKind::CharDevice { major: 5, minor: 1 << 19 }),
            (b"c", TreeKind::Fifo),
            (b"d", TreeKind::Socket),
            (b"e", TreeKind::HardLink(b"a/\xff\n".to_vec())),
            (
                b"f",
                TreeKind::File {
                    size_bytes: 1 << 43,
                    content: TreeContent::Map(ChunkId::from_bytes([2; 32])),
                },
            ),
        ];
        let entry = |(path, kind): (&[u8], TreeKind)| {
            let own = !matches!(kind, TreeKind::HardLink(_));
            TreeEntry {
                path: path.to_vec(),
                kind,
                permissions: if own { 0o4755 } else { 0 },
                uid: if own { u32::MAX - 1 } else { 0 },
                gid: 0,
                mtime_seconds: if own { -1 } else { 0 },
                mtime_nanoseconds: if own { 999_999_999 } else { 0 },
                xattrs: if own { vec![(b"user.a".to_vec(), vec![0, 255])] } else { vec![] },
            }
        };
        kinds.into_iter().map(entry).collect()
    }

    fn encoded() -> Vec<u8> {
        let mut writer = TreeNodeWriter::new(0);
        entries().iter().for_each(|entry| writer.push_entry(entry).unwrap());
        writer.as_bytes().to_vec()
    }

    #[test]
    fn leaves_and_inner_nodes_read_back() {
        assert_eq!(TreeNode::decode(&encoded()).unwrap(), TreeNode::Leaf(entries()));
        let children: Vec<_> = [b"".as_slice(), b"usr/bin", b"usr/lib"]
            .map(|path| TreeChild { first_path: path.to_vec(), id: ChunkId::from_bytes([4; 32]) })
            .into();
        let mut writer = TreeNodeWriter::new(3);
        children.iter().for_each(|child| writer.push_child(child));
        assert_eq!(
            TreeNode::decode(writer.as_bytes()).unwrap(),
            TreeNode::Inner { level: 3, children }
        );
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_were() {
        assert_eq!(&blake3::hash(&encoded()).to_hex()[..16], "c64832e40d9d6b0a");
    }

    #[test]
    fn damaged_nodes_are_errors_not_panics() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            let _ = TreeNode::decode(&bytes[..len]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = TreeNode::decode(&bytes);
            }
        }
        for escape in [b"../a".as_slice(), b"/a", b"a//b", b"a/.", b"a\0"] {
            let mut writer = TreeNodeWriter::new(1);
            writer.push_child(&TreeChild {
                first_path: escape.to_vec(),
                id: ChunkId::from_bytes([4; 32]),
            });
            assert!(TreeNode::decode(writer.as_bytes()).is_err(), "{escape:?}");
        }
    }

    #[test]
    fn a_folder_comes_right_before_what_it_holds() {
        let ordered: [&[u8]; 6] = [b"", b"a", b"a/b", b"a/b/c", b"a-", b"a-/x"];
        assert!(
            ordered
                .windows(2)
                .all(|pair| path_before(pair[0], pair[1]) && !path_before(pair[1], pair[0]))
        );
        assert!(!path_before(b"a", b"a"));
    }
}
