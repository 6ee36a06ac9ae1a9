//! What a store holds, as far as two states of it are compared: every name with its ids and its bytes.

use super::stage::scratch;
use silt_engine::{Engine, ExportAddress, Listen, Serving, StopSignal, VerifyRequest};
use silt_types::{DiskName, ErrorKind, NoProgress, Result};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
};

/// Decoded chunks kept while looking: more than any disk here has.
const CACHE_SIZE_BYTES: u64 = 8 << 20;

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    kind: &'static str,
    disk_id: Option<String>,
    size_bytes: u64,
    bytes: u64,
}

/// Every name.
pub(crate) type Facts = BTreeMap<String, Fact>;

/// Whether a store that holds `left` is in the state `expected`. What was sealed there is sealed, as the same disk; what was
/// not may be by now, since sealing changes no byte.
pub(crate) fn is_in_state(left: &Facts, expected: &Facts) -> bool {
    let is_held = |(name, expected): (&String, &Fact)| {
        left.get(name).is_some_and(|left| {
            let disk_id = expected.disk_id.as_ref().or(left.disk_id.as_ref()).cloned();
            *left == Fact { disk_id, ..expected.clone() }
        })
    };
    left.len() == expected.len() && expected.iter().all(is_held)
}

/// A store that was looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) facts: Facts,
    /// What each name exports.
    pub(crate) disks: BTreeMap<String, Vec<u8>>,
}

impl Look {
    /// The facts of every name but one.
    pub(crate) fn without(&self, name: &str) -> Facts {
        let mut facts = self.facts.clone();
        facts.remove(name);
        facts
    }
}

/// Reads all that a store holds. Nothing, where there is no store.
pub(crate) fn look(store: &Path) -> Result<Look> {
    let engine = match Engine::open(store, CACHE_SIZE_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Look::default()),
        other => other?,
    };
    let all = engine.list()?;
    let mut names: Vec<DiskName> = Vec::new();
    names.extend(all.images.iter().map(|image| image.name.clone().into()));
    for volume in &all.volumes {
        names.push(volume.name.clone().into());
        let is_of = |id| id == volume.id;
        let snapshots = all.snapshots.iter();
        let snapshots = snapshots.filter(|kept| is_of(kept.volume) && kept.is_shown());
        names.extend(snapshots.map(|snapshot| DiskName {
            name: volume.name.clone(),
            snapshot: Some(snapshot.name.clone()),
        }));
    }
    let mut look = Look::default();
    for name in &names {
        let (fact, bytes) = fact(&engine, name)?;
        look.facts.insert(name.to_string(), fact);
        look.disks.insert(name.to_string(), bytes);
    }
    // The bounds of the store, as if they were one more name.
    if let Some(quota) = engine.space()?.limits.quota {
        let fact = Fact { kind: "limits", disk_id: None, size_bytes: quota, bytes: 0 };
        look.facts.insert("the bounds".to_owned(), fact);
    }
    Ok(look)
}

fn fact(engine: &Engine, name: &DiskName) -> Result<(Fact, Vec<u8>)> {
    let info = engine.info(name)?;
    let bytes = export(engine, name)?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let fact = Fact {
        kind: info.kind,
        disk_id: info.disk_id.map(|id| id.to_string()),
        size_bytes: info.size_bytes,
        bytes: hasher.finish(),
    };
    Ok((fact, bytes))
}

/// The bytes of a disk.
pub(crate) fn export(engine: &Engine, name: &DiskName) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    engine.export_stream(name, &mut bytes, &NoProgress)?;
    Ok(bytes)
}

/// What a verification complains of; empty where it is content, and where there is no store.
pub(crate) fn complaints(store: &Path) -> Vec<String> {
    let engine = match Engine::open(store, CACHE_SIZE_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        other => other,
    };
    match engine.and_then(|engine| engine.verify(&VerifyRequest::default(), &NoProgress)) {
        Ok(report) => report.damages.iter().map(|damage| damage.what.clone()).collect(),
        Err(error) => vec![format!("{error:?}")],
    }
}

/// Looks at a store that must be in order.
pub(crate) fn look_at_sound(store: &Path) -> Result<Look, String> {
    let look = look(store).map_err(|error| format!("cannot be read: {error:?}"))?;
    match complaints(store) {
        none if none.is_empty() => Ok(look),
        some => Err(format!("verification finds {some:?}")),
    }
}

/// Opens a volume for writing, as a server does, and closes it again: a crash must leave nothing that hinders.
pub(crate) fn reopen(store: &Path, name: &str) -> Result<()> {
    let place = scratch();
    let stop = StopSignal::new()?;
    let exports = vec![ExportAddress::Nbd(Listen::Unix(place.path().join("s")))];
    let limits = silt_engine::Limits::default();
    let bounds = silt_engine::VolumeBounds::default();
    let serving =
        Serving { name: name.parse()?, exports, read_only: false, limits, bounds, expect: None };
    Engine::open(store, CACHE_SIZE_BYTES)?.serve(&serving, &stop, |_| stop.trigger())
}
