//! System calls of Siltstone. The one crate where `unsafe` may live; so far none was needed.

pub mod durability;
