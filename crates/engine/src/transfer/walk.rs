//! The walk: everything that an item needs and a target has not, handed over in batches by every core, in an order in which a
//! chunk comes behind all that it names.

use super::{
    items::Item,
    known::{Known, Part},
};
use crate::order::{Order, Turn};
use silt_store::{ChunkReader, ChunkSource, KeyContext};
use silt_tree::{NewInTree, TreeContent, for_each_new};
use silt_types::{ChunkId, Context as _, DiskId, Error, Result, TreeId};
use silt_volume::{DiskMap, MapClimber, NodePlace};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// Chunks handed over at a time: 4 MiB of the longest, of which each thread holds one batch.
const BATCH_CHUNKS: usize = 64;

/// A chunk that is needed.
pub(super) type Needed = (KeyContext, ChunkId);

/// Where what is transferred goes.
pub(super) trait Target: Sync {
    /// Whether a chunk is still to be handed over, told in the order of the walk: of a node before it is read; false leaves out
    /// what is below it, too. A chunk may be asked about again, and handed over again if that is answered by true.
    fn wants(&self, id: &ChunkId, place: &At) -> bool;

    /// Takes chunks, from many threads.
    fn take(&self, batch: &[Needed], source: &ChunkReader, place: &Place<'_>) -> Result<()>;
}

/// Where a chunk is needed. A node that is sound at one place is so at every equal one, and nothing is said of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    /// Content of a disk or a file.
    Content,
    /// In a map.
    Map(NodePlace),
    /// In a tree: by level and first path, nothing for the root.
    Tree(Option<(u8, Vec<u8>)>),
}

/// The nodes that a walk has passed, each with all below it: about 60 bytes for each, and the path of one of a tree.
#[derive(Default)]
pub(super) struct Passed(Mutex<HashSet<(ChunkId, At)>>);

impl Passed {
    /// Nothing counts as passed: what was being passed when a walk failed may lack what is below it.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Content is wanted again and again, a node once.
    pub(super) fn wants(&self, id: &ChunkId, place: &At) -> bool {
        let mut passed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *place == At::Content || passed.insert((*id, place.clone()))
    }
}

/// The place of a batch in the order of the walk.
pub(super) struct Place<'a> {
    turn: Turn<'a>,
    failed: &'a Mutex<Option<Error>>,
}

impl Place<'_> {
    /// Waits until every batch before this one was taken. An error if one of them was not.
    pub(super) fn wait(&self) -> Result<()> {
        self.turn.wait();
        stopped(self.failed)
    }
}

/// The first error is the one that is told.
fn stopped(failed: &Mutex<Option<Error>>) -> Result<()> {
    match *failed.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(_) => Err(Error::internal("the transfer was stopped by another error")),
        None => Ok(()),
    }
}

/// From where to where.
pub(super) struct Walk<'a> {
    pub(super) source: Arc<ChunkReader>,
    pub(super) target: &'a dyn Target,
}

impl Walk<'_> {
    /// Hands everything over that an item needs, but for what is known to be there; afterwards that is known, too.
    pub(super) fn item(&self, item: &Item, known: &mut Known) -> Result<()> {
        for part in known.parts_of(item) {
            let root = part.root();
            if !known.has(&root) {
                self.part(&part, known.source.as_ref())?;
                known.add(root);
            }
        }
        Ok(())
    }

    fn part(&self, part: &Part, known: Option<&Arc<ChunkReader>>) -> Result<()> {
        let (order, failed) = (Order::default(), Mutex::new(None));
        let walked = thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let (batches, taken) = sync_channel(threads);
            let taken = Arc::new(Mutex::new(taken));
            for _ in 0..threads {
                let (taken, order, failed) = (taken.clone(), &order, &failed);
                scope.spawn(move || self.work(&taken, order, failed));
            }
            let mut walker = Walker {
                target: self.target,
                source: &self.source,
                known,
                batches,
                batch: Vec::with_capacity(BATCH_CHUNKS),
                number: 0,
                failed: &failed,
            };
            let walked = match part {
                Part::Disk(disk, before) => walker.disk(*disk, before),
                Part::Tree(tree, before) => walker.tree(*tree, *before),
            };
            walked.and_then(|()| walker.send())
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => walked,
        }
    }

    fn work(
        &self,
        batches: &Mutex<Receiver<(u64, Vec<Needed>)>>,
        order: &Order,
        failed: &Mutex<Option<Error>>,
    ) {
        loop {
            let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((number, batch)) = next else { return };
            let place = Place { turn: order.turn(number), failed };
            let taken =
                stopped(failed).and_then(|()| self.target.take(&batch, &self.source, &place));
            if let Err(error) = taken {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }
}

/// Finds what is needed and fills batches with it.
struct Walker<'a> {
    target: &'a dyn Target,
    source: &'a Arc<ChunkReader>,
    known: Option<&'a Arc<ChunkReader>>,
    batches: SyncSender<(u64, Vec<Needed>)>,
    batch: Vec<Needed>,
    number: u64,
    failed: &'a Mutex<Option<Error>>,
}

impl Walker<'_> {
    fn disk(&mut self, disk: DiskId, before: &[DiskId]) -> Result<()> {
        let map = DiskMap::open(self.source.clone(), disk)?;
        let mut known = Vec::new();
        if let Some(source) = self.known {
            for disk in before {
                known.push(DiskMap::open(source.clone(), *disk)?);
            }
        }
        let walked = map.climb(&known, self);
        walked.context(|| format!("cannot transfer disk {disk}"))
    }

    fn tree(&mut self, tree: TreeId, before: Option<TreeId>) -> Result<()> {
        let source: &dyn ChunkSource = &**self.source;
        let known =
            self.known.zip(before).map(|(known, tree)| (&**known as &dyn ChunkSource, tree));
        let target = self.target;
        let mut enter = |node: &ChunkId, place: Option<(u8, &[u8])>| {
            target.wants(node, &At::Tree(place.map(|(level, path)| (level, path.to_vec()))))
        };
        let walked = for_each_new(known, source, tree, &mut enter, &mut |met| match met {
            NewInTree::Node(node) => self.push(KeyContext::TreeNode, node),
            NewInTree::Content(_, TreeContent::Chunks(chunks), _) => {
                let mut chunks = chunks.iter().filter(|chunk| **chunk != DiskId::ZERO_ROOT);
                chunks.try_for_each(|chunk| self.content(chunk))
            }
            NewInTree::Content(size_bytes, TreeContent::Map(root), before) => {
                let before = before.map(|(size_bytes, root)| DiskId { root, size_bytes });
                let before: Vec<_> = before.into_iter().collect();
                self.disk(DiskId { root: *root, size_bytes }, &before)
            }
        });
        walked.context(|| format!("cannot transfer tree {tree}"))
    }

    fn push(&mut self, context: KeyContext, id: &ChunkId) -> Result<()> {
        self.batch.push((context, *id));
        if self.batch.len() == BATCH_CHUNKS { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        stopped(self.failed)?;
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_CHUNKS));
        let sent = self.batches.send((self.number, batch));
        self.number += 1;
        sent.map_err(|_| Error::internal("the threads that transfer chunks ended"))
    }
}

impl MapClimber for Walker<'_> {
    fn enter(&mut self, node: &ChunkId, place: NodePlace) -> bool {
        self.target.wants(node, &At::Map(place))
    }

    fn content(&mut self, chunk: &ChunkId) -> Result<()> {
        match self.target.wants(chunk, &At::Content) {
            true => self.push(KeyContext::Content, chunk),
            false => Ok(()),
        }
    }

    fn node(&mut self, node: &ChunkId) -> Result<()> {
        self.push(KeyContext::MapNode, node)
    }
}
