//! The command line judged from outside: every promise is asked of the binary, with other people's tools as judges
//! where there are some.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod commands;
mod determinism;
mod durability;
mod exporting;
mod fidelity;
mod serving;
mod silt;
mod survey;
mod volumes;
