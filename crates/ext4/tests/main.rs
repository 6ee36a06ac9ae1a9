//! The one integration binary of the crate.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod growth;
mod reader;
mod writer;
