//! The commands, each in the file of its name.

pub(crate) mod build;
pub(crate) mod clone;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod rm;
pub(crate) mod serve;
pub(crate) mod verify;

use crate::cli::{Cli, Command, store_path};
use silt_engine::{CACHE_SIZE_BYTES_DEFAULT, Engine};
use silt_types::Result;
use std::{path::PathBuf, process::ExitCode};

/// What every command is given.
pub(crate) struct Context {
    store: Option<PathBuf>,
    /// Whether the result is one JSON document.
    pub(crate) json: bool,
}

impl Context {
    /// The store, which must be there.
    pub(crate) fn engine(&self) -> Result<Engine> {
        self.engine_with_cache(CACHE_SIZE_BYTES_DEFAULT)
    }

    /// The store, which must be there, with a cache of this size.
    pub(crate) fn engine_with_cache(&self, cache_bytes: u64) -> Result<Engine> {
        Engine::open(&store_path(self.store.clone())?, cache_bytes)
    }

    /// The store, made where there is none.
    pub(crate) fn engine_or_new(&self) -> Result<Engine> {
        Engine::open_or_create(&store_path(self.store.clone())?, CACHE_SIZE_BYTES_DEFAULT)
    }
}

/// Runs the command that was given. Answers success, or what a result that is a bad one exits with.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let context = Context { store: cli.store, json: cli.json };
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Build(args) => done(build::run(&context, args)),
        Command::Clone(args) => done(clone::run(&context, args)),
        Command::Ls(args) => done(ls::run(&context, args)),
        Command::Info(args) => done(info::run(&context, args)),
        Command::Rm(args) => done(rm::run(&context, args)),
        Command::Diff(args) => done(diff::run(&context, args)),
        Command::Export(args) => done(export::run(&context, args)),
        Command::Serve(args) => serve::run(&context, args),
        Command::Verify(args) => verify::run(&context, args),
        Command::Completions(args) => done(completions::run(&context, args)),
        Command::Man(args) => done(man::run(&context, args)),
    }
}
