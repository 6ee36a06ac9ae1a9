//! What operators see and set of a served device, between its exports and itself: counters that are always there, and
//! limits that are there where somebody asked for them.
//!
//! Both are devices around a device, so that no export and no volume knows of them. Counting takes two relaxed additions;
//! no clock is read for reads and writes, since one costs more than all counting. Explained in
//! `docs/internals/control.md`.

mod counters;
mod limits;

pub use counters::{Counts, Meter, Metered, OpCounts};
pub use limits::{Limited, Limits, Rate};
