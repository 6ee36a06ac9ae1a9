//! Collecting: what the store does, by what is known here of maps, trees, deltas and servers.

use crate::{control::RunFolder, engine::Engine, remove::remove_folder, seal::deltas_named};
use silt_format::RootRecord;
use silt_store::{
    ChunkReader, ChunkSource, CollectRequest, Collected, Listing, Marks, Root, RootWalker,
    VolumeRecord,
};
use silt_tree::{Tree, TreeContent};
use silt_types::{
    ChunkId, Context as _, DeltaId, DiskId, Error, ErrorKind, Progress, Result, SnapshotId, TreeId,
    VolumeId,
};
use silt_volume::{DiskMap, MapVisitor, read_volume_header};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    sync::{Arc, OnceLock},
};

impl Engine {
    /// Removes what nothing needs: chunks, and files that killed commands left. Everything else goes on beside it. See
    /// [`silt_store::Store::collect`] for errors and cost.
    pub fn collect(&self, request: &CollectRequest, progress: &dyn Progress) -> Result<Collected> {
        if request.dry_run {
            return self.store.collect(request, &Walker::new(self), progress);
        }
        // What takes no space to remove goes first: the rest may need some.
        silt_image::drop_dead_caches(&self.store)?;
        self.remove_passing_leftovers()?;
        self.remove_dead_folders()?;
        let collected = self.store.collect(request, &Walker::new(self), progress)?;
        silt_image::drop_dead_caches(&self.store)?;
        Ok(collected)
    }

    /// Removes every cache: what is known of folders and layers that were read, and layers that were fetched. The next builds
    /// read and fetch again.
    pub fn drop_caches(&self) -> Result<()> {
        silt_image::drop_caches(&self.store)
    }

    /// Folders of volumes and servers that nothing names any more: commands that were killed leave them.
    fn remove_dead_folders(&self) -> Result<()> {
        let paths = self.store.paths();
        let names = names_in(&paths.volumes())?;
        // After the folders: the record of a volume is there before its folder.
        let listing = self.list()?;
        let named = deltas_named(&listing);
        let frozen = listing.volumes.iter().flat_map(|volume| &volume.frozen);
        let kept = listing.snapshots.iter().flat_map(|snapshot| &snapshot.frozen);
        let homes: HashSet<VolumeId> = frozen.chain(kept).map(|frozen| frozen.home).collect();
        let volumes: HashMap<_, _> =
            listing.volumes.iter().map(|volume| (volume.id, volume)).collect();
        for name in names {
            let Ok(id) = name.parse::<VolumeId>() else { continue };
            match volumes.get(&id) {
                // Whoever is served is not disturbed without need: that would cost a wait for each.
                Some(_) if !has_dead(&paths.volume(id), &named)? => {}
                // Whoever is at it now may be ahead of the catalog.
                Some(volume) => match self.remove_dead_deltas_of(volume) {
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    // It was removed meanwhile, with its folder.
                    Err(_)
                        if self
                            .volume_now(volume)
                            .is_err_and(|e| e.kind() == ErrorKind::NotFound) => {}
                    other => other?,
                },
                None if homes.contains(&id) => {
                    remove_dead_deltas(&paths.volume(id), &named)?;
                }
                None => remove_folder(&paths.volume(id))?,
            }
        }
        for name in names_in(&paths.run())? {
            RunFolder::remove_if_dead(paths, &paths.run().join(name))?;
        }
        Ok(())
    }

    /// `Busy` if somebody else is at the volume.
    fn remove_dead_deltas_of(&self, volume: &VolumeRecord) -> Result<()> {
        let _alone = self.turn_alone(volume)?;
        self.reconciled(volume)?;
        let named = deltas_named(&self.list()?);
        remove_dead_deltas(&self.store.paths().volume(volume.id), &named)
    }
}

/// Whether something in the folder of a volume is a delta that nothing names, or one that was being made.
fn has_dead(folder: &Path, named: &HashSet<DeltaId>) -> Result<bool> {
    Ok(names_in(folder)?.iter().any(|name| is_dead(name, named)))
}

fn remove_dead_deltas(folder: &Path, named: &HashSet<DeltaId>) -> Result<()> {
    let names = names_in(folder)?;
    let mut dead = names.iter().filter(|name| is_dead(name, named));
    dead.try_for_each(|name| remove_folder(&folder.join(name)))
}

fn is_dead(name: &str, named: &HashSet<DeltaId>) -> bool {
    // One that was being made has more to its name.
    let id = name.split('.').next().unwrap_or_default();
    id.parse().is_ok_and(|delta| name != id || !named.contains(&delta))
}

/// Nothing, if the folder went meanwhile.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.context(|| format!("cannot list {}", folder.display()))?,
    };
    let names = listed.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into()));
    names.collect::<io::Result<_>>().context(|| format!("cannot list {}", folder.display()))
}

/// What maps and trees reach, and which root records matter.
pub(crate) struct Walker<'a> {
    engine: &'a Engine,
    source: Arc<ChunkReader>,
    known: OnceLock<Result<Known, String>>,
}

/// What root records are about.
struct Known {
    /// Images by disk and time.
    images: HashMap<(DiskId, i64), usize>,
    snapshots: HashMap<SnapshotId, usize>,
    /// Deltas that headers of volumes have, which are behind the catalog where those were sealed.
    deltas: HashSet<DeltaId>,
}

impl RootWalker for Walker<'_> {
    fn walk(&self, root: &Root, marks: &Marks) -> Result<()> {
        match root {
            Root::Disk(disk) => self.walk_disk(*disk, marks),
            Root::Tree(tree) => walk_tree_contents(
                self.source.as_ref(),
                *tree,
                |node| marks.need_node(node),
                |chunk| marks.need_content(chunk),
                |disk| self.walk_disk(disk, marks),
            ),
        }
    }

    fn carry(&self, record: &RootRecord, listing: &Listing) -> Result<Option<RootRecord>> {
        let known = self.known.get_or_init(|| self.know(listing).map_err(|error| error.chain()));
        let known = known.as_ref().map_err(|why| Error::new(ErrorKind::Corrupt, why.clone()))?;
        Ok(match record {
            RootRecord::Image { disk, created_ns, .. } => {
                let image = known.images.get(&(*disk, *created_ns));
                image.map(|at| listing.images[*at].root_record())
            }
            RootRecord::Snapshot { id, .. } => known.snapshots.get(id).and_then(|at| {
                let snapshot = &listing.snapshots[*at];
                snapshot.disk_id().map(|disk| snapshot.root_record(disk))
            }),
            RootRecord::Seal { delta, .. } => known.deltas.contains(delta).then(|| record.clone()),
        })
    }
}

impl Walker<'_> {
    pub(crate) fn new(engine: &Engine) -> Walker<'_> {
        Walker { engine, source: Arc::new(engine.store.walking_reader()), known: OnceLock::new() }
    }

    fn walk_disk(&self, disk: DiskId, marks: &Marks) -> Result<()> {
        let map = DiskMap::open(self.source.clone(), disk)?;
        map.walk(&mut Needing(marks))
    }

    fn know(&self, listing: &Listing) -> Result<Known> {
        let images = listing.images.iter().enumerate();
        let snapshots = listing.snapshots.iter().enumerate();
        let mut deltas = HashSet::new();
        for volume in &listing.volumes {
            match read_volume_header(&self.engine.store.paths().volume(volume.id)) {
                // Its own may have been sealed since: headers of volumes that nobody serves are behind.
                Ok(header) => deltas.extend(header.frozen.into_iter().chain(header.own)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Known {
            images: images.map(|(at, image)| ((image.disk, image.created_ns), at)).collect(),
            snapshots: snapshots.map(|(at, snapshot)| (snapshot.id, at)).collect(),
            deltas,
        })
    }
}

/// Tells what the files of a tree consist of: chunks, and the maps of large ones. `enter` is told each node before it is read, and
/// says whether it is.
pub(crate) fn walk_tree_contents(
    source: &dyn ChunkSource,
    tree: TreeId,
    enter: impl FnMut(&ChunkId) -> bool,
    mut chunk: impl FnMut(&ChunkId),
    mut map: impl FnMut(DiskId) -> Result<()>,
) -> Result<()> {
    Tree::new(source, tree).for_each_content(enter, |size_bytes, content| match content {
        TreeContent::Chunks(ids) => {
            ids.iter().filter(|id| **id != DiskId::ZERO_ROOT).for_each(&mut chunk);
            Ok(())
        }
        TreeContent::Map(root) => map(DiskId { root: *root, size_bytes }),
    })
}

/// Everything that a map has is needed.
struct Needing<'a>(&'a Marks);

impl MapVisitor for Needing<'_> {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.0.need_node(node)
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, chunk: &ChunkId) {
        self.0.need_content(chunk);
    }

    fn unreadable(&mut self, _node: &ChunkId, error: Error) -> Result<()> {
        Err(error)
    }
}
