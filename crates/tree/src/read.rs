//! Reading a tree.

use silt_format::{TreeContent, TreeEntry, TreeKind, TreeNode, path_before};
use silt_store::{ChunkSource, KeyContext};
use silt_types::{ChunkId, Context as _, Error, Result, TreeId};
use std::collections::HashMap;

/// Deeper than any tree that can be built: each level holds at least twice what the one below does.
const LEVELS_MAX: u8 = 40;

/// What [`Tree::reaches`] comes across.
#[derive(Clone, Copy, Debug)]
pub enum Met<'a> {
    /// A node of the tree.
    Node(&'a ChunkId),
    /// The content of a file of this length in bytes.
    Content(u64, &'a TreeContent),
}

/// A sealed tree.
pub struct Tree<'a> {
    source: &'a dyn ChunkSource,
    id: TreeId,
}

impl<'a> Tree<'a> {
    /// The tree with this id; nothing is read yet.
    pub fn new(source: &'a dyn ChunkSource, id: TreeId) -> Tree<'a> {
        Tree { source, id }
    }

    /// Visits every entry in tree order. `Corrupt`, naming the node, if one is damaged. Memory for one node a level.
    pub fn for_each_entry(&self, mut visit: impl FnMut(TreeEntry) -> Result<()>) -> Result<()> {
        let mut last: Option<Vec<u8>> = None;
        self.walk(&mut |_, leaf| {
            for entry in leaf.unwrap_or_default() {
                if last.as_ref().is_some_and(|last| !path_before(last, &entry.path)) {
                    return Err(Error::corrupt(format!(
                        "the entries of tree {} do not ascend",
                        self.id
                    )));
                }
                last = Some(entry.path.clone());
                visit(entry)?;
            }
            Ok(())
        })
    }

    /// Visits the id of every node, children before what follows them.
    pub fn for_each_node(&self, mut visit: impl FnMut(&ChunkId) -> Result<()>) -> Result<()> {
        self.walk(&mut |id, _| visit(id))
    }

    /// Visits what entries hold, in tree order, but only below nodes that `enter` wants, which is told before each is read: so
    /// that what several trees share is visited once.
    pub fn for_each_content(
        &self,
        mut enter: impl FnMut(&ChunkId) -> bool,
        mut visit: impl FnMut(u64, &TreeContent) -> Result<()>,
    ) -> Result<()> {
        self.walk_wanted(&mut enter, &mut |_, leaf| {
            leaf.iter().flatten().try_for_each(|entry| match &entry.kind {
                TreeKind::File { size_bytes, content } => visit(*size_bytes, content),
                _ => Ok(()),
            })
        })
    }

    /// Whether `is_met` finds what it looks for: in a node, or in the content of a file, by its length. Of nodes that were looked
    /// into, `known` keeps the answer, for other trees that have them too.
    pub fn reaches(
        &self,
        known: &mut HashMap<ChunkId, bool>,
        is_met: &mut dyn FnMut(Met<'_>) -> Result<bool>,
    ) -> Result<bool> {
        self.node_reaches(&ChunkId::from_bytes(*self.id.as_bytes()), LEVELS_MAX, known, is_met)
    }

    fn node_reaches(
        &self,
        id: &ChunkId,
        below: u8,
        known: &mut HashMap<ChunkId, bool>,
        is_met: &mut dyn FnMut(Met<'_>) -> Result<bool>,
    ) -> Result<bool> {
        if let Some(known) = known.get(id) {
            return Ok(*known);
        }
        let mut found = is_met(Met::Node(id))?;
        if !found {
            match node(self.source, self.id, id)? {
                TreeNode::Leaf(entries) => {
                    for entry in &entries {
                        if let TreeKind::File { size_bytes, content } = &entry.kind {
                            found = found || is_met(Met::Content(*size_bytes, content))?;
                        }
                    }
                }
                TreeNode::Inner { level, children } if level < below => {
                    for child in &children {
                        found = found || self.node_reaches(&child.id, level, known, is_met)?;
                    }
                }
                TreeNode::Inner { .. } => return Err(self.wrong_level(id)),
            }
        }
        known.insert(*id, found);
        Ok(found)
    }

    fn wrong_level(&self, id: &ChunkId) -> Error {
        Error::corrupt(format!("chunk {id}, a node of tree {}, is at the wrong level", self.id))
    }

    fn walk(&self, visit: &mut Visit<'_>) -> Result<()> {
        self.walk_wanted(&mut |_| true, visit)
    }

    fn walk_wanted(&self, enter: &mut Enter<'_>, visit: &mut Visit<'_>) -> Result<()> {
        self.walk_node(&ChunkId::from_bytes(*self.id.as_bytes()), LEVELS_MAX, enter, visit)
    }

    fn walk_node(
        &self,
        id: &ChunkId,
        below: u8,
        enter: &mut Enter<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        if !enter(id) {
            return Ok(());
        }
        match node(self.source, self.id, id)? {
            TreeNode::Leaf(entries) => visit(id, Some(entries)),
            TreeNode::Inner { level, .. } if level >= below => Err(self.wrong_level(id)),
            TreeNode::Inner { level, children } => {
                visit(id, None)?;
                let mut children = children.iter();
                children.try_for_each(|child| self.walk_node(&child.id, level, enter, visit))
            }
        }
    }
}

/// Reads a node of a tree. `Corrupt`, naming both, if it is damaged.
pub(crate) fn node(source: &dyn ChunkSource, tree: TreeId, id: &ChunkId) -> Result<TreeNode> {
    let bytes = source.get(KeyContext::TreeNode, id)?;
    TreeNode::decode(&bytes).context(|| format!("chunk {id}, a node of tree {tree}, is damaged"))
}

type Enter<'a> = dyn FnMut(&ChunkId) -> bool + 'a;
type Visit<'a> = dyn FnMut(&ChunkId, Option<Vec<TreeEntry>>) -> Result<()> + 'a;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TreeBuilder, TreeContent, TreeKind};
    use silt_store::{ChunkKind, ChunkSink as _, MemoryChunks};
    use silt_types::ErrorKind;

    fn entry(path: Vec<u8>) -> TreeEntry {
        let is_dir = path.is_empty();
        let content = TreeContent::Chunks(vec![ChunkId::from_bytes([1; 32])]);
        TreeEntry {
            path,
            kind: if is_dir {
                TreeKind::Directory
            } else {
                TreeKind::File { size_bytes: 5, content }
            },
            permissions: 0o644,
            uid: 0,
            gid: 0,
            mtime_seconds: 1,
            mtime_nanoseconds: 2,
            xattrs: vec![],
        }
    }

    fn build(chunks: &MemoryChunks, skip: Option<u32>, count: u32) -> TreeId {
        let mut builder = TreeBuilder::new(chunks);
        builder.push(&entry(vec![])).unwrap();
        for n in (0..count).filter(|n| Some(*n) != skip) {
            builder.push(&entry(format!("usr/share/doc/file-{n:08}").into_bytes())).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn entries_come_back_in_order_and_equal_trees_have_equal_ids() {
        for count in [0, 1, 63, 1000, 30_000] {
            let chunks = MemoryChunks::new();
            let id = build(&chunks, None, count);
            assert_eq!(build(&chunks, None, count), id);
            let mut seen = 0;
            Tree::new(&chunks, id)
                .for_each_entry(|found| {
                    if seen > 0 {
                        assert_eq!(
                            found,
                            entry(format!("usr/share/doc/file-{:08}", seen - 1).into_bytes())
                        );
                    }
                    seen += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(seen, count + 1);
        }
    }

    #[test]
    fn one_change_touches_few_nodes() {
        let chunks = MemoryChunks::new();
        build(&chunks, None, 30_000);
        let before = chunks.len();
        build(&chunks, Some(15_000), 30_000);
        let added = chunks.len() - before;
        assert!(added <= 4, "{added} of {before} nodes");
    }

    #[test]
    fn damaged_and_looping_nodes_are_corrupt() {
        let chunks = MemoryChunks::new();
        let id = chunks.put(ChunkKind::TreeNode, b"nonsense").unwrap();
        let tree = Tree::new(&chunks, TreeId::from_bytes(*id.as_bytes()));
        assert_eq!(tree.for_each_entry(|_| Ok(())).unwrap_err().kind(), ErrorKind::Corrupt);
        // A node of level 1 whose child is of level 1 as well.
        let mut child = silt_format::TreeNodeWriter::new(1);
        child.push_child(&silt_format::TreeChild { first_path: vec![], id });
        let child = chunks.put(ChunkKind::TreeNode, child.as_bytes()).unwrap();
        let mut parent = silt_format::TreeNodeWriter::new(1);
        parent.push_child(&silt_format::TreeChild { first_path: vec![], id: child });
        let parent = chunks.put(ChunkKind::TreeNode, parent.as_bytes()).unwrap();
        let tree = Tree::new(&chunks, TreeId::from_bytes(*parent.as_bytes()));
        assert_eq!(tree.for_each_entry(|_| Ok(())).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let chunks = MemoryChunks::new();
        let mut builder = TreeBuilder::new(&chunks);
        assert!(TreeBuilder::new(&chunks).finish().is_err());
        builder.push(&entry(b"b".to_vec())).unwrap();
        assert_eq!(builder.push(&entry(b"a".to_vec())).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(builder.push(&entry(b"b".to_vec())).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
