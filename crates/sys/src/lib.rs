//! System calls of Siltstone. The one crate where `unsafe` may live.

pub mod boot;
#[allow(unsafe_code)]
pub mod descriptor;
pub mod durability;
#[allow(unsafe_code)]
pub mod iobuf;
#[allow(unsafe_code)]
pub mod process;
