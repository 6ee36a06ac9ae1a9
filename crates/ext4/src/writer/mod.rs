//! The writer: from a declared hierarchy to every metadata block and the place of every file's data.
//!
//! [`Layout::plan`] decides, [`Layout::for_each_metadata_block`] and [`Layout::data_extents`] tell. Nothing is read,
//! written or copied here, no clock and no random number is asked, and the order in which entries were added does not
//! matter: the same hierarchy and options give the same bytes.
//!
//! | step | file |
//! |---|---|
//! | who belongs together, what each needs | `roster`, `nodes`, `directories`, `xattrs` |
//! | size of the disk, inodes per group | `sizing` |
//! | fixed structures | `geometry` |
//! | inodes, directory blocks, data | `placement` on `space` |
//! | bytes | `emission`, `groups`, `inodes`, `extents` |
//!
//! Why things are where they are is told in `docs/internals/ext4.md`.

mod directories;
mod emission;
mod extents;
mod geometry;
mod groups;
mod inodes;
mod nodes;
mod placement;
mod roster;
mod sizing;
mod space;
mod xattrs;

use crate::{
    format::inode::{INODE_FIRST, INODE_ROOT},
    hierarchy::{EntryId, EntryKind, Hierarchy},
};
pub use emission::BlockSink;
use extents::tree_blocks;
use geometry::Geometry;
use nodes::Nodes;
use placement::{Homes, Placed, Placer};
use roster::{Facts, Roster};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Context as _, Result};
pub use sizing::DISK_SIZE_BYTES_MIN;
use space::Space;
use std::collections::BTreeMap;

/// A file of so many blocks (256 KiB) has a home of its own; smaller ones stand with their directory.
const LARGE_FILE_BLOCKS: u64 = 64;

/// Directories of so many blocks have a home of their own.
const LARGE_DIRECTORY_BLOCKS: u64 = 16;

/// Inodes of a home cell: 64 KiB of inode table.
const INODE_CELL: u64 = 256;

/// Blocks of the smallest home cell for directories: 64 KiB.
const DIRECTORY_CELL: u64 = 16;

/// Blocks of the smallest home cell for data: 4 MiB.
const DATA_CELL: u64 = 1024;

/// Data of a directory or of a large file begins at a multiple of so many blocks (32 KiB): a file that grows by a block
/// mostly leaves its neighbours where they are.
const DATA_GRANULE: u64 = 8;

/// What a layout is made for, besides the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutOptions {
    /// The UUID of the file system. In no other block than the superblocks.
    pub uuid: [u8; 16],
    /// Length of the disk: 1 MiB to 16 TiB. Without it, the content and sensible slack decide.
    pub size_bytes: Option<u64>,
}

/// Where data of a file belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataExtent {
    /// The file.
    pub entry: EntryId,
    /// First block in the file.
    pub logical_block: u64,
    /// First block on the disk.
    pub physical_block: u64,
    /// Number of blocks, at least 1.
    pub len_blocks: u64,
}

/// The numbers of a layout, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the disk in bytes.
    pub size_bytes: u64,
    /// Blocks of the file system; fewer than the disk's where the end is too short for a group.
    pub blocks: u64,
    /// Blocks of file data.
    pub blocks_data: u64,
    /// Blocks of directories, extent trees, attributes and link targets.
    pub blocks_nodes: u64,
    /// Blocks of superblocks, descriptors (reserved ones too), bitmaps and inode tables.
    pub blocks_fixed: u64,
    /// Blocks of the journal; 0 for a disk below 8 MiB, which has none.
    pub blocks_journal: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
    /// Inodes of the file system.
    pub inodes: u64,
    /// Inodes in use, reserved ones included.
    pub inodes_used: u64,
    /// How far the file system can grow without a new layout, in bytes.
    pub growth_bytes_max: u64,
}

impl Summary {
    /// Whether there is a journal.
    pub fn has_journal(&self) -> bool {
        self.blocks_journal > 0
    }
}

/// Where everything is. See the [module](self).
pub struct Layout {
    options: LayoutOptions,
    size_bytes: u64,
    geometry: Geometry,
    /// Number of nodes.
    nodes: usize,
    facts: Facts,
    blocks_data: u64,
    /// Inode numbers in use, ascending; reserved ones have no node.
    inodes: Vec<(u32, Option<EntryId>)>,
    /// Inode numbers less one.
    inode_places: Placed,
    /// Flat numbers of directories, link targets and attribute blocks.
    node_places: Placed,
    /// Flat numbers of file data.
    data_places: Placed,
    /// Flat numbers of extent tree nodes.
    tree_places: Placed,
    /// Nodes with more extents than the inode holds, ascending.
    tree_nodes: Vec<EntryId>,
    /// Free blocks, ascending.
    free_runs: Vec<BlockRange>,
}

impl Layout {
    /// Gives everything its place. Cost: the entries times a logarithm, and the groups of the disk. `Invalid` for sizes
    /// below 1 MiB or above 16 TiB and for attributes that do not fit, naming the path; `NoSpace` when the size does
    /// not suffice, naming one that does.
    pub fn plan(hierarchy: &Hierarchy, options: &LayoutOptions) -> Result<Layout> {
        let nodes = Nodes::new(hierarchy);
        let roster = Roster::new(&nodes)?;
        let sizing = sizing::choose(&roster.need, options.size_bytes)?;
        let geometry = Geometry::new(sizing.outline);
        let inode_places = place_inodes(&nodes, &roster, &geometry)?;
        let mut space = Space::new(geometry.flat_len);
        space.take(geometry.journal());
        let node_places = place_node_blocks(&roster, &geometry, &mut space)?;
        let data_places = place_data(&nodes, &roster, &geometry, &mut space)?;
        let mut layout = Layout {
            options: *options,
            size_bytes: sizing.size_bytes,
            nodes: nodes.len(),
            inodes: Vec::new(),
            inode_places,
            node_places,
            data_places,
            tree_places: Placed::new(nodes.len()),
            tree_nodes: Vec::new(),
            free_runs: Vec::new(),
            facts: roster.facts,
            blocks_data: roster.need.data_blocks,
            geometry,
        };
        let order = roster.order;
        layout.place_trees(&nodes, &order, &mut space)?;
        layout.free_runs = space.runs().flat_map(|run| layout.geometry.physical(run)).collect();
        layout.free_runs.sort_unstable();
        layout.inodes = layout.inodes_in_use();
        Ok(layout)
    }

    /// Length of the disk in bytes: exactly what was asked for.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The numbers, for people.
    pub fn summary(&self) -> Summary {
        let outline = &self.geometry.outline;
        let blocks_free = self.free_runs.iter().map(|run| run.len).sum();
        let (blocks_fixed, blocks_journal) = (outline.fixed_blocks(), outline.journal_blocks);
        let declared = outline.blocks - blocks_fixed - blocks_journal - blocks_free;
        Summary {
            size_bytes: self.size_bytes,
            blocks: outline.blocks,
            blocks_data: self.blocks_data,
            blocks_nodes: declared - self.blocks_data,
            blocks_fixed,
            blocks_journal,
            blocks_free,
            inodes: outline.inodes(),
            inodes_used: self.inodes.len() as u64,
            growth_bytes_max: outline.growth_blocks_max() * BLOCK_SIZE_BYTES,
        }
    }

    /// Where the data of every file belongs, ascending by block of the disk. Data and metadata never overlap.
    /// `hierarchy` is the one the layout was planned for. Memory: 32 bytes per extent.
    pub fn data_extents(&self, hierarchy: &Hierarchy) -> Result<Vec<DataExtent>> {
        let nodes = Nodes::new(hierarchy);
        let mut all = Vec::new();
        for entry in hierarchy.entries().filter(|entry| hierarchy.kind(*entry) == EntryKind::File) {
            all.extend(self.extents_of(&nodes, entry)?.into_iter().map(|extent| DataExtent {
                entry,
                logical_block: extent.logical.into(),
                physical_block: extent.physical,
                len_blocks: extent.len.into(),
            }));
        }
        all.sort_unstable_by_key(|extent| extent.physical_block);
        Ok(all)
    }

    /// The inode number of an entry.
    pub fn inode_number(&self, entry: EntryId) -> u32 {
        self.inode_places.start(entry.0).map_or(0, |index| index + 1)
    }

    fn inodes_in_use(&self) -> Vec<(u32, Option<EntryId>)> {
        let reserved = (1..INODE_FIRST).filter(|number| *number != INODE_ROOT);
        let nodes = (0..self.nodes as u32).map(EntryId);
        let mut inodes: Vec<_> = reserved
            .map(|number| (number, None))
            .chain(nodes.map(|node| (self.inode_number(node), Some(node))))
            .collect();
        inodes.sort_unstable();
        inodes
    }

    /// Gives blocks to the extent trees that the inode cannot hold.
    fn place_trees(
        &mut self,
        nodes: &Nodes<'_>,
        order: &roster::Order,
        space: &mut Space,
    ) -> Result<()> {
        let mut weights = BTreeMap::new();
        for node in (0..nodes.len() as u32).map(EntryId) {
            if self.facts.node_blocks(node.0) + nodes.data_blocks(node) > 0 {
                let blocks = tree_blocks(self.extents_of(nodes, node)?.len() as u64);
                if blocks > 0 {
                    weights.insert(node.0, blocks);
                }
            }
        }
        let weight = |node: u32| weights.get(&node).copied().unwrap_or(0);
        let (homes, alone_from) = (directory_homes(&self.geometry), 1);
        let units = order.units(&weight, alone_from);
        Placer { space, homes, members: &order.members, weight: &weight, alone_from }
            .place(units, &mut self.tree_places)
            .context(|| "no room for the extent trees of fragmented files".into())?;
        self.tree_nodes = weights.into_keys().map(EntryId).collect();
        Ok(())
    }
}

/// Homes spread over twice the inodes in use.
fn place_inodes(nodes: &Nodes<'_>, roster: &Roster, geometry: &Geometry) -> Result<Placed> {
    let inodes = geometry.outline.inodes();
    let mut space = Space::new(inodes);
    let mut placed = Placed::new(nodes.len());
    space.take(BlockRange { start: 0, len: u64::from(INODE_FIRST) });
    placed.put(EntryId::ROOT.0, INODE_ROOT - 1);
    if let Some(node) = nodes.lost_and_found {
        placed.put(node.0, INODE_FIRST - 1);
    }
    let weight = |node: u32| {
        let node = EntryId(node);
        u64::from(node != EntryId::ROOT && nodes.lost_and_found != Some(node))
    };
    let window = BlockRange { start: 0, len: inodes };
    let homes =
        Homes { window, cell_len_min: INODE_CELL, spread_halves: 4, granule: 1, is_packed: true };
    let alone_from = u64::MAX;
    let units = roster.order.units(&weight, alone_from);
    Placer {
        space: &mut space,
        homes,
        members: &roster.order.members,
        weight: &weight,
        alone_from,
    }
    .place(units, &mut placed)
    .context(|| "inodes".into())?;
    Ok(placed)
}

/// Homes spread over twice the blocks needed, within the zones while they last.
fn directory_homes(geometry: &Geometry) -> Homes {
    Homes {
        window: geometry.zones,
        cell_len_min: DIRECTORY_CELL,
        spread_halves: 4,
        granule: 1,
        is_packed: true,
    }
}

fn place_node_blocks(roster: &Roster, geometry: &Geometry, space: &mut Space) -> Result<Placed> {
    let weight = |node: u32| roster.facts.node_blocks(node);
    let alone_from = LARGE_DIRECTORY_BLOCKS;
    let units = roster.order.units(&weight, alone_from);
    let mut placed = Placed::new(roster.facts.len());
    let homes = directory_homes(geometry);
    Placer { space, homes, members: &roster.order.members, weight: &weight, alone_from }
        .place(units, &mut placed)
        .context(|| "directory blocks".into())?;
    Ok(placed)
}

/// Homes spread over one and a half times the blocks needed, as far as the disk goes.
fn place_data(
    nodes: &Nodes<'_>,
    roster: &Roster,
    geometry: &Geometry,
    space: &mut Space,
) -> Result<Placed> {
    let weight = |node: u32| nodes.data_blocks(EntryId(node));
    let len = geometry.data.len - geometry.outline.journal_blocks;
    let window = BlockRange { start: geometry.data.start, len };
    let homes = Homes {
        window,
        cell_len_min: DATA_CELL,
        spread_halves: 3,
        granule: DATA_GRANULE,
        is_packed: false,
    };
    let mut placed = Placed::new(nodes.len());
    let alone_from = LARGE_FILE_BLOCKS;
    let units = roster.order.units(&weight, alone_from);
    Placer { space, homes, members: &roster.order.members, weight: &weight, alone_from }
        .place(units, &mut placed)
        .context(|| "data blocks".into())?;
    Ok(placed)
}
