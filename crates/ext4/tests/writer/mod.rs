//! The writer before outside judges: e2fsck, the kernel's mount, resize2fs, dumpe2fs, debugfs, another reader.

mod determinism;
mod examples;
mod features;
mod fidelity;
mod growth;
mod large;
mod mounted;
mod sizes;
mod stability;
