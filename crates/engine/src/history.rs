//! The history of a volume: the states that were kept of it, what each went on from, and what each holds of its own.
//!
//! The graph is a tree: a state goes on from one other state, and several may go on from the same one after a rollback or
//! in a clone. It is what the catalog says; what a rollback gave up, and what was removed, is in it no more.

use crate::engine::Engine;
use silt_store::{Listing, Named, SnapshotPurpose, SnapshotRecord, VolumeRecord};
use silt_types::{
    BLOCK_SIZE_BYTES, BlockRange, DiskId, DiskName, ErrorKind, Name, Result, SnapshotId, VolumeId,
};
use silt_volume::{Volume, VolumePair};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a state in a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// The image that it began from.
    Image,
    /// A snapshot that was asked for.
    Snapshot,
    /// A snapshot that a rollback took of what it replaced.
    Rollback,
    /// The volume as it is now.
    Now,
    /// Another volume, where it went its own way.
    Clone,
}

/// A state in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryState {
    /// Its name. Snapshots may be those of another volume, which this one was cloned from.
    pub name: DiskName,
    /// What it is.
    pub kind: StateKind,
    /// When it was taken, or made, in nanoseconds since 1970.
    pub created_ns: i64,
    /// Length in bytes.
    pub size_bytes: u64,
    /// The sealed disk that it is; none for a volume, and until all of a snapshot is sealed.
    pub disk_id: Option<DiskId>,
    /// Position in the history of the state that it went on from, which is before it.
    pub parent: Option<usize>,
    /// What it holds; none for clones.
    pub held: Option<Held>,
}

/// Bytes that a state holds, without what reads as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Of blocks that were written since the state before it. Until they are sealed, those that were written with what they
    /// held before count, too.
    pub own_bytes: u64,
    /// Of blocks that it has in common with the state before it.
    pub shared_bytes: u64,
}

impl Engine {
    /// The history of a volume, served or not, each state behind the one it went on from, otherwise by age. Reads no content:
    /// it costs a walk over the map of the first state, then for each what differs from the one before.
    ///
    /// One of which a state goes while it is looked at is looked at anew.
    pub fn history(&self, volume: &Name) -> Result<Vec<HistoryState>> {
        self.while_it_changes(&[ErrorKind::NotFound], || self.history_now(volume))
    }

    fn history_now(&self, volume: &Name) -> Result<Vec<HistoryState>> {
        let _lease = self.store.lease()?;
        let volume = self.find_volume(volume)?;
        let listing = self.list()?;
        let mut states = Graph::of(&listing, &volume).in_order();
        for at in 0..states.len() {
            let before = states[at].parent.map(|parent| states[parent].clone());
            states[at].held = self.held(&states[at], before.as_ref())?;
        }
        Ok(states)
    }

    fn held(&self, state: &HistoryState, before: Option<&HistoryState>) -> Result<Option<Held>> {
        if state.kind == StateKind::Clone {
            return Ok(None);
        }
        self.while_deltas_are_sealed(|| {
            let disk = self.open_state(&state.name)?;
            let Some((before, held_before)) = before.and_then(|b| Some((b, b.held?))) else {
                let all = BlockRange { start: 0, len: state.size_bytes.div_ceil(BLOCK_SIZE_BYTES) };
                return Ok(Some(Held { own_bytes: disk.bytes_held(all)?, shared_bytes: 0 }));
            };
            let before = self.open_state(&before.name)?;
            let (gone, own_bytes) =
                VolumePair::new(&before, &disk)?.bytes_held_that_may_differ()?;
            let all_before = held_before.own_bytes + held_before.shared_bytes;
            Ok(Some(Held { own_bytes, shared_bytes: all_before.saturating_sub(gone) }))
        })
    }

    /// Opens a disk to look at what it holds; its content may change meanwhile.
    fn open_state(&self, name: &DiskName) -> Result<Volume> {
        match self.find(name)? {
            Named::Image(image) => Ok(self.open_sealed(image.disk, None, None)?.volume),
            Named::Snapshot(snapshot) => Ok(self.open_snapshot(&snapshot, None)?.volume),
            Named::Volume(volume) => Ok(self.open_as_it_is(&volume)?.1),
        }
    }
}

/// A state, as the catalog has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place<'a> {
    Image(&'a str),
    Snapshot(SnapshotId),
    Volume(VolumeId),
}

/// States of a history that have no order yet, each with what it went on from.
struct Graph<'a> {
    listing: &'a Listing,
    snapshots: HashMap<SnapshotId, &'a SnapshotRecord>,
    volumes: HashMap<VolumeId, &'a VolumeRecord>,
    states: HashMap<Place<'a>, (HistoryState, Option<Place<'a>>)>,
}

impl<'a> Graph<'a> {
    fn of(listing: &'a Listing, volume: &VolumeRecord) -> Graph<'a> {
        let mut graph = Graph {
            listing,
            snapshots: listing.snapshots.iter().map(|snapshot| (snapshot.id, snapshot)).collect(),
            volumes: listing.volumes.iter().map(|volume| (volume.id, volume)).collect(),
            states: HashMap::new(),
        };
        graph.add_volume(volume, StateKind::Now, volume.head);
        graph.add_snapshots(volume);
        for clone in listing.volumes.iter().filter(|other| other.id != volume.id) {
            let branch = graph.branch_of(clone);
            let is_clone = match branch {
                Some(id) => graph.states.contains_key(&Place::Snapshot(id)),
                None => clone.source_volume == Some(volume.id),
            };
            if is_clone {
                graph.add_volume(clone, StateKind::Clone, branch);
            }
        }
        graph
    }

    fn add_volume(&mut self, volume: &VolumeRecord, kind: StateKind, from: Option<SnapshotId>) {
        let parent = from.map(Place::Snapshot).or_else(|| self.beginning_of(volume.id));
        let state = HistoryState {
            name: volume.name.clone().into(),
            kind,
            created_ns: volume.created_ns,
            size_bytes: volume.size_bytes,
            disk_id: None,
            parent: None,
            held: None,
        };
        self.states.insert(Place::Volume(volume.id), (state, parent));
    }

    /// Its own, and those of others that it goes on from by being a clone.
    fn add_snapshots(&mut self, volume: &VolumeRecord) {
        let listing = self.listing;
        let own = listing.snapshots.iter().filter(|s| s.volume == volume.id && s.is_shown());
        let mut pending: Vec<_> = own.map(|snapshot| snapshot.id).chain(volume.head).collect();
        while let Some(id) = pending.pop() {
            let place = Place::Snapshot(id);
            if self.states.contains_key(&place) {
                continue;
            }
            let Some(snapshot) = self.snapshots.get(&id).copied() else { continue };
            let Some(of) = self.volumes.get(&snapshot.volume) else { continue };
            let state = HistoryState {
                name: DiskName { name: of.name.clone(), snapshot: Some(snapshot.name.clone()) },
                kind: match snapshot.purpose {
                    SnapshotPurpose::Rollback => StateKind::Rollback,
                    _ => StateKind::Snapshot,
                },
                created_ns: snapshot.created_ns,
                size_bytes: snapshot.size_bytes,
                disk_id: snapshot.disk_id(),
                parent: None,
                held: None,
            };
            pending.extend(snapshot.parent);
            let parent = snapshot.parent.map(Place::Snapshot);
            let parent = parent.or_else(|| self.beginning_of(snapshot.volume));
            self.states.insert(place, (state, parent));
        }
    }

    /// The image that a volume, or the first of those it was cloned from, began as, if it is still there.
    fn beginning_of(&mut self, volume: VolumeId) -> Option<Place<'a>> {
        let mut first = *self.volumes.get(&volume)?;
        // Each was made after the one before, so there are no more of them than volumes.
        for _ in 0..self.volumes.len() {
            let Some(before) = first.source_volume else { break };
            first = self.volumes.get(&before)?;
        }
        let image = self.listing.images.iter().find(|image| {
            image.name == first.source.name && image.created_ns <= first.created_ns
        })?;
        let place = Place::Image(image.name.as_str());
        let state = HistoryState {
            name: image.name.clone().into(),
            kind: StateKind::Image,
            created_ns: image.created_ns,
            size_bytes: image.disk.size_bytes,
            disk_id: Some(image.disk),
            parent: None,
            held: None,
        };
        self.states.insert(place, (state, None));
        Some(place)
    }

    /// The snapshot from which a volume went its own way: the first behind its head that is not its own.
    fn branch_of(&self, volume: &VolumeRecord) -> Option<SnapshotId> {
        let mut next = volume.head;
        for _ in 0..=self.snapshots.len() {
            let snapshot = self.snapshots.get(&next?)?;
            if snapshot.volume != volume.id {
                return next;
            }
            next = snapshot.parent;
        }
        None
    }

    /// Each behind its parent, otherwise the oldest first: a clock may have been set back.
    fn in_order(self) -> Vec<HistoryState> {
        let mut below: HashMap<Option<Place<'_>>, Vec<(Place<'_>, HistoryState)>> = HashMap::new();
        let there: HashSet<_> = self.states.keys().copied().collect();
        for (place, (state, parent)) in self.states {
            let parent = parent.filter(|parent| there.contains(parent));
            below.entry(parent).or_default().push((place, state));
        }
        let mut ready: BTreeMap<_, _> = BTreeMap::new();
        let mut states: Vec<HistoryState> = Vec::new();
        let mut placed = None;
        loop {
            let parent = placed.map(|_| states.len() - 1);
            for (place, state) in below.remove(&placed).unwrap_or_default() {
                let state = HistoryState { parent, ..state };
                // What can be written is as it is now.
                let since = match state.kind {
                    StateKind::Now => i64::MAX,
                    _ => state.created_ns,
                };
                ready.insert((since, state.name.to_string()), (place, state));
            }
            let Some((_, (place, state))) = ready.pop_first() else { return states };
            states.push(state);
            placed = Some(place);
        }
    }
}
