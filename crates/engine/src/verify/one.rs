//! Verification of one name: everything that it needs is read and hashed, and nothing else.

use super::{Needs, VerifyReport, report_findings};
use crate::{collect::walk_tree_contents, engine::Engine};
use silt_store::{ChunkSource, Findings, KeyContext, Named, Root, Sample};
use silt_types::{ChunkId, DiskId, DiskName, Error, Progress, Result};
use silt_volume::{DiskMap, MapVisitor};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

impl Engine {
    /// Costs reading what the name needs, and the id of each chunk in memory.
    pub(super) fn verify_one(
        &self,
        name: &DiskName,
        sample: &Sample,
        progress: &dyn Progress,
    ) -> Result<VerifyReport> {
        // Kept until it is read, whatever becomes of the name.
        let _lease = self.store.lease()?;
        let named = self.find(name)?;
        let (roots, title) = match &named {
            Named::Image(image) => (image.roots(), format!("image {name}")),
            Named::Volume(volume) => (vec![volume.root()], format!("volume {name}")),
            Named::Snapshot(snapshot) => (vec![snapshot.root()], format!("snapshot {name}")),
        };
        let chunks = self.content_of(&roots);
        let chunks: Vec<_> = chunks.into_iter().filter(|chunk| sample.has(chunk)).collect();
        let (findings, mut needs) = (self.read_all(&chunks, progress), Needs::default());
        for root in &roots {
            match root {
                Root::Disk(disk) => self.walk_disk(&title, *disk, &findings, &mut needs),
                Root::Tree(tree) => self.walk_tree(&title, *tree, &findings, &mut needs),
            }
        }
        let (chunks, bytes) = (findings.chunks, findings.bytes);
        let mut report = VerifyReport { chunks, bytes, ..VerifyReport::default() };
        match &named {
            Named::Image(_) => report.images = 1,
            Named::Volume(volume) => {
                report.volumes = 1;
                self.check_files_of_volume(volume, &mut report)?;
            }
            Named::Snapshot(snapshot) => {
                report.snapshots = 1;
                self.check_files_of_snapshot(&title, snapshot, &mut report);
            }
        }
        report_findings(&mut report, findings, &needs);
        Ok(report)
    }

    /// The content that roots name, as far as they can be read: what cannot is for who walks them next.
    fn content_of(&self, roots: &[Root]) -> HashSet<ChunkId> {
        let source = Arc::new(self.store.walking_reader());
        let mut content = Content::default();
        let walk = |disk: DiskId, content: &mut Content| {
            let map = DiskMap::open(source.clone(), disk);
            let _ = map.and_then(|map| map.walk(content));
        };
        for root in roots {
            match root {
                Root::Disk(disk) => walk(*disk, &mut content),
                Root::Tree(tree) => {
                    let mut maps = Vec::new();
                    let _ = walk_tree_contents(
                        source.as_ref(),
                        *tree,
                        |_| true,
                        |chunk| {
                            content.chunks.insert(*chunk);
                        },
                        |disk| {
                            maps.push(disk);
                            Ok(())
                        },
                    );
                    maps.into_iter().for_each(|map| walk(map, &mut content));
                }
            }
        }
        content.chunks
    }

    /// Reads and hashes chunks with every core.
    fn read_all(&self, chunks: &[ChunkId], progress: &dyn Progress) -> Findings {
        progress.begin("verifying", 0);
        let source = self.store.separate_reader(0);
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let bad = Mutex::new(HashSet::new());
        let worker = || {
            while let Some(chunk) = chunks.get(next.fetch_add(1, Relaxed)) {
                match source.get(KeyContext::Content, chunk) {
                    Ok(read) => {
                        bytes.fetch_add(read.len() as u64, Relaxed);
                        progress.advance(read.len() as u64);
                    }
                    // What it is that is wrong, the walk tells.
                    Err(_) => {
                        bad.lock().unwrap_or_else(PoisonError::into_inner).insert(*chunk);
                    }
                }
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            (0..threads).for_each(|_| drop(scope.spawn(worker)));
        });
        Findings {
            chunks: chunks.len() as u64,
            bytes: bytes.into_inner(),
            bad_chunks: bad.into_inner().unwrap_or_else(PoisonError::into_inner),
            ..Findings::default()
        }
    }
}

/// Gathers the content that maps name.
#[derive(Default)]
struct Content {
    chunks: HashSet<ChunkId>,
    nodes: HashSet<ChunkId>,
}

impl MapVisitor for Content {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.nodes.insert(*node)
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, chunk: &ChunkId) {
        self.chunks.insert(*chunk);
    }

    fn unreadable(&mut self, _node: &ChunkId, _error: Error) -> Result<()> {
        Ok(())
    }
}
