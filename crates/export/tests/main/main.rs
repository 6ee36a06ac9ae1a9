//! The exports as their clients see them.
//!
//! Needs `nbdinfo` and `nbdcopy` (package libnbd-bin), `qemu-img` and `qemu-io` (qemu-utils), and `fio` (fio).

mod device;
mod nbd;
mod running;
