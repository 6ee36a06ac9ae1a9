//! What two disks that come from a third share of what they changed: by fixed grids, computed from exported disks and
//! nothing of ours, and by the chunks that a store cut them into.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use silt_store::{ChunkSource as _, KeyContext, Store};
use silt_types::{ChunkId, DiskId};
use silt_volume::DiskMap;

use crate::Result;

const BLOCK_BYTES: usize = 4096;
/// Blocks in a cell of each grid.
pub const GRIDS: [usize; 3] = [1, 16, 32];
const CELL_BYTES_MAX: usize = BLOCK_BYTES * GRIDS[GRIDS.len() - 1];

type Hash = [u8; 16];
/// The name of a cell that is all zero, which no grid stores.
const ZERO: Hash = [0; 16];

/// Hashes of the cells of a raw disk, for each grid.
pub struct Cells([Vec<Hash>; GRIDS.len()]);

impl Cells {
    /// Reads a raw disk once.
    pub fn of(raw: &Path) -> Result<Self> {
        let (file, mut cells) = (File::open(raw)?, [const { Vec::new() }; GRIDS.len()]);
        let len = file.metadata()?.len();
        let mut bytes = vec![0; CELL_BYTES_MAX];
        for at in (0..len).step_by(CELL_BYTES_MAX) {
            let here = CELL_BYTES_MAX.min((len - at) as usize);
            file.read_exact_at(&mut bytes[..here], at)?;
            bytes[here..].fill(0);
            for (blocks, cells) in GRIDS.iter().zip(&mut cells) {
                cells.extend(bytes.chunks(blocks * BLOCK_BYTES).map(hash));
            }
        }
        Ok(Self(cells))
    }

    /// Blocks that hold something, and something else than in `base`.
    pub fn changed(&self, base: &Self) -> Vec<bool> {
        let blocks = self.0[0].iter().zip(&base.0[0]);
        blocks.map(|(now, before)| *now != ZERO && now != before).collect()
    }
}

fn hash(cell: &[u8]) -> Hash {
    let mut short = ZERO;
    if cell.iter().any(|byte| *byte != 0) {
        short.copy_from_slice(&blake3::hash(cell).as_bytes()[..ZERO.len()]);
    }
    short
}

/// What the second of two disks shares, and what both cost.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    /// For each block: whether the second disk changed it, and its content was there, in the base or the first disk.
    pub shared: Vec<bool>,
    /// Distinct chunks that both disks have and the base has not.
    pub chunks: u64,
    /// Bytes of chunks that neither the base nor the first disk has.
    pub bytes_added: u64,
}

impl Sharing {
    /// Bytes that the second disk changed and shares.
    pub fn bytes_shared(&self) -> u64 {
        self.shared.iter().filter(|shared| **shared).count() as u64 * BLOCK_BYTES as u64
    }
}

/// What a grid shares of the blocks that the second disk changed.
pub fn on_grid(
    grid: usize,
    base: &Cells,
    first: &Cells,
    second: &Cells,
    changed: &[bool],
) -> Sharing {
    let blocks = GRIDS[grid];
    let [base, first, second] = [base, first, second].map(|cells| &cells.0[grid]);
    let in_base: HashSet<&Hash> = base.iter().collect();
    let in_first: HashSet<&Hash> = first.iter().collect();
    let is_there = |cell: &Hash| in_base.contains(cell) || in_first.contains(cell);
    let block_is_shared =
        |(block, changed): (usize, &bool)| *changed && is_there(&second[block / blocks]);
    let is_new = |cell: &&Hash| **cell != ZERO && !in_base.contains(cell);
    let both: HashSet<&Hash> = first.iter().chain(second).filter(is_new).collect();
    let added: HashSet<&Hash> = second.iter().filter(|c| **c != ZERO && !is_there(c)).collect();
    Sharing {
        shared: changed.iter().enumerate().map(block_is_shared).collect(),
        chunks: both.len() as u64,
        bytes_added: (added.len() * blocks * BLOCK_BYTES) as u64,
    }
}

/// What the chunks of sealed disks share of the same blocks.
pub fn in_store(
    store: &Path,
    [base, first, second]: [DiskId; 3],
    changed: &[bool],
) -> Result<Sharing> {
    let store = Arc::new(Store::open(store, 16 << 20)?);
    let [in_base, in_first] = [base, first].map(|disk| chunks_of(&store, disk));
    let (in_base, in_first) = (in_base?, in_first?);
    let (mut new, mut added) = (HashSet::new(), HashMap::new());
    new.extend(in_first.difference(&in_base).copied());
    let mut sharing = Sharing { shared: vec![false; changed.len()], ..Sharing::default() };
    for extent in DiskMap::open(store.clone(), second)?.extents() {
        let (range, chunk) = extent.map(|extent| (extent.range, extent.place.chunk))?;
        if !in_base.contains(&chunk) {
            new.insert(chunk);
        }
        if in_base.contains(&chunk) || in_first.contains(&chunk) {
            let blocks = range.start as usize..(range.start + range.len) as usize;
            sharing.shared[blocks.clone()].copy_from_slice(&changed[blocks]);
        } else {
            added.insert(chunk, store.get(KeyContext::Content, &chunk)?.len() as u64);
        }
    }
    sharing.chunks = new.len() as u64;
    sharing.bytes_added = added.values().sum();
    Ok(sharing)
}

fn chunks_of(store: &Arc<Store>, disk: DiskId) -> Result<HashSet<ChunkId>> {
    let map = DiskMap::open(store.clone(), disk)?;
    let chunks = map.extents().map(|extent| extent.map(|extent| extent.place.chunk));
    Ok(chunks.collect::<silt_types::Result<_>>()?)
}
