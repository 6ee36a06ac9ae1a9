//! A file layer that counts, records and breaks: a FUSE mount over a folder, under everything a store does.
//!
//! Programs are not changed and need not know: an unmodified `silt`, its database with log and shared memory,
//! a file copier all run below the mount point. Three ways to use it:
//! * **Fail**: [`FaultFs::set_plan`] with [`Plan::FailAt`] or [`Plan::NoSpaceAfter`]; the program sees the error.
//! * **Stop**: [`Plan::CrashAt`]; from that operation on nothing reaches the folder. Run once, ask for
//!   [`FaultFs::op_count`], then run again with a crash at every number below.
//! * **Power cut**: [`FaultFs::start_recording`], run, [`FaultFs::take_recording`], then open every one of
//!   [`Recording::states`] and check what must hold. [`FaultFs::mark`] writes down what had been answered.
//!
//! Not for what must survive a real power cut: an fsync is taken note of, counted and judged, never handed on.
//!
//! Where to look next: `plan` for what can go wrong, `promise` for what survives, `powercut` for states, `op` for
//! recordings, `passthrough` for the file system itself, [`flip_bit`] for damage at rest.

mod content;
mod flip;
mod image;
mod journal;
mod mount;
mod op;
mod passthrough;
mod plan;
mod powercut;
mod promise;
mod survival;

pub use self::{
    flip::{every_file_of, flip_bit},
    mount::FaultFs,
    op::{Allocation, FileId, Made, Op, RenameKind, Slot},
    plan::{Later, OpClass, Plan},
    powercut::{Choice, Limits, PowerCut, PowerState, Recording},
    promise::Model,
};
/// The error numbers that a [`Plan`] answers with.
pub use rustix::io::Errno;
