//! The exports as their clients see them.
//!
//! Needs `nbdinfo` and `nbdcopy` (package libnbd-bin), `qemu-img` and `qemu-io` (qemu-utils), `fio` (fio), and what `fuse`
//! names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what helps tests may end like a test")]

mod device;
mod fuse;
mod meter;
mod nbd;
mod running;
mod vhost_user;
