//! The places of inodes, directory blocks, data and extent trees: what is placed where, and how far apart.

use super::{
    Layout,
    extents::tree_blocks,
    nodes::Nodes,
    placement::{Homes, Placed, Placer},
    roster::Order,
    space::Space,
};
use crate::{
    format::inode::{INODE_FIRST, INODE_ROOT},
    hierarchy::EntryId,
};
use silt_types::{BlockRange, Context as _, ErrorKind, Result};
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

/// How far things stand apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Density {
    /// So that small changes stay small.
    Spread,
    /// One behind the other, in few pieces: for a disk that is so full that extent trees would not find room otherwise.
    Dense,
}

impl Layout {
    /// Gives everything its place.
    pub(super) fn place_all(&mut self, nodes: &Nodes<'_>, order: &Order) -> Result<()> {
        self.place_inodes(nodes, order)?;
        self.inodes = self.inodes_in_use();
        match self.place_blocks(nodes, order, Density::Spread) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.place_blocks(nodes, order, Density::Dense)
            }
            done => done,
        }
    }

    /// Homes spread over twice the inodes in use.
    fn place_inodes(&mut self, nodes: &Nodes<'_>, order: &Order) -> Result<()> {
        let len = self.geometry.outline.inodes();
        let mut space = Space::new(len);
        space.take(BlockRange { start: 0, len: INODE_FIRST.into() });
        self.inode_places = Placed::new(nodes.len());
        self.inode_places.put(EntryId::ROOT.0, INODE_ROOT - 1);
        if let Some(node) = nodes.lost_and_found {
            self.inode_places.put(node.0, INODE_FIRST - 1);
        }
        let weight = |node: u32| {
            let node = EntryId(node);
            u64::from(node != EntryId::ROOT && nodes.lost_and_found != Some(node))
        };
        let homes = Homes {
            window: BlockRange { start: 0, len },
            cell_len_min: INODE_CELL,
            spread_halves: 4,
            granule: 1,
            is_packed: true,
        };
        Placer { space: &mut space, homes, order, weight: &weight, alone_from: u64::MAX }
            .place(&mut self.inode_places)
            .context(|| "no room for inodes".into())
    }

    fn inodes_in_use(&self) -> Vec<(u32, Option<EntryId>)> {
        let reserved = (1..INODE_FIRST).filter(|number| *number != INODE_ROOT);
        let nodes = (0..self.nodes as u32).map(EntryId);
        // Those without a name have no number.
        let nodes = nodes.filter(|node| self.inode_places.start(node.0).is_some());
        let mut inodes: Vec<_> = reserved
            .map(|number| (number, None))
            .chain(nodes.map(|node| (self.inode_number(node), Some(node))))
            .collect();
        inodes.sort_unstable();
        inodes
    }

    fn place_blocks(&mut self, nodes: &Nodes<'_>, order: &Order, density: Density) -> Result<()> {
        let mut space = Space::new(self.geometry.flat_len);
        space.take(self.geometry.journal());
        self.place_node_blocks(order, density, &mut space)?;
        self.place_data(nodes, order, density, &mut space)?;
        self.place_trees(nodes, order, density, &mut space)?;
        self.free_runs = space.runs().flat_map(|run| self.geometry.physical(run)).collect();
        self.free_runs.sort_unstable();
        Ok(())
    }

    /// Homes spread over twice the blocks needed, within the zones while they last.
    fn directory_homes(&self, density: Density) -> Homes {
        let window = self.geometry.zones;
        match density {
            Density::Dense => Homes::dense(window),
            Density::Spread => Homes {
                window,
                cell_len_min: DIRECTORY_CELL,
                spread_halves: 4,
                granule: 1,
                is_packed: true,
            },
        }
    }

    fn place_node_blocks(
        &mut self,
        order: &Order,
        density: Density,
        space: &mut Space,
    ) -> Result<()> {
        let homes = self.directory_homes(density);
        let weight = |node: u32| self.facts.node_blocks(node);
        self.node_places = Placed::new(self.nodes);
        Placer { space, homes, order, weight: &weight, alone_from: LARGE_DIRECTORY_BLOCKS }
            .place(&mut self.node_places)
            .context(|| "no room for directories".into())
    }

    /// Homes spread over one and a half times the blocks needed, as far as the disk goes.
    fn place_data(
        &mut self,
        nodes: &Nodes<'_>,
        order: &Order,
        density: Density,
        space: &mut Space,
    ) -> Result<()> {
        let len = self.geometry.data.len - self.geometry.outline.journal_blocks;
        let window = BlockRange { start: self.geometry.data.start, len };
        let homes = match density {
            Density::Dense => Homes::dense(window),
            Density::Spread => Homes {
                window,
                cell_len_min: DATA_CELL,
                spread_halves: 3,
                granule: DATA_GRANULE,
                is_packed: false,
            },
        };
        let weight = |node: u32| nodes.data_blocks(EntryId(node));
        self.data_places = Placed::new(self.nodes);
        Placer { space, homes, order, weight: &weight, alone_from: LARGE_FILE_BLOCKS }
            .place(&mut self.data_places)
            .context(|| "no room for data".into())
    }

    /// Gives blocks to the extent trees that the inode cannot hold.
    fn place_trees(
        &mut self,
        nodes: &Nodes<'_>,
        order: &Order,
        density: Density,
        space: &mut Space,
    ) -> Result<()> {
        let mut weights = BTreeMap::new();
        for node in nodes.all() {
            if self.facts.node_blocks(node.0) + nodes.data_blocks(node) > 0 {
                let blocks = tree_blocks(self.extents_of(nodes, node)?.len() as u64);
                if blocks > 0 {
                    weights.insert(node.0, blocks);
                }
            }
        }
        let weight = |node: u32| weights.get(&node).copied().unwrap_or(0);
        let homes = self.directory_homes(density);
        self.tree_places = Placed::new(self.nodes);
        Placer { space, homes, order, weight: &weight, alone_from: 1 }
            .place(&mut self.tree_places)
            .context(|| "no room for the extent trees of fragmented files".into())?;
        self.tree_nodes = weights.into_keys().map(EntryId).collect();
        Ok(())
    }
}
