//! The integration tests of the test kit: one binary, one module per part.

// The lints know only functions that are tests themselves, not what these share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod fault;
