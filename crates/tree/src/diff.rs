//! The difference of two trees, found by reading only the nodes that are not in both.
//!
//! Both sequences of entries are walked side by side. Where both stand before the same node, it is passed over unread;
//! nodes are cut by content, so after a change the two soon stand before the same node again.

use crate::read::node;
use silt_format::{TreeChild, TreeContent, TreeEntry, TreeKind, TreeNode, path_before};
use silt_store::ChunkSource;
use silt_types::{ChunkId, Error, Result, TreeId};
use std::{cmp::Ordering, collections::VecDeque};

/// A path that two trees do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeChange {
    /// Only the new tree has it.
    Added(TreeEntry),
    /// Only the old tree has it.
    Removed(TreeEntry),
    /// Both have it, with other content or other metadata: old and new.
    Changed(TreeEntry, TreeEntry),
}

/// Visits what is not alike in two trees, in tree order. `Corrupt`, naming the node, if one is damaged. Reads the nodes that
/// are not in both; memory for one node a level of each.
pub fn for_each_change(
    source: &dyn ChunkSource,
    old: TreeId,
    new: TreeId,
    mut visit: impl FnMut(TreeChange) -> Result<()>,
) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let (old, new) = (Cursor::new(source, old)?, Cursor::new(source, new)?);
    compare(old, new, &mut |_, _| true, &mut |step| match step {
        Step::Change(change) => visit(change),
        Step::Passed(_) => Ok(()),
    })
}

/// Visits what a tree has that the `known` one has not: the content of files, and behind that the nodes, those below before
/// those above. `enter` is told before a node is read, with the level and the first path that it is to have there (nothing for the
/// root); false leaves it out, and all that is below it. `Corrupt`, naming the
/// node, if one is damaged. Reads the nodes that are not in both; memory for one node a level of each.
pub fn for_each_new(
    known: Option<(&dyn ChunkSource, TreeId)>,
    source: &dyn ChunkSource,
    tree: TreeId,
    enter: &mut EnterTreeNode<'_>,
    visit: &mut dyn FnMut(NewInTree<'_>) -> Result<()>,
) -> Result<()> {
    if known.is_some_and(|(_, known)| known == tree) || !enter(&root_of(tree), None) {
        return Ok(());
    }
    let old = match known {
        Some((source, known)) => Cursor::new(source, known)?,
        None => Cursor { source, tree, levels: Vec::new(), passed: None, opened: Vec::new() },
    };
    compare(old, Cursor::new(source, tree)?, enter, &mut |step| match step {
        Step::Passed(node) => visit(NewInTree::Node(&node)),
        Step::Change(TreeChange::Removed(_)) => Ok(()),
        Step::Change(TreeChange::Added(entry)) => visit_content(&entry, None, visit),
        Step::Change(TreeChange::Changed(old, entry)) => visit_content(&entry, Some(&old), visit),
    })
}

/// Says whether a node is wanted at a place, which is a level and a first path.
pub type EnterTreeNode<'a> = dyn FnMut(&ChunkId, Option<(u8, &[u8])>) -> bool + 'a;

/// Something that a tree has and another one has not.
#[derive(Clone, Copy, Debug)]
pub enum NewInTree<'a> {
    /// A node.
    Node(&'a ChunkId),
    /// The content of a file of this length in bytes; of a large one that the other tree has too, the map that it is there,
    /// and that one's length.
    Content(u64, &'a TreeContent, Option<(u64, ChunkId)>),
}

fn visit_content(
    entry: &TreeEntry,
    old: Option<&TreeEntry>,
    visit: &mut dyn FnMut(NewInTree<'_>) -> Result<()>,
) -> Result<()> {
    let TreeKind::File { size_bytes, content } = &entry.kind else { return Ok(()) };
    let known = match old.map(|old| &old.kind) {
        Some(TreeKind::File { size_bytes, content: TreeContent::Map(root) }) => {
            Some((*size_bytes, *root))
        }
        _ => None,
    };
    visit(NewInTree::Content(*size_bytes, content, known))
}

/// What a comparison comes to.
#[expect(clippy::large_enum_variant, reason = "handed on at once")]
enum Step {
    Change(TreeChange),
    /// The end of a node of the new tree.
    Passed(ChunkId),
}

fn compare(
    mut old: Cursor<'_>,
    mut new: Cursor<'_>,
    enter: &mut EnterTreeNode<'_>,
    tell: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<()> {
    loop {
        if let Some(node) = new.passed_node() {
            tell(Step::Passed(node))?;
            continue;
        }
        while old.passed_node().is_some() {}
        let mut visit = |change| tell(Step::Change(change));
        match (old.front(), new.front()) {
            (None, None) => return Ok(()),
            (Some(Item::Entry(_)), None) => visit(TreeChange::Removed(old.take_entry()?))?,
            (None, Some(Item::Entry(_))) => visit(TreeChange::Added(new.take_entry()?))?,
            (Some(Item::Entry(a)), Some(Item::Entry(b))) => match order(&a.path, &b.path) {
                Ordering::Less => visit(TreeChange::Removed(old.take_entry()?))?,
                Ordering::Greater => visit(TreeChange::Added(new.take_entry()?))?,
                Ordering::Equal => {
                    let (a, b) = (old.take_entry()?, new.take_entry()?);
                    if a != b {
                        visit(TreeChange::Changed(a, b))?;
                    }
                }
            },
            (Some(Item::Node(a)), Some(Item::Node(b))) if a.child.id == b.child.id => {
                old.skip();
                new.skip();
            }
            (Some(a), Some(b)) => match must_open(a, b) {
                (true, true) => {
                    old.open()?;
                    new.open_if(enter)?;
                }
                (true, false) => old.open()?,
                (false, true) => new.open_if(enter)?,
                // An entry before everything that the other has left.
                (false, false) if matches!(a, Item::Entry(_)) => {
                    visit(TreeChange::Removed(old.take_entry()?))?;
                }
                (false, false) => visit(TreeChange::Added(new.take_entry()?))?,
            },
            (Some(Item::Node(_)), None) => old.open()?,
            (None, Some(Item::Node(_))) => new.open_if(enter)?,
        }
    }
}

/// Which of two fronts, at least one of them a node, have to be opened: the higher one, or the one that begins first, whose
/// entries come before the other's. A node whose turn comes later may be one that both have.
fn must_open(a: &Item, b: &Item) -> (bool, bool) {
    match (a, b) {
        (Item::Node(a), Item::Node(b)) => match a.level.cmp(&b.level) {
            Ordering::Greater => (true, false),
            Ordering::Less => (false, true),
            Ordering::Equal => match order(&a.child.first_path, &b.child.first_path) {
                Ordering::Less => (true, false),
                Ordering::Greater => (false, true),
                Ordering::Equal => (true, true),
            },
        },
        (Item::Node(a), Item::Entry(b)) => (!path_before(&b.path, &a.child.first_path), false),
        (Item::Entry(a), Item::Node(b)) => (false, !path_before(&a.path, &b.child.first_path)),
        (Item::Entry(_), Item::Entry(_)) => (false, false),
    }
}

fn root_of(tree: TreeId) -> ChunkId {
    ChunkId::from_bytes(*tree.as_bytes())
}

fn order(a: &[u8], b: &[u8]) -> Ordering {
    match (path_before(a, b), path_before(b, a)) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// What is next of a tree: an entry, or a node that was not opened.
enum Item {
    Entry(TreeEntry),
    Node(Unopened),
}

struct Unopened {
    child: TreeChild,
    level: u8,
}

/// What is left of a tree.
struct Cursor<'a> {
    source: &'a dyn ChunkSource,
    tree: TreeId,
    /// What is left of each opened node, the root's first.
    levels: Vec<VecDeque<Item>>,
    /// Those nodes.
    opened: Vec<ChunkId>,
    /// The last path that was passed, which all others come after.
    passed: Option<Vec<u8>>,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a dyn ChunkSource, tree: TreeId) -> Result<Cursor<'a>> {
        let mut cursor =
            Cursor { source, tree, levels: Vec::new(), opened: Vec::new(), passed: None };
        let root = root_of(tree);
        cursor.push(root, node(source, tree, &root)?);
        Ok(cursor)
    }

    fn push(&mut self, id: ChunkId, node: TreeNode) {
        self.opened.push(id);
        self.levels.push(match node {
            TreeNode::Leaf(entries) => entries.into_iter().map(Item::Entry).collect(),
            TreeNode::Inner { level, children } => {
                let below = level - 1;
                let items = children.into_iter();
                items.map(|child| Item::Node(Unopened { child, level: below })).collect()
            }
        });
    }

    fn front(&self) -> Option<&Item> {
        self.levels.last().and_then(VecDeque::front)
    }

    fn take(&mut self) -> Option<Item> {
        self.levels.last_mut()?.pop_front()
    }

    /// Leaves the innermost node if nothing is left of it.
    fn passed_node(&mut self) -> Option<ChunkId> {
        self.levels.pop_if(|left| left.is_empty()).and_then(|_| self.opened.pop())
    }

    fn skip(&mut self) {
        self.take();
    }

    fn take_entry(&mut self) -> Result<TreeEntry> {
        let Some(Item::Entry(entry)) = self.take() else {
            return Err(self.corrupt("has no entry where there was one"));
        };
        if self.passed.as_ref().is_some_and(|passed| !path_before(passed, &entry.path)) {
            return Err(self.corrupt("has entries that do not ascend"));
        }
        self.passed = Some(entry.path.clone());
        Ok(entry)
    }

    /// Opens the node at the front, or passes it over where it is not wanted.
    fn open_if(&mut self, wanted: &mut EnterTreeNode<'_>) -> Result<()> {
        match self.front() {
            Some(Item::Node(Unopened { child, level }))
                if !wanted(&child.id, Some((*level, &child.first_path))) =>
            {
                self.skip();
                Ok(())
            }
            _ => self.open(),
        }
    }

    /// Puts what is in the node at the front in its place.
    fn open(&mut self) -> Result<()> {
        let Some(Item::Node(Unopened { child, level })) = self.take() else {
            return Err(self.corrupt("has no node where there was one"));
        };
        let opened = node(self.source, self.tree, &child.id)?;
        let (found, first_path) = match &opened {
            TreeNode::Leaf(entries) => (0, entries.first().map(|entry| &entry.path)),
            TreeNode::Inner { level, children } => {
                (*level, children.first().map(|child| &child.first_path))
            }
        };
        if found != level || first_path != Some(&child.first_path) {
            return Err(self.corrupt("has a node at the wrong place"));
        }
        self.push(child.id, opened);
        Ok(())
    }

    fn corrupt(&self, why: &str) -> Error {
        Error::corrupt(format!("tree {} {why}", self.tree))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tree, TreeBuilder};
    use silt_store::{Chunk, KeyContext, MemoryChunks};
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    /// Paths in tree order: a slash before every other byte.
    type Paths = BTreeMap<Vec<u16>, TreeEntry>;

    fn insert(paths: &mut Paths, path: &str, content: u8) {
        let key = path.bytes().map(|b| if b == b'/' { 0 } else { u16::from(b) + 1 }).collect();
        let chunks = TreeContent::Chunks(vec![ChunkId::from_bytes([content; 32])]);
        let kind = TreeKind::File { size_bytes: 5, content: chunks };
        paths.insert(key, TreeEntry::bare(path.as_bytes().to_vec(), kind));
    }

    fn build(chunks: &MemoryChunks, paths: &Paths) -> TreeId {
        let mut builder = TreeBuilder::new(chunks);
        builder.push(&TreeEntry::bare(Vec::new(), TreeKind::Directory)).unwrap();
        paths.values().for_each(|entry| builder.push(entry).unwrap());
        builder.finish().unwrap()
    }

    fn naive(old: &Paths, new: &Paths) -> Vec<TreeChange> {
        let mut all: BTreeMap<_, (Option<&TreeEntry>, Option<&TreeEntry>)> = BTreeMap::new();
        old.iter().for_each(|(key, entry)| all.entry(key).or_default().0 = Some(entry));
        new.iter().for_each(|(key, entry)| all.entry(key).or_default().1 = Some(entry));
        let changes = all.into_values().filter_map(|pair| match pair {
            (Some(a), None) => Some(TreeChange::Removed(a.clone())),
            (None, Some(b)) => Some(TreeChange::Added(b.clone())),
            (Some(a), Some(b)) if a != b => Some(TreeChange::Changed(a.clone(), b.clone())),
            _ => None,
        });
        changes.collect()
    }

    /// Counts what is read.
    struct Counting<'a>(&'a MemoryChunks, AtomicUsize);

    impl ChunkSource for Counting<'_> {
        fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
            self.1.fetch_add(1, Relaxed);
            self.0.get(context, id)
        }

        fn get_hot(&self, _: KeyContext, _: &ChunkId) -> Option<Chunk> {
            None
        }
    }

    fn changes(chunks: &MemoryChunks, old: TreeId, new: TreeId) -> (Vec<TreeChange>, usize) {
        let (mut found, source) = (Vec::new(), Counting(chunks, AtomicUsize::new(0)));
        for_each_change(&source, old, new, |change| {
            found.push(change);
            Ok(())
        })
        .unwrap();
        (found, source.1.into_inner())
    }

    #[test]
    fn differences_are_those_of_a_naive_comparison() {
        let chunks = MemoryChunks::new();
        let mut state = 1_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for round in 0..300 {
            let (size, mut old) = ([0, 1, 30, 500, 5000][round % 5], Paths::new());
            let path = |n: u64| format!("{}/{}/file-{n}", n % 7, n % 31);
            (0..size).for_each(|n| insert(&mut old, &path(n), 0));
            let mut new = old.clone();
            for _ in 0..[0, 1, 3, 40, 2000][random(5) as usize] {
                let at = random(size + 10);
                match random(4) {
                    0 => insert(&mut new, &path(at), 1 + random(3) as u8),
                    1 => insert(&mut new, &format!("new-{at}"), 0),
                    _ => {
                        let path = path(at);
                        new.retain(|_, entry| entry.path != path.as_bytes());
                    }
                }
            }
            let ids = (build(&chunks, &old), build(&chunks, &new));
            assert_eq!(changes(&chunks, ids.0, ids.1).0, naive(&old, &new), "{round}");
            assert_eq!(changes(&chunks, ids.1, ids.0).0, naive(&new, &old), "{round}");
        }
    }

    /// What is new in a tree, and how much of it was read.
    fn new_in(chunks: &MemoryChunks, known: Option<TreeId>, tree: TreeId) -> (Vec<String>, usize) {
        let (mut found, source) = (Vec::new(), Counting(chunks, AtomicUsize::new(0)));
        let known = known.map(|known| (chunks as &dyn ChunkSource, known));
        let mut visit = |met: NewInTree<'_>| {
            found.push(match met {
                NewInTree::Node(id) => id.to_string(),
                NewInTree::Content(size, content, _) => format!("{size} {content:?}"),
            });
            Ok(())
        };
        let mut met = std::collections::HashSet::new();
        for_each_new(known, &source, tree, &mut |node, _| met.insert(*node), &mut visit).unwrap();
        (found, source.1.into_inner())
    }

    #[test]
    fn what_is_new_in_a_tree_comes_behind_what_it_names_and_the_rest_is_not_read() {
        let (chunks, mut old) = (MemoryChunks::new(), Paths::new());
        (0..5000).for_each(|n| insert(&mut old, &format!("dir/file-{n:06}"), (n % 5) as u8));
        let mut new = old.clone();
        insert(&mut new, "dir/file-000007", 77);
        new.pop_last();
        let (old, new) = (build(&chunks, &old), build(&chunks, &new));
        let (all, reads) = new_in(&chunks, None, new);
        let (few, few_reads) = new_in(&chunks, Some(old), new);
        assert_eq!(all.last(), Some(&new.to_string()), "the root comes last");
        assert_eq!(few.last(), Some(&new.to_string()));
        assert!(few.iter().all(|found| all.contains(found)));
        assert!(few_reads < 15 && reads > 60, "{few_reads} of {reads}");
        // All nodes of the new tree are those of the old one, and the ones that were found.
        let nodes = |tree| {
            let mut nodes = std::collections::BTreeSet::new();
            let visit = |id: &ChunkId| {
                nodes.insert(id.to_string());
                Ok(())
            };
            Tree::new(&chunks, tree).for_each_node(visit).unwrap();
            nodes
        };
        let missing: Vec<_> = nodes(new).difference(&nodes(old)).cloned().collect();
        assert!(missing.iter().all(|node| few.contains(node)));
        assert_eq!(new_in(&chunks, Some(new), new), (vec![], 0));
    }

    #[test]
    fn only_nodes_that_differ_are_read() {
        let (chunks, mut old) = (MemoryChunks::new(), Paths::new());
        (0..40_000).for_each(|n| insert(&mut old, &format!("dir/file-{n:06}"), 0));
        let mut new = old.clone();
        insert(&mut new, "dir/file-000007", 1);
        insert(&mut new, "dir/file-020000-and-a-half", 1);
        new.pop_last();
        let ids = (build(&chunks, &old), build(&chunks, &new));
        let (found, reads) = changes(&chunks, ids.0, ids.1);
        let mut nodes = 0;
        Tree::new(&chunks, ids.0)
            .for_each_node(|_| {
                nodes += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(found.len(), 3);
        assert!(reads <= 30 && nodes > 500, "{reads} reads of {nodes} nodes");
        assert_eq!(changes(&chunks, ids.0, ids.0), (vec![], 0));
    }
}
