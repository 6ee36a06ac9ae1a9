//! Volumes served as block devices: one folder per protocol, all over [`silt_volume::BlockDevice`].
//!
//! A protocol's folder has these rooms, and the next one is furnished alike: `server` (life cycle: bind, run, stop),
//! `connection` (one client), `request` (what a client may ask), `wire` (bytes), `limits` (constants with reasons).
//!
//! Nothing here knows a store or a volume: an export sees a size and reads and writes bytes.

mod export;
pub mod fuse;
mod meter;
pub mod nbd;
mod socket;
mod stop;
pub mod vhost_user;

pub use export::{Export, ExportAddress, PassedOn, StateSource};
pub use meter::{Counts, Limited, Limits, Meter, Metered, OpCounts, Rate};
pub use socket::{SocketFile, connect};
pub use stop::StopSignal;
