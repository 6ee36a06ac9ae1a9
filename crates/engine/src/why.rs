//! What keeps something alive, and what would go with a name.

use crate::{collect::Walker, engine::Engine, seal::deltas_named};
use silt_store::{ChunkKind, Freed, FrozenDelta, Holder, Named, PackContent, Root, SnapshotRecord};
use silt_tree::{Met, Tree, TreeContent};
use silt_types::{ChunkId, DiskId, DiskName, Error, ErrorKind, PackId, Progress, Result};
use silt_volume::{DeltaReader, DiskMap};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// What something is, and who needs it.
#[derive(Clone, Debug)]
pub enum Why {
    /// A chunk.
    Chunk {
        /// Its id.
        chunk: ChunkId,
        /// What it is for.
        kind: ChunkKind,
        /// Bytes of content.
        bytes: u64,
        /// Bytes in its pack.
        bytes_stored: u64,
        /// The pack that has it.
        pack: PackId,
        /// Who needs it, by name.
        needed_by: Vec<Holder>,
    },
    /// A pack.
    Pack {
        /// Its id.
        pack: PackId,
        /// Its chunks.
        content: PackContent,
        /// Who needs one of them, by name.
        needed_by: Vec<Holder>,
    },
    /// A name.
    Name {
        /// The name.
        name: DiskName,
        /// `image`, `volume` or `snapshot`.
        kind: &'static str,
        /// What goes with it.
        freed: WouldFree,
    },
}

/// What nothing would need any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WouldFree {
    /// Chunks, of which a collection gives the space back.
    pub chunks: Freed,
    /// What deltas take on disk, whose space is free at once.
    pub delta_bytes: u64,
}

/// What is meant by a word.
enum Meant {
    Chunk(ChunkId),
    Pack(PackId),
}

impl Engine {
    /// What `word` is, and what keeps it: the id of a chunk or a pack, or a name, which comes first. `NotFound` if it is none of
    /// them. Costs the nodes of every map and tree, each once.
    pub fn why(&self, word: &str, progress: &dyn Progress) -> Result<Why> {
        let id = match (word.parse(), word.parse()) {
            (Ok(chunk), _) => Some(Meant::Chunk(chunk)),
            (_, Ok(pack)) => Some(Meant::Pack(pack)),
            _ => None,
        };
        let named = word.parse::<DiskName>().and_then(|name| Ok((self.find(&name)?, name)));
        match (named, id) {
            (Ok((named, name)), _) => {
                let kind = named.kind();
                let freed = self.would_free(&[(name.clone(), named)], progress)?;
                Ok(Why::Name { name, kind, freed })
            }
            (Err(_), Some(Meant::Chunk(chunk))) => self.why_chunk(chunk, progress),
            (Err(_), Some(Meant::Pack(pack))) => self.why_pack(pack, progress),
            (Err(error), None) => Err(error),
        }
    }

    /// What [`Engine::remove`] would remove, and what would go with it. Errors are the same, but nothing is locked and nobody
    /// is asked whether it is in use.
    pub fn would_remove(
        &self,
        names: &[DiskName],
        recursive: bool,
        progress: &dyn Progress,
    ) -> Result<(Vec<(DiskName, Named)>, WouldFree)> {
        let mut going = self.named_once(names, recursive)?;
        let freed = self.would_free(&going, progress)?;
        going.sort_by_key(|(name, _)| name.to_string());
        Ok((going, freed))
    }

    fn why_chunk(&self, chunk: ChunkId, progress: &dyn Progress) -> Result<Why> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no chunk {chunk}"));
        let place = self.store.place_of(&chunk)?.ok_or_else(missing)?;
        let unknown = || Error::corrupt(format!("chunk {chunk} has an unknown kind"));
        Ok(Why::Chunk {
            chunk,
            kind: ChunkKind::from_u8(place.entry.kind).ok_or_else(unknown)?,
            bytes: place.entry.len.into(),
            bytes_stored: place.entry.stored_len.into(),
            pack: place.pack,
            needed_by: self.holders_of(&[chunk].into(), progress)?,
        })
    }

    fn why_pack(&self, pack: PackId, progress: &dyn Progress) -> Result<Why> {
        let (content, chunks) = self.store.pack_content(pack)?;
        Ok(Why::Pack { pack, content, needed_by: self.holders_of(&chunks, progress)? })
    }

    /// Who needs one of these chunks. A root that cannot be read is an error.
    fn holders_of(
        &self,
        wanted: &HashSet<ChunkId>,
        progress: &dyn Progress,
    ) -> Result<Vec<Holder>> {
        let _lease = self.store.lease()?;
        progress.begin("walking what is needed", 0);
        let (mut of_maps, mut of_trees) = (HashMap::new(), HashMap::new());
        let mut met: HashMap<Root, bool> = HashMap::new();
        let mut holders = Vec::new();
        for (root, holder) in self.store.roots()? {
            let found = match met.get(&root) {
                Some(found) => *found,
                None => self.reaches(&root, wanted, &mut of_maps, &mut of_trees)?,
            };
            met.insert(root, found);
            if found {
                holders.push(holder);
            }
        }
        holders.sort();
        holders.dedup();
        Ok(holders)
    }

    fn reaches(
        &self,
        root: &Root,
        wanted: &HashSet<ChunkId>,
        of_maps: &mut HashMap<ChunkId, bool>,
        of_trees: &mut HashMap<ChunkId, bool>,
    ) -> Result<bool> {
        let mut map_reaches = |disk: DiskId| {
            DiskMap::open(Arc::new(self.store.clone()), disk)?.reaches(wanted, of_maps)
        };
        match root {
            Root::Disk(disk) => map_reaches(*disk),
            Root::Tree(tree) => {
                let mut is_met = |met: Met<'_>| match met {
                    Met::Node(node) => Ok(wanted.contains(node)),
                    Met::Content(_, TreeContent::Chunks(ids)) => {
                        Ok(ids.iter().any(|id| wanted.contains(id)))
                    }
                    Met::Content(size_bytes, TreeContent::Map(root)) => {
                        map_reaches(DiskId { root: *root, size_bytes })
                    }
                };
                Tree::new(&self.store, *tree).reaches(of_trees, &mut is_met)
            }
        }
    }

    fn would_free(
        &self,
        going: &[(DiskName, Named)],
        progress: &dyn Progress,
    ) -> Result<WouldFree> {
        let listing = self.list()?;
        let (mut images, mut volumes, mut snapshots) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        for (_, named) in going {
            match named {
                Named::Image(image) => drop(images.insert(image.name.clone())),
                Named::Volume(volume) => {
                    volumes.insert(volume.id);
                    let of_volume = |snapshot: &&SnapshotRecord| snapshot.volume == volume.id;
                    let own = listing.snapshots.iter().filter(of_volume);
                    snapshots.extend(own.map(|snapshot| snapshot.id));
                }
                Named::Snapshot(snapshot) => drop(snapshots.insert(snapshot.id)),
            }
        }
        let goes = |holder: &Holder| match holder {
            Holder::Image(name) => images.contains(name),
            Holder::Volume(id, _) => volumes.contains(id),
            Holder::Snapshot(id, _) => snapshots.contains(id),
            Holder::Reader(_) | Holder::Grave => false,
        };
        let chunks = self.store.would_free(&goes, &Walker::new(self), progress)?;
        let (mut staying, mut deltas) = (listing.clone(), Vec::new());
        staying.volumes.retain(|volume| !volumes.contains(&volume.id));
        staying.snapshots.retain(|snapshot| !snapshots.contains(&snapshot.id));
        for volume in listing.volumes.iter().filter(|volume| volumes.contains(&volume.id)) {
            deltas.push(FrozenDelta { delta: volume.own, home: volume.id });
            deltas.extend(&volume.frozen);
        }
        for snapshot in listing.snapshots.iter().filter(|kept| snapshots.contains(&kept.id)) {
            deltas.extend(&snapshot.frozen);
        }
        let (needed, mut counted) = (deltas_named(&staying), HashSet::new());
        deltas.retain(|of| !needed.contains(&of.delta) && counted.insert(of.delta));
        let mut delta_bytes = 0;
        for FrozenDelta { delta, home } in deltas {
            let folder = self.store.paths().delta(home, delta);
            if folder.exists() {
                delta_bytes += DeltaReader::open(&folder)?.allocated_bytes()?;
            }
        }
        Ok(WouldFree { chunks, delta_bytes })
    }
}
