//! The command line judged from outside: every promise is asked of the binary, with other people's tools as judges
//! where there are some.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod archives;
mod bounds;
mod building;
mod collecting;
mod commands;
mod confining;
mod containers;
mod damage;
mod determinism;
mod diffing;
mod durability;
mod exporting;
mod exporting_changes;
mod exporting_qcow2;
mod fidelity;
mod files;
mod growing;
mod importing;
mod operations;
mod rebuilding;
mod registries;
mod repairing;
mod reports;
mod rights;
mod scrubbing;
mod serving;
mod silt;
mod snapshots;
mod soaking;
mod space;
mod space_in_time;
mod states;
mod survey;
mod taking_over;
mod taking_over_files;
mod together;
mod transferring;
mod upgrading;
mod volumes;
