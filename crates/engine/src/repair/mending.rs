//! Finding chunks again that the store has lost: what every name needs is walked, and what is missing is taken from other stores
//! that have it.

use crate::{collect::walk_tree_contents, engine::Engine};
use silt_store::{Chunk, ChunkKind, ChunkSource, Ingest, KeyContext, Listing, Root, Store};
use silt_types::{ChunkId, DiskId, Error, Progress, Result};
use silt_volume::{DiskMap, MapVisitor};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A store, and where to look for what it lost. What is found there is stored again as it is read.
struct Mending {
    store: Store,
    others: Vec<Box<dyn ChunkSource>>,
    ingest: Ingest,
    kinds: HashMap<ChunkId, ChunkKind>,
    looked_for: Mutex<HashSet<ChunkId>>,
    restored: AtomicU64,
}

impl Engine {
    /// Takes what names need and the store has not got from `others`. `lost` says of what kind chunks were. Answers how many were
    /// found. Costs a look-up for everything that every name needs.
    pub(super) fn restore_from(
        &self,
        others: Vec<Box<dyn ChunkSource>>,
        lost: &[(ChunkId, ChunkKind)],
        progress: &dyn Progress,
    ) -> Result<u64> {
        progress.begin("looking for what is lost", 0);
        let mending = Arc::new(Mending {
            store: self.store.clone(),
            others,
            ingest: self.store.ingest(silt_store::Compression::default())?,
            kinds: lost.iter().copied().collect(),
            looked_for: Mutex::default(),
            restored: AtomicU64::new(0),
        });
        let Listing { images, volumes, snapshots } = self.list()?;
        let mut roots: HashSet<Root> = images.iter().flat_map(|image| image.roots()).collect();
        roots.extend(volumes.iter().map(|volume| volume.root()));
        roots.extend(snapshots.iter().map(|snapshot| snapshot.root()));
        let mut nodes = HashSet::new();
        for root in roots {
            // What is still missing, verification tells.
            let _ = match root {
                Root::Disk(disk) => mending.walk(disk, ChunkKind::DiskData, &mut nodes),
                Root::Tree(tree) => {
                    let mut maps = Vec::new();
                    let walked = walk_tree_contents(
                        mending.as_ref(),
                        tree,
                        |_| true,
                        |chunk| mending.must_have(chunk, ChunkKind::FileData),
                        |map| {
                            maps.push(map);
                            Ok(())
                        },
                    );
                    let mut maps = maps.into_iter();
                    walked.and(
                        maps.try_for_each(|map| mending.walk(map, ChunkKind::FileData, &mut nodes)),
                    )
                }
            };
        }
        mending.ingest.flush()?;
        Ok(mending.restored.load(Relaxed))
    }
}

impl Mending {
    fn walk(
        self: &Arc<Self>,
        disk: DiskId,
        kind: ChunkKind,
        nodes: &mut HashSet<(u64, ChunkId)>,
    ) -> Result<()> {
        let map = DiskMap::open(self.clone(), disk)?;
        map.walk(&mut Needing { mending: self, kind, size_bytes: disk.size_bytes, nodes })
    }

    fn must_have(&self, chunk: &ChunkId, kind: ChunkKind) {
        if !matches!(self.store.contains(KeyContext::Content, chunk), Ok(true)) {
            let _ = self.find(kind, chunk);
        }
    }

    /// A chunk from one of the other places, stored again.
    fn find(&self, kind: ChunkKind, id: &ChunkId) -> Option<Chunk> {
        let found = self.others.iter().find_map(|other| other.get(kind.context(), id).ok())?;
        let kind = self.kinds.get(id).copied().unwrap_or(kind);
        let mut looked_for = self.looked_for.lock().unwrap_or_else(PoisonError::into_inner);
        if looked_for.insert(*id) {
            silt_store::ChunkSink::put(&self.ingest, kind, &found).ok()?;
            self.restored.fetch_add(1, Relaxed);
        }
        Some(found)
    }
}

impl ChunkSource for Mending {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        let kind = match context {
            KeyContext::Content => ChunkKind::DiskData,
            KeyContext::MapNode => ChunkKind::MapNode,
            KeyContext::TreeNode => ChunkKind::TreeNode,
        };
        self.store.get(context, id).or_else(|error| self.find(kind, id).ok_or(error))
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.store.get_hot(context, id)
    }
}

/// Goes through a map, and looks for what it names.
struct Needing<'a> {
    mending: &'a Mending,
    kind: ChunkKind,
    size_bytes: u64,
    /// Nodes that were gone through, by the length of the disk.
    nodes: &'a mut HashSet<(u64, ChunkId)>,
}

impl MapVisitor for Needing<'_> {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.nodes.insert((self.size_bytes, *node))
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, chunk: &ChunkId) {
        self.mending.must_have(chunk, self.kind);
    }

    fn unreadable(&mut self, _node: &ChunkId, _error: Error) -> Result<()> {
        Ok(())
    }
}
