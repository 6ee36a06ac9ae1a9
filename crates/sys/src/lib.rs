//! System calls of Siltstone. The one crate where `unsafe` may live.

pub mod boot;
pub mod durability;
#[allow(unsafe_code)]
pub mod iobuf;
#[allow(unsafe_code)]
pub mod process;
