//! Which names need what is damaged: a walk of their maps and trees.

use crate::engine::Engine;
use silt_store::{Findings, KeyContext};
use silt_tree::{Tree, TreeContent, TreeKind};
use silt_types::{ChunkId, DiskId, Error, Result, TreeId};
use silt_volume::{DiskMap, MapVisitor};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Which names need what is damaged.
#[derive(Default)]
pub(super) struct Needs {
    pub(super) damaged: BTreeMap<ChunkId, (String, BTreeSet<String>)>,
    /// Times that a need was found.
    count: u64,
    /// Nodes of maps of disks of a length that are whole with all that is below them, so that disks that share them, as a
    /// volume and its snapshots do, need not be walked for them again.
    sound: HashMap<u64, HashSet<ChunkId>>,
}

impl Needs {
    pub(super) fn add(&mut self, chunk: ChunkId, name: &str, what: String) {
        self.count += 1;
        self.damaged
            .entry(chunk)
            .or_insert_with(|| (what, BTreeSet::new()))
            .1
            .insert(name.to_owned());
    }
}

impl Engine {
    pub(super) fn walk_disk(
        &self,
        name: &str,
        disk: DiskId,
        findings: &Findings,
        needs: &mut Needs,
    ) {
        let sound = needs.sound.remove(&disk.size_bytes).unwrap_or_default();
        let before = needs.count;
        let mut visitor = Visitor { engine: self, name, findings, needs, sound, seen: Vec::new() };
        let walked = DiskMap::open(Arc::new(self.store.clone()), disk)
            .and_then(|map| map.walk(&mut visitor));
        let Visitor { mut sound, seen, .. } = visitor;
        if let Err(error) = walked {
            needs.add(disk.root, name, error.chain());
        }
        if needs.count > before {
            // Whoever else has them needs what is damaged, too, and is to be named.
            for node in &seen {
                sound.remove(node);
            }
        }
        needs.sound.insert(disk.size_bytes, sound);
    }

    pub(super) fn walk_tree(
        &self,
        name: &str,
        tree: TreeId,
        findings: &Findings,
        needs: &mut Needs,
    ) {
        let root = ChunkId::from_bytes(*tree.as_bytes());
        let mut maps = Vec::new();
        let walked = Tree::new(&self.store, tree).for_each_entry(|entry| {
            if let TreeKind::File { size_bytes, content } = entry.kind {
                match content {
                    TreeContent::Chunks(ids) => ids
                        .iter()
                        .filter(|id| **id != DiskId::ZERO_ROOT)
                        .for_each(|id| self.check_needed(id, name, findings, needs)),
                    TreeContent::Map(root) => maps.push(DiskId { root, size_bytes }),
                }
            }
            Ok(())
        });
        if let Err(error) = walked {
            needs.add(root, name, error.chain());
        }
        maps.into_iter().for_each(|map| self.walk_disk(name, map, findings, needs));
    }

    pub(super) fn check_needed(
        &self,
        chunk: &ChunkId,
        name: &str,
        findings: &Findings,
        needs: &mut Needs,
    ) {
        if findings.bad_chunks.contains(chunk) {
            needs.add(*chunk, name, format!("chunk {chunk} is damaged"));
            return;
        }
        match self.store.contains(KeyContext::Content, chunk) {
            Ok(true) => {}
            Ok(false) => {
                needs.add(*chunk, name, format!("chunk {chunk} is missing from the index"))
            }
            Err(error) => needs.add(*chunk, name, error.chain()),
        }
    }
}

struct Visitor<'a> {
    engine: &'a Engine,
    name: &'a str,
    findings: &'a Findings,
    needs: &'a mut Needs,
    /// Nodes that are whole as far as is known, with those of this walk.
    sound: HashSet<ChunkId>,
    /// Nodes of this walk.
    seen: Vec<ChunkId>,
}

impl MapVisitor for Visitor<'_> {
    fn enter(&mut self, node: &ChunkId) -> bool {
        let is_new = self.sound.insert(*node);
        if is_new {
            self.seen.push(*node);
        }
        is_new
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, chunk: &ChunkId) {
        self.engine.check_needed(chunk, self.name, self.findings, self.needs);
    }

    fn unreadable(&mut self, node: &ChunkId, error: Error) -> Result<()> {
        self.needs.add(*node, self.name, error.chain());
        Ok(())
    }
}
