//! What a store has whole: what its roots reach, as long as a lease is held that was there before they were looked at.

use super::items::{Item, SealedVolume};
use silt_store::{ChunkReader, ImageRecord, Listing, Root};
use silt_types::{DiskId, Name, SnapshotId, TreeId, VolumeId};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Roots of a store, by who has them: the states before those that come now.
#[derive(Default)]
pub(super) struct Known {
    /// Reads what they reach.
    pub(super) source: Option<Arc<ChunkReader>>,
    whole: HashSet<Root>,
    images: HashMap<Name, ImageRecord>,
    volumes: HashMap<VolumeId, DiskId>,
    snapshots: HashMap<SnapshotId, DiskId>,
}

impl Known {
    /// Everything that a listing has, which was made under a lease of work.
    pub(super) fn of(listing: Listing, source: Arc<ChunkReader>) -> Known {
        let mut whole: HashSet<Root> = HashSet::new();
        whole.extend(listing.images.iter().flat_map(ImageRecord::roots));
        whole.extend(listing.volumes.iter().map(|volume| volume.root()));
        whole.extend(listing.snapshots.iter().map(|snapshot| snapshot.root()));
        let images = listing.images.into_iter().map(|image| (image.name.clone(), image));
        Known {
            source: Some(source),
            whole,
            images: images.collect(),
            volumes: listing.volumes.iter().map(|volume| (volume.id, volume.base)).collect(),
            snapshots: listing
                .snapshots
                .iter()
                .map(|snapshot| (snapshot.id, snapshot.base))
                .collect(),
        }
    }

    /// Whether all that a root reaches is there.
    pub(super) fn has(&self, root: &Root) -> bool {
        self.whole.contains(root)
    }

    /// Says that all of it was handed over.
    pub(super) fn add(&mut self, root: Root) {
        self.whole.insert(root);
    }

    /// What an item is made of, oldest first, each with the states that are the likeliest to share with it.
    pub(super) fn parts_of(&self, item: &Item) -> Vec<Part> {
        match item {
            Item::Image(image) => {
                let before = self.images.get(&image.name);
                let parts = image.roots().into_iter().map(|root| match root {
                    Root::Disk(disk) if Some(disk) == image.config => Part::Disk(disk, Vec::new()),
                    Root::Disk(disk) => {
                        Part::Disk(disk, before.iter().map(|before| before.disk).collect())
                    }
                    Root::Tree(tree) => Part::Tree(tree, before.and_then(|before| before.tree)),
                });
                parts.collect()
            }
            Item::Volume(volume) => self.parts_of_volume(volume),
        }
    }

    fn parts_of_volume(&self, volume: &SealedVolume) -> Vec<Part> {
        let source = &volume.record.source;
        let source = match source.snapshot {
            None => self.images.get(&source.name).map(|image| image.disk),
            Some(_) => None,
        };
        let now = self.volumes.get(&volume.record.id).copied();
        let part = |disk, parent| {
            let mut before: Vec<_> =
                [self.nearest(volume, parent), now, source].into_iter().flatten().collect();
            before.dedup();
            Part::Disk(disk, before)
        };
        let snapshots =
            volume.snapshots.iter().map(|snapshot| part(snapshot.base, snapshot.parent));
        snapshots.chain([part(volume.record.base, volume.record.head)]).collect()
    }

    /// The disk of the nearest state that is there, of those that a state goes on from.
    fn nearest(&self, volume: &SealedVolume, mut parent: Option<SnapshotId>) -> Option<DiskId> {
        for _ in 0..=volume.snapshots.len() {
            let id = parent?;
            if let Some(disk) = self.snapshots.get(&id) {
                return Some(*disk);
            }
            parent = volume.snapshots.iter().find(|snapshot| snapshot.id == id)?.parent;
        }
        None
    }
}

/// Something that an item needs with all below it, and what is there that may have much of it.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Disk(DiskId, Vec<DiskId>),
    Tree(TreeId, Option<TreeId>),
}

impl Part {
    pub(super) fn root(&self) -> Root {
        match self {
            Part::Disk(disk, _) => Root::Disk(*disk),
            Part::Tree(tree, _) => Root::Tree(*tree),
        }
    }
}
