//! The facade of Siltstone: everything that the command line does, as calls. The one crate a program needs.
//!
//! Begin at [`Engine`]. Each file below is one thing to do; the work itself is in the crates under this one.

mod bounded;
mod bounds;
mod broker;
mod build;
mod clone;
mod collect;
mod commit;
mod confinement;
mod control;
mod device;
mod diff;
mod engine;
mod export;
mod freeze;
#[cfg(test)]
mod growing;
mod history;
mod info;
mod longer;
mod mount;
mod order;
mod remove;
mod rename;
mod repair;
mod resize;
mod rollback;
mod scrub;
mod seal;
mod sealed_state;
mod serve;
mod servers;
mod shares;
mod snapshot;
mod state;
mod stats;
mod takeover;
mod transfer;
mod upgrade;
mod verify;
mod why;

pub use bounds::{Severity, StoreBounds, Warning};
pub use broker::Broker;
pub use clone::CloneRequest;
pub use commit::CommitRequest;
pub use confinement::Confinement;
pub use control::{
    CountsStatus, ExportStatus, LimitsStatus, OpStatus, RateStatus, RecentStatus, ServerStatus,
    SpaceStatus,
};
pub use diff::DiskDiff;
pub use engine::{CACHE_SIZE_BYTES_DEFAULT, Engine};
pub use export::{ChangesExported, ExportCounts, ExportFormat};
pub use history::{Held, HistoryState, StateKind};
pub use info::{NameInfo, ServedBy, StoreInfo};
pub use longer::{FileSystem, LongerClones};
pub use mount::{Mounting, Shown};
pub use repair::{Elsewhere, Repaired, repair_store};
pub use resize::ResizeRequest;
pub use rollback::{RollbackRequest, RolledBack};
pub use scrub::{ScrubRequest, Scrubbed};
pub use seal::{Contended, SealReport};
pub use serve::{Prepared, Served, Serving, VolumeBounds};
pub use servers::{Servers, StopWhich};
pub use shares::ImageShare;
pub use silt_export::{
    ExportAddress, Limits, Rate, StopSignal,
    fuse::{Access, FileAddress},
    nbd::Listen,
};
pub use silt_ext4::growth::Growth;
pub use silt_ext4::reader::{Aspect, Aspects, Change, InodeKind};
pub use silt_ext4::writer::Summary;
pub use silt_format::STORE_VERSION;
pub use silt_image::{
    AddedFile, BuildRequest, BuiltImage, Changes, Edits, Format, Glob, MAX_SIZE_BYTES_DEFAULT,
    Owner, RegistryAccess, Source,
};
pub use silt_store::{
    ChunkKind, CollectRequest, Collected, Compression, FileSystemSpace, FrozenDelta, Holder,
    ImageRecord, IngestCounts, LimitsFile, Listing, Named, Sample, SnapshotPurpose, SnapshotRecord,
    StoreSpace, VolumeRecord, WhenFull,
};
pub use silt_sys::process::become_user;
pub use silt_volume::SealCounts;
pub use stats::{SpaceTaken, StoreStats, WorkUnderWay};
pub use takeover::TakeOver;
pub use transfer::{ArchiveSource, ArchiveTarget, Transferred};
pub use upgrade::upgrade_store;
pub use verify::{Damage, VerifyReport, VerifyRequest};
pub use why::{Why, WouldFree};
