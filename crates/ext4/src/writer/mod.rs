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
//! | inodes, directory blocks, data | `places` by `placement` on `space` |
//! | bytes | `emission`, `groups`, `inodes`, `extents` |
//!
//! Why things are where they are is told in `docs/internals/ext4.md`.

mod directories;
mod emission;
mod extents;
pub(crate) mod geometry;
pub(crate) mod groups;
mod inodes;
mod nodes;
mod placement;
mod places;
mod roster;
mod sizing;
mod space;
mod xattrs;

use crate::hierarchy::{EntryId, EntryKind, Hierarchy};
pub use emission::BlockSink;
use geometry::Geometry;
use nodes::Nodes;
use placement::Placed;
use roster::{Facts, Roster};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Result};
pub use sizing::DISK_SIZE_BYTES_MIN;

/// Version of the rules by which a layout follows from a hierarchy and options. To be raised with every change by which
/// an image would get other bytes than before: disks laid out under one version are taken over for equal hierarchies.
pub const LAYOUT_VERSION: u32 = 1;

/// What a layout is made for, besides the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutOptions {
    /// The UUID of the file system. In no other block than the superblocks.
    pub uuid: [u8; 16],
    /// Length of the disk: 1 MiB to 16 TiB. Without it, the content and sensible slack decide.
    pub size_bytes: Option<u64>,
}

/// Where data of a file belongs. Files and disks of 4 KiB blocks are as long as 32 bits count, and there are many of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataExtent {
    /// The file.
    pub entry: EntryId,
    /// First block in the file.
    pub logical_block: u32,
    /// First block on the disk.
    pub physical_block: u32,
    /// Number of blocks, at least 1.
    pub len_blocks: u32,
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
    /// All but the length of the disk, in the order of the fields.
    pub fn numbers(&self) -> [u64; 9] {
        [
            self.blocks,
            self.blocks_data,
            self.blocks_nodes,
            self.blocks_fixed,
            self.blocks_journal,
            self.blocks_free,
            self.inodes,
            self.inodes_used,
            self.growth_bytes_max,
        ]
    }

    /// The same again.
    pub fn from_numbers(size_bytes: u64, numbers: [u64; 9]) -> Summary {
        let [blocks, blocks_data, blocks_nodes, blocks_fixed, blocks_journal, ..] = numbers;
        let [.., blocks_free, inodes, inodes_used, growth_bytes_max] = numbers;
        Summary {
            size_bytes,
            blocks,
            blocks_data,
            blocks_nodes,
            blocks_fixed,
            blocks_journal,
            blocks_free,
            inodes,
            inodes_used,
            growth_bytes_max,
        }
    }

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
        let mut layout = Layout {
            options: *options,
            size_bytes: sizing.size_bytes,
            geometry: Geometry::new(sizing.outline),
            nodes: nodes.len(),
            facts: roster.facts,
            blocks_data: roster.need.data_blocks,
            inodes: Vec::new(),
            inode_places: Placed::new(0),
            node_places: Placed::new(0),
            data_places: Placed::new(0),
            tree_places: Placed::new(0),
            tree_nodes: Vec::new(),
            free_runs: Vec::new(),
        };
        layout.place_all(&nodes, &roster.order)?;
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
    /// `hierarchy` is the one the layout was planned for. Memory: 16 bytes per extent.
    pub fn data_extents(&self, hierarchy: &Hierarchy) -> Result<Vec<DataExtent>> {
        let nodes = Nodes::new(hierarchy);
        let mut all = Vec::new();
        for entry in hierarchy.entries().filter(|entry| hierarchy.kind(*entry) == EntryKind::File) {
            all.extend(self.extents_of(&nodes, entry)?.into_iter().map(|extent| DataExtent {
                entry,
                logical_block: extent.logical,
                physical_block: extent.physical as u32,
                len_blocks: extent.len,
            }));
        }
        all.sort_unstable_by_key(|extent| extent.physical_block);
        Ok(all)
    }

    /// The inode number of an entry.
    pub fn inode_number(&self, entry: EntryId) -> u32 {
        self.inode_places.start(entry.0).map_or(0, |index| index + 1)
    }
}
