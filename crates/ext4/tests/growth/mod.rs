//! Growing before outside judges: e2fsck, dumpe2fs, resize2fs, the kernel's mount; and before disks that mean harm.

mod cost;
mod grown;
mod mounted;
mod mutations;
mod refusals;
mod sizes;
