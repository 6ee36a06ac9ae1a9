//! What a power cut left is opened again and compared with the model; then it is sealed, written and compared again.

use super::{
    super::facts::{complaints, export, reopen},
    player::{Beginning, Played},
    world::{World, allows, stamps},
};
use silt_engine::{Contended, Engine};
use silt_testkit::fault::PowerState;
use silt_types::{DiskName, NoProgress, Result};
use std::{collections::BTreeMap, path::Path};

/// Of so many states one is also opened for writing.
const STATES_REOPENED: usize = 4;

type Disks = BTreeMap<String, Vec<u8>>;

impl Played {
    /// What is wrong with a state, if anything.
    pub(super) fn judge(
        &self,
        beginning: &Beginning,
        state: &PowerState<'_>,
        store: &Path,
    ) -> Result<(), String> {
        let ended = state.marks().filter(|mark| mark.starts_with("end")).count();
        let is_under_way = state.marks().last().is_some_and(|mark| mark.starts_with("begin"));
        let left = read_all(store).map_err(|error| format!("cannot be read: {error:?}"))?;
        let found = left.iter().map(|(name, bytes)| {
            let stamps = stamps(bytes, &beginning.original);
            stamps.map(|stamps| (name.clone(), stamps)).map_err(|why| format!("{name}, {why}"))
        });
        let found = found.collect::<Result<BTreeMap<_, _>, String>>()?;
        let worlds: &[World] = match self.moments.get(ended + 1) {
            Some(next) if is_under_way => &next.during,
            _ => std::slice::from_ref(&self.moments[ended].after),
        };
        let refused: Vec<_> =
            worlds.iter().filter_map(|world| allows(world, &found).err()).collect();
        if refused.len() == worlds.len() {
            return Err(refused.join("; or: "));
        }
        must_be_sound(store, "as it was left")?;
        let volumes: Vec<_> = volumes_of(store).map_err(|error| format!("{error:?}"))?;
        if state.cut().after.is_multiple_of(STATES_REOPENED) {
            let name = &volumes[state.cut().after / STATES_REOPENED % volumes.len()];
            reopen(store, name).map_err(|error| format!("{name} cannot be opened: {error:?}"))?;
            must_read(store, &left, "opened again")?;
        }
        let seal = |engine: Engine| engine.seal(None, Contended::Wait, &NoProgress);
        let sealed = Engine::open(store, CACHE_SIZE_BYTES).and_then(seal);
        sealed.map_err(|error| format!("cannot be sealed: {error:?}"))?;
        must_read(store, &left, "sealed")?;
        if hidden(store).map_err(|error| format!("{error:?}"))? > 0 {
            return Err("a state held for work that is gone is still held".into());
        }
        must_be_sound(store, "sealed")
    }
}

/// Decoded chunks kept: more than any disk here has.
const CACHE_SIZE_BYTES: u64 = 4 << 20;

fn must_be_sound(store: &Path, when: &str) -> Result<(), String> {
    match complaints(store) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{when}, verification finds {some:?}")),
    }
}

fn must_read(store: &Path, expected: &Disks, when: &str) -> Result<(), String> {
    match read_all(store) {
        Ok(left) if left == *expected => Ok(()),
        Ok(left) => {
            let is_other = |name: &&String| left.get(*name) != expected.get(*name);
            let names: Vec<_> = left.keys().chain(expected.keys()).filter(is_other).collect();
            Err(format!("{when}, other bytes are read: {names:?}"))
        }
        Err(error) => Err(format!("{when}, it cannot be read: {error:?}")),
    }
}

fn volumes_of(store: &Path) -> Result<Vec<String>> {
    let volumes = Engine::open(store, CACHE_SIZE_BYTES)?.list()?.volumes;
    Ok(volumes.iter().map(|volume| volume.name.to_string()).collect())
}

/// Snapshots that hold a state for work in progress.
fn hidden(store: &Path) -> Result<usize> {
    let snapshots = Engine::open(store, CACHE_SIZE_BYTES)?.list()?.snapshots;
    Ok(snapshots.iter().filter(|snapshot| !snapshot.is_shown()).count())
}

/// The bytes of everything that has a name and is shown.
fn read_all(store: &Path) -> Result<Disks> {
    let engine = Engine::open(store, CACHE_SIZE_BYTES)?;
    let all = engine.list()?;
    let mut names: Vec<DiskName> =
        all.images.iter().map(|image| image.name.clone().into()).collect();
    for volume in &all.volumes {
        names.push(volume.name.clone().into());
        let kept = all.snapshots.iter();
        let kept = kept.filter(|kept| kept.volume == volume.id && kept.is_shown());
        names.extend(
            kept.map(|kept| DiskName {
                name: volume.name.clone(),
                snapshot: Some(kept.name.clone()),
            }),
        );
    }
    let read = |name: &DiskName| Ok((name.to_string(), export(&engine, name)?));
    names.iter().map(read).collect()
}
