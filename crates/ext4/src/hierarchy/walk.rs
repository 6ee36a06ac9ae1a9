//! Going through a hierarchy in the order of its paths, which no caller's order of adding can change.

use super::{EntryId, Hierarchy, Tag};

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child<'a> {
    /// The name in its directory.
    pub name: &'a [u8],
    /// What it names.
    pub entry: EntryId,
}

/// One step of a [`Walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit<'a> {
    /// The directory that holds the name.
    pub parent: EntryId,
    /// The name in its directory.
    pub name: &'a [u8],
    /// What it names.
    pub entry: EntryId,
    /// 1 for the names in the root directory.
    pub depth: usize,
    /// False for the second and later names of a file: the first one in this order is its primary name.
    pub is_primary: bool,
}

/// All names, directories before what they hold, in the byte order of names. See [`Hierarchy::walk`].
pub struct Walk<'a> {
    hierarchy: &'a Hierarchy,
    stack: Vec<(EntryId, std::vec::IntoIter<Child<'a>>)>,
    /// The files with several names that were visited, as a bit set over entries.
    seen: Vec<u64>,
}

impl Hierarchy {
    /// The names in a directory, in byte order; nothing for other kinds.
    pub fn children(&self, directory: EntryId) -> Vec<Child<'_>> {
        let slot = &self.entries[directory.index()];
        if slot.tag != Tag::Directory {
            return Vec::new();
        }
        let mut children = Vec::with_capacity(slot.len as usize);
        for name in self.names_in(directory) {
            let child =
                Child { name: self.names.bytes(name), entry: EntryId(self.names.entry(name)) };
            children.push((name_prefix(child.name), child));
        }
        // Comparing the first eight bytes as a number decides nearly always.
        children.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.name.cmp(y.name)));
        children.into_iter().map(|(_, child)| child).collect()
    }

    /// Number of names in a directory; 0 for other kinds.
    pub fn children_count(&self, directory: EntryId) -> usize {
        let slot = &self.entries[directory.index()];
        if slot.tag == Tag::Directory { slot.len as usize } else { 0 }
    }

    /// All names but the root's, depth first, in the byte order of names.
    pub fn walk(&self) -> Walk<'_> {
        let root = (EntryId::ROOT, self.children(EntryId::ROOT).into_iter());
        Walk { hierarchy: self, stack: vec![root], seen: vec![0; self.len().div_ceil(64)] }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Visit<'a>;

    fn next(&mut self) -> Option<Visit<'a>> {
        loop {
            let depth = self.stack.len();
            let (parent, children) = self.stack.last_mut()?;
            let Some(Child { name, entry }) = children.next() else {
                self.stack.pop();
                continue;
            };
            let visit = Visit { parent: *parent, name, entry, depth, is_primary: true };
            if self.hierarchy.children_count(entry) > 0 {
                self.stack.push((entry, self.hierarchy.children(entry).into_iter()));
            }
            let (word, bit) = (&mut self.seen[entry.index() / 64], 1 << (entry.index() % 64));
            let is_primary = *word & bit == 0;
            *word |= bit;
            return Some(Visit { is_primary, ..visit });
        }
    }
}

/// The first eight bytes, so that numbers compare as the names do up to there.
fn name_prefix(name: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = name.len().min(8);
    bytes[..len].copy_from_slice(&name[..len]);
    u64::from_be_bytes(bytes)
}

/// A hash of a name under a number that stands for its directory: FNV-1a with the final mixing of SplitMix64. Layouts
/// depend on it: a change moves everything in every image.
pub(crate) fn name_hash(directory: u64, name: &[u8]) -> u64 {
    let start = directory ^ 0xCBF2_9CE4_8422_2325;
    let hash = name
        .iter()
        .fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
    mix(hash)
}

/// Spreads the bits of a number over all 64: the finalizer of SplitMix64.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}
