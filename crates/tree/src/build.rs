//! Building a tree, entry by entry, with one unfinished node a level in memory.

use silt_format::{TreeChild, TreeEntry, TreeNodeWriter, path_before};
use silt_store::{ChunkKind, ChunkSink};
use silt_types::{CHUNK_SIZE_BYTES_MAX, ChunkId, Error, Result, TreeId};

/// A node is cut after a path whose hash ends in this many zero bits: after 64 entries on average, about 8 KiB. Where
/// it is cut depends on that path alone, so a change moves no other cut.
const CUT_BITS: u32 = 6;
/// A node is cut before it would grow beyond this, which leaves room for the longest entry.
const NODE_SIZE_BYTES_MAX: usize = CHUNK_SIZE_BYTES_MAX - 40 * 1024;

/// Writes a tree. Entries must come in tree order: a folder before what it holds, siblings by the bytes of their names.
pub struct TreeBuilder<'a> {
    sink: &'a dyn ChunkSink,
    levels: Vec<Level>,
    last_path: Option<Vec<u8>>,
}

struct Level {
    writer: TreeNodeWriter,
    first_path: Vec<u8>,
}

impl<'a> TreeBuilder<'a> {
    /// A tree without entries, whose nodes go to `sink`.
    pub fn new(sink: &'a dyn ChunkSink) -> TreeBuilder<'a> {
        TreeBuilder { sink, levels: Vec::new(), last_path: None }
    }

    /// Appends an entry. `Invalid` if it is out of order or too long to be stored.
    pub fn push(&mut self, entry: &TreeEntry) -> Result<()> {
        if self.last_path.as_ref().is_some_and(|last| !path_before(last, &entry.path)) {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            return Err(Error::invalid(format!("the tree entry {path:?} is out of order")));
        }
        self.level(0, &entry.path).push_entry(entry)?;
        self.last_path = Some(entry.path.clone());
        self.cut_where_due(0, &entry.path)
    }

    /// Finishes the tree. `Invalid` if it has no entry. Durable once what the sink belongs to is published.
    pub fn finish(mut self) -> Result<TreeId> {
        let mut at = 0;
        loop {
            let is_top = at + 1 == self.levels.len();
            let level = self
                .levels
                .get(at)
                .ok_or_else(|| Error::invalid("a tree needs at least its root"))?;
            // A top node with one child says nothing that the child does not.
            if is_top && (at == 0 || level.writer.count() > 1) {
                let id = self.sink.put(ChunkKind::TreeNode, level.writer.as_bytes())?;
                return Ok(TreeId::from_bytes(*id.as_bytes()));
            }
            if is_top {
                return Ok(TreeId::from_bytes(*self.only_child(at)?.as_bytes()));
            }
            if level.writer.count() > 0 {
                self.cut(at)?;
            }
            at += 1;
        }
    }

    fn only_child(&self, at: usize) -> Result<ChunkId> {
        let bytes = self.levels[at].writer.as_bytes();
        let id = bytes.last_chunk().ok_or_else(|| Error::invalid("a tree node without child"))?;
        Ok(ChunkId::from_bytes(*id))
    }

    /// The writer of a level, which gets an entry that begins at `path`.
    fn level(&mut self, at: usize, path: &[u8]) -> &mut TreeNodeWriter {
        if self.levels.len() == at {
            self.levels
                .push(Level { writer: TreeNodeWriter::new(at as u8), first_path: path.to_vec() });
        }
        let level = &mut self.levels[at];
        if level.writer.count() == 0 {
            level.first_path = path.to_vec();
        }
        &mut level.writer
    }

    fn cut_where_due(&mut self, at: usize, path: &[u8]) -> Result<()> {
        let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
        });
        // Each level looks at bits of its own, or a cut below would always cut above too.
        let due = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at as u32 * CUT_BITS).min(58))
            & ((1 << CUT_BITS) - 1)
            == 0;
        let node = &self.levels[at].writer;
        // A node above a leaf gets two children at least, or the tree could grow without end.
        if node.as_bytes().len() >= NODE_SIZE_BYTES_MAX || due && (at == 0 || node.count() > 1) {
            self.cut(at)?;
        }
        Ok(())
    }

    fn cut(&mut self, at: usize) -> Result<()> {
        let level = &mut self.levels[at];
        let full = std::mem::replace(&mut level.writer, TreeNodeWriter::new(at as u8));
        let first_path = std::mem::take(&mut level.first_path);
        let id = self.sink.put(ChunkKind::TreeNode, full.as_bytes())?;
        self.level(at + 1, &first_path)
            .push_child(&TreeChild { first_path: first_path.clone(), id });
        self.cut_where_due(at + 1, &first_path)
    }
}
