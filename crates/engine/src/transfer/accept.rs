//! The rules by which a store takes names from elsewhere.
//!
//! What is there already is left as it is. A name that stands for something else is refused, unless it may be replaced; and
//! replaced is only like by like: an image by an image, and a volume by another state of that same volume, known by its id.
//! A volume of another id is somebody else's disk, whatever it is called.

use super::items::{Item, SealedVolume};
use crate::engine::Engine;
use silt_store::{Change, FrozenDelta, ImageRecord, Named, SnapshotRecord, VolumeRecord};
use silt_sys::durability::random_bytes;
use silt_types::{DeltaId, Error, ErrorKind, Name, Result, VolumeId};

/// What a store is to do about a volume, or a snapshot of one.
pub(super) enum Step<R> {
    /// It is there.
    Keep,
    Add,
    /// This is there of it: another state, or another name.
    Change(R),
}

/// Whether an image is to be put. `AlreadyExists` if the name is another one's.
pub(super) fn image_step(change: &Change<'_>, image: &ImageRecord, replace: bool) -> Result<bool> {
    match change.taken_by(&image.name)? {
        None => Ok(true),
        Some(Named::Image(there)) => match there.roots() == image.roots() {
            true => Ok(false),
            false if replace => Ok(true),
            false => Err(differs(&format!("image {}", image.name))),
        },
        Some(other) => Err(taken(&image.name, other.kind())),
    }
}

/// The same for a volume, snapshots apart.
pub(super) fn volume_step(
    engine: &Engine,
    change: &Change<'_>,
    volume: &VolumeRecord,
    replace: bool,
) -> Result<Step<VolumeRecord>> {
    let name = &volume.name;
    match change.taken_by(name)? {
        Some(Named::Volume(there)) if there.id != volume.id => {
            return Err(taken(name, "volume of another id"));
        }
        Some(Named::Volume(there)) => {
            return match holds(engine, &there, volume)? {
                true => Ok(Step::Keep),
                false if replace => Ok(Step::Change(there)),
                false => Err(differs(&format!("volume {name}"))),
            };
        }
        Some(other) => return Err(taken(name, other.kind())),
        None => {}
    }
    match change.volume_taken(volume.id)? {
        None => Ok(Step::Add),
        Some(there) if replace => Ok(Step::Change(there)),
        Some(there) => {
            let message =
                format!("volume {name} is there as {}: --replace gives it its name", there.name);
            Err(Error::new(ErrorKind::AlreadyExists, message))
        }
    }
}

/// Whether a volume holds just what comes, and nothing was written to it.
fn holds(engine: &Engine, there: &VolumeRecord, volume: &VolumeRecord) -> Result<bool> {
    let is_same = there.base == volume.base
        && there.size_bytes == volume.size_bytes
        && there.frozen.is_empty()
        && there.state == volume.state;
    Ok(is_same && engine.state_known(there)? == Some(volume.state))
}

/// The same for a snapshot of a volume. What a snapshot holds never changes: one that has its id is the same.
pub(super) fn snapshot_step(
    change: &Change<'_>,
    volume: &Name,
    snapshot: &SnapshotRecord,
    replace: bool,
) -> Result<Step<SnapshotRecord>> {
    let (there, name) = (change.snapshot_taken(snapshot.id)?, &snapshot.name);
    if there.as_ref().is_some_and(|there| there.volume != snapshot.volume) {
        return Err(taken(name, "snapshot of another volume, by its id"));
    }
    let called = change.snapshot_called(snapshot.volume, name)?;
    match (there, called) {
        (Some(there), _) if there.name == *name => Ok(Step::Keep),
        (None, None) => Ok(Step::Add),
        (Some(there), None) if replace => Ok(Step::Change(there)),
        (_, Some(there)) if replace => Ok(Step::Change(there)),
        _ => Err(differs(&format!("snapshot {volume}@{name}"))),
    }
}

/// What was done to take an item.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) image: bool,
    pub(super) volume: bool,
    pub(super) snapshots: u64,
    /// The volume whose state became another one.
    pub(super) replaced: Option<VolumeId>,
    /// Deltas that nobody may need any more.
    pub(super) given_up: Vec<FrozenDelta>,
}

impl Taken {
    /// Names that were not there, or stood for something else.
    pub(super) fn names(&self) -> u64 {
        u64::from(self.image) + u64::from(self.volume) + self.snapshots
    }
}

/// Whether something of an item is not there. `AlreadyExists`, naming it, if it cannot be put.
pub(super) fn is_new(
    engine: &Engine,
    change: &Change<'_>,
    item: &Item,
    replace: bool,
) -> Result<bool> {
    match item {
        Item::Image(image) => image_step(change, image, replace),
        Item::Volume(volume) => {
            let record = &volume.record;
            let step = volume_step(engine, change, record, replace)?;
            let mut is_new = !matches!(step, Step::Keep);
            for snapshot in &volume.snapshots {
                let step = snapshot_step(change, &record.name, snapshot, replace)?;
                is_new |= !matches!(step, Step::Keep);
            }
            Ok(is_new)
        }
    }
}

/// Puts an item in place, all that it needs being there.
pub(super) fn put(
    engine: &Engine,
    change: &mut Change<'_>,
    item: &Item,
    replace: bool,
) -> Result<Taken> {
    match item {
        Item::Image(image) => {
            let image_is_new = image_step(change, image, replace)?;
            if image_is_new {
                change.put_image(image, replace)?;
            }
            Ok(Taken { image: image_is_new, ..Taken::default() })
        }
        Item::Volume(volume) => put_volume(engine, change, volume, replace),
    }
}

fn put_volume(
    engine: &Engine,
    change: &mut Change<'_>,
    volume: &SealedVolume,
    replace: bool,
) -> Result<Taken> {
    let (mut done, record) = (Taken::default(), &volume.record);
    let step = volume_step(engine, change, record, replace)?;
    for snapshot in &volume.snapshots {
        let is_new = put_snapshot(change, &record.name, snapshot, replace, &mut done.given_up)?;
        done.snapshots += u64::from(is_new);
    }
    let own = DeltaId::from_bytes(random_bytes()?);
    let head = match record.head {
        Some(head) if change.snapshot_taken(head)?.is_some() => Some(head),
        _ => None, // It goes on from what did not come along.
    };
    let mut now = VolumeRecord { own, head, generation: 1, ..record.clone() };
    match step {
        Step::Keep => return Ok(done),
        Step::Add => change.add_volume(&now)?,
        Step::Change(there) => {
            if there.name != now.name {
                change.rename(&Named::Volume(there.clone()), &now.name)?;
            }
            now.generation = there.generation + 1;
            change.put_volume(&now)?;
            done.given_up.push(FrozenDelta { delta: there.own, home: there.id });
            done.given_up.extend(there.frozen);
            done.replaced = Some(there.id);
        }
    }
    Ok(Taken { volume: true, ..done })
}

/// True if it was not there.
fn put_snapshot(
    change: &mut Change<'_>,
    volume: &Name,
    snapshot: &SnapshotRecord,
    replace: bool,
    given_up: &mut Vec<FrozenDelta>,
) -> Result<bool> {
    match snapshot_step(change, volume, snapshot, replace)? {
        Step::Keep => return Ok(false),
        Step::Add => {}
        Step::Change(_) => {
            if let Some(other) = change.snapshot_called(snapshot.volume, &snapshot.name)? {
                given_up.extend(other.frozen);
                change.remove_snapshot(other.id)?;
            }
            if let Some(there) = change.snapshot_taken(snapshot.id)? {
                change.rename(&Named::Snapshot(there), &snapshot.name)?;
                return Ok(true);
            }
        }
    }
    let parent = match snapshot.parent {
        Some(parent) if change.snapshot_taken(parent)?.is_some() => Some(parent),
        _ => None,
    };
    change.add_snapshot(&SnapshotRecord { parent, ..snapshot.clone() })?;
    Ok(true)
}

fn taken(name: &Name, by: &str) -> Error {
    let article = if by.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    let message = format!("the name {name} is taken there by {article} {by}");
    Error::new(ErrorKind::AlreadyExists, message)
}

fn differs(what: &str) -> Error {
    let message = format!("there is another {what} already: --replace puts this one in its place");
    Error::new(ErrorKind::AlreadyExists, message)
}
