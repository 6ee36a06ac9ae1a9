//! The command line as clap sees it: the source of help, completions and man pages.

use crate::commands;
use clap::{Parser, Subcommand};
use silt_types::{Error, ErrorKind, Result};
use std::{env, path::PathBuf};

/// Disks for microVMs and containers from a content-addressed store: build an image from files once, hand out
/// copy-on-write volumes of it in milliseconds, serve them to any virtual machine monitor.
#[derive(Debug, Parser)]
#[command(name = "silt", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  silt build ./rootfs debian            an image from a folder, a tar, a disk, a container image
  silt clone debian vm1                 a writable volume on it
  silt serve vm1 --nbd /tmp/vm1.sock    attach it to a virtual machine
  silt ps                               what is served, and how much it does
  silt snapshot vm1@before              keep what it holds, while it runs
  silt rollback vm1@before              go back
  silt info vm1                         what it has written since

Exit codes: 0 done, 2 usage, 3 not found, 4 name taken, 5 busy, 6 bad input, 7 corrupt, 8 no space,
9 unsupported, 10 I/O error, 70 bug.")]
pub(crate) struct Cli {
    /// The store [default: $SILT_STORE, or siltstone in the user's data folder].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Print exactly one JSON document on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(commands::build::Args),
    Sources(commands::sources::Args),
    Clone(commands::clone::Args),
    Snapshot(commands::snapshot::Args),
    Rollback(commands::rollback::Args),
    Commit(commands::commit::Args),
    Flatten(commands::flatten::Args),
    Seal(commands::seal::Args),
    Rename(commands::rename::Args),
    Resize(commands::resize::Args),
    Log(commands::log::Args),
    Ls(commands::ls::Args),
    Info(commands::info::Args),
    Rm(commands::rm::Args),
    Diff(commands::diff::Args),
    Export(commands::export::Args),
    Serve(commands::serve::Args),
    Ps(commands::ps::Args),
    Top(commands::top::Args),
    Stop(commands::stop::Args),
    State(commands::state::Args),
    Metrics(commands::metrics::Args),
    Mount(commands::mount::Args),
    Gc(commands::gc::Args),
    Why(commands::why::Args),
    Store(commands::store::Args),
    Verify(commands::verify::Args),
    Scrub(commands::scrub::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

/// Where the store is: named, or by the environment, or in the user's data folder (XDG base directories).
pub(crate) fn store_path(named: Option<PathBuf>) -> Result<PathBuf> {
    let from =
        |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = || from("XDG_DATA_HOME").or_else(|| Some(from("HOME")?.join(".local/share")));
    named.or_else(|| from("SILT_STORE")).or_else(|| Some(data()?.join("siltstone"))).ok_or_else(
        || {
            Error::new(
                ErrorKind::Usage,
                "no store: give --store DIR or set SILT_STORE; there is no home folder to look in",
            )
        },
    )
}
