//! The writer before outside judges: e2fsck, the kernel's mount, resize2fs, dumpe2fs, debugfs, another reader.

mod determinism;
pub(crate) mod examples;
mod features;
mod fidelity;
pub(crate) mod growth;
mod large;
pub(crate) mod mounted;
mod sizes;
mod stability;
