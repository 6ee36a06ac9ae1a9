//! How a store stands: its bounds, and what there is to warn of.

use crate::{control::ServerStatus, engine::Engine};
use silt_store::{LimitsFile, StoreSpace, VolumeRecord, disk_usage};
use silt_types::{Result, format_size};

/// Parts of a bound in use from which on there is a warning, in percent.
const NEAR_PERCENT: u64 = 80;
const CLOSE_PERCENT: u64 = 95;

/// How soon something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Before long.
    Warning,
    /// Now: something is refused already, or is about to be.
    Critical,
}

impl Severity {
    /// As JSON and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// Something to look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What: a bound (`quota`, `reserve`, `delta`), damage that was found in the background (`scrub`), or damaged files that were put
    /// aside (`quarantine`).
    pub about: &'static str,
    /// Of which volume, where it is one's.
    pub volume: Option<String>,
    /// How soon.
    pub severity: Severity,
    /// For people.
    pub message: String,
}

/// A store and its bounds.
#[derive(Clone, Debug)]
pub struct StoreBounds {
    /// What it takes, may take, and what is free.
    pub space: StoreSpace,
    /// What to look after, that of the whole store first.
    pub warnings: Vec<Warning>,
}

impl Engine {
    /// What the store takes, and its bounds. Costs a look at every file of it.
    pub fn space(&self) -> Result<StoreSpace> {
        self.store.space()
    }

    /// Changes the bounds of the store. See [`silt_store::Store::change_limits`].
    pub fn change_limits(&self, change: impl FnOnce(&mut LimitsFile)) -> Result<LimitsFile> {
        self.store.change_limits(change)
    }

    /// How the store stands with its bounds; `served` says what volumes that are served do. Costs a look at every file.
    pub fn bounds(&self, served: &[ServerStatus]) -> Result<StoreBounds> {
        let space = self.store.space()?;
        let mut warnings: Vec<_> =
            [of_quota(&space), of_reserve(&space), self.of_scrub(), self.of_quarantine()?].into();
        for volume in &self.list()?.volumes {
            warnings.push(self.of_volume(volume, &space, served)?);
        }
        Ok(StoreBounds { space, warnings: warnings.into_iter().flatten().collect() })
    }

    /// What the last whole pass in the background found, or the one under way has.
    fn of_scrub(&self) -> Option<Warning> {
        let place = self.scrubbed()?;
        let damages = place.damages_before.max(place.damages);
        let message = format!(
            "verification in the background found {damages} damaged: `silt verify --files` tells what, `silt verify --repair` makes it good"
        );
        let severity = Severity::Critical;
        (damages > 0).then_some(Warning { about: "scrub", volume: None, severity, message })
    }

    /// They are for people to remove, once they are sure.
    fn of_quarantine(&self) -> Result<Option<Warning>> {
        let folder = self.store.paths().quarantine();
        if !folder.exists() {
            return Ok(None);
        }
        let message = format!(
            "a repair has put damaged files aside, {}: remove {} when nothing is missed",
            format_size(disk_usage(&folder)?),
            folder.display()
        );
        let severity = Severity::Warning;
        Ok(Some(Warning { about: "quarantine", volume: None, severity, message }))
    }

    fn of_volume(
        &self,
        volume: &VolumeRecord,
        space: &StoreSpace,
        served: &[ServerStatus],
    ) -> Result<Option<Warning>> {
        let id = volume.id.to_string();
        let told = served.iter().filter(|server| server.id == id);
        let told = told.filter_map(|server| server.space.as_ref()).next();
        let max = told.and_then(|told| told.delta_bytes_max).or(space.limits.delta);
        let is_full = told.is_some_and(|told| told.is_full);
        if max.is_none() && !is_full {
            return Ok(None);
        }
        let used = match told {
            Some(told) => told.delta_bytes,
            None => self.delta_bytes(volume)?,
        };
        let name = &volume.name;
        let message = match (is_full, max) {
            (true, _) => format!(
                "volume {name} is full: writes of its guest that need space are refused or wait"
            ),
            (false, Some(max)) => format!(
                "the deltas of volume {name} take {} of the {} that they may",
                format_size(used),
                format_size(max)
            ),
            (false, None) => return Ok(None),
        };
        let severity = match is_full {
            true => Some(Severity::Critical),
            false => max.and_then(|max| severity_of(used, max)),
        };
        let volume = Some(name.to_string());
        Ok(severity.map(|severity| Warning { about: "delta", volume, severity, message }))
    }

    /// Space that the deltas of a volume that nobody serves take.
    fn delta_bytes(&self, volume: &VolumeRecord) -> Result<u64> {
        let paths = self.store.paths();
        let frozen = volume.frozen.iter().map(|frozen| paths.delta(frozen.home, frozen.delta));
        let mut bytes = 0;
        for folder in frozen.chain([self.own_delta(volume)]) {
            // One that was never written has none; one that was sealed meanwhile has it no more.
            bytes += if folder.exists() { disk_usage(&folder).unwrap_or(0) } else { 0 };
        }
        Ok(bytes)
    }
}

fn severity_of(used: u64, max: u64) -> Option<Severity> {
    let is_over = |percent: u64| u128::from(used) * 100 > u128::from(max) * u128::from(percent);
    match (is_over(CLOSE_PERCENT), is_over(NEAR_PERCENT)) {
        (true, _) => Some(Severity::Critical),
        (_, true) => Some(Severity::Warning),
        _ => None,
    }
}

fn of_quota(space: &StoreSpace) -> Option<Warning> {
    let quota = space.limits.quota?;
    let severity = severity_of(space.bytes_on_disk, quota)?;
    let (used, quota) = (format_size(space.bytes_on_disk), format_size(quota));
    let message = format!("the store takes {used} of its quota of {quota}");
    Some(Warning { about: "quota", volume: None, severity, message })
}

fn of_reserve(space: &StoreSpace) -> Option<Warning> {
    let (free, reserve) = (space.file_system?.bytes_free, space.reserve());
    let severity = match free {
        _ if free < reserve => Severity::Critical,
        _ if free < reserve.saturating_mul(2) => Severity::Warning,
        _ => return None,
    };
    let (free, reserve) = (format_size(free), format_size(reserve));
    let message = format!(
        "the store's file system has {free} free; nothing is added once it is less than {reserve}, the reserve"
    );
    Some(Warning { about: "reserve", volume: None, severity, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_store::FileSystemSpace;

    fn space(used: u64, quota: u64, free: u64) -> StoreSpace {
        let limits = LimitsFile { quota: Some(quota), reserve: Some(100), ..LimitsFile::default() };
        let file_system = Some(FileSystemSpace { bytes: 10_000, bytes_free: free });
        StoreSpace { bytes_on_disk: used, limits, file_system }
    }

    #[test]
    fn warnings_come_before_a_bound_is_reached() {
        let quota = |used| of_quota(&space(used, 1000, 0)).map(|warning| warning.severity);
        assert_eq!([quota(800), quota(801), quota(950)].map(|s| s.is_some()), [false, true, true]);
        assert_eq!((quota(950), quota(951)), (Some(Severity::Warning), Some(Severity::Critical)));
        let reserve = |free| of_reserve(&space(0, 1, free)).map(|warning| warning.severity);
        assert_eq!((reserve(200), reserve(199)), (None, Some(Severity::Warning)));
        assert_eq!(
            (reserve(100), reserve(99)),
            (Some(Severity::Warning), Some(Severity::Critical))
        );
    }
}
