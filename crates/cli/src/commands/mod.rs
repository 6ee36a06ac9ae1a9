//! The commands, each in the file of its name.

pub(crate) mod build;
pub(crate) mod clone;
pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod flatten;
pub(crate) mod gc;
mod image_config;
pub(crate) mod info;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod metrics;
pub(crate) mod mount;
pub(crate) mod ps;
pub(crate) mod rename;
pub(crate) mod resize;
pub(crate) mod rm;
pub(crate) mod rollback;
pub(crate) mod scrub;
pub(crate) mod seal;
pub(crate) mod serve;
pub(crate) mod snapshot;
pub(crate) mod sources;
pub(crate) mod state;
pub(crate) mod stop;
pub(crate) mod store;
pub(crate) mod top;
pub(crate) mod verify;
pub(crate) mod why;

use crate::cli::{Cli, Command, store_path};
use silt_engine::{Broker, CACHE_SIZE_BYTES_DEFAULT, Engine};
use silt_types::{Name, Result};
use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{self, ExitCode, Stdio},
};

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

    /// A broker for the store, by a process that has no other threads yet.
    pub(crate) fn broker(&self) -> Result<Broker> {
        Broker::start(&store_path(self.store.clone())?)
    }

    /// The store, made where there is none.
    pub(crate) fn engine_or_new(&self) -> Result<Engine> {
        Engine::open_or_create(&store_path(self.store.clone())?, CACHE_SIZE_BYTES_DEFAULT)
    }
}

/// Begins to seal what is frozen of a volume, in a process of its own that outlives this one. Where it cannot be begun, or
/// another one is at it, that is left to a later command.
pub(crate) fn seal_behind(context: &Context, volume: &Name) {
    if std::env::var_os("SILT_SEAL").is_some_and(|how| how == "manual") {
        return;
    }
    let (Ok(silt), Ok(store)) = (std::env::current_exe(), store_path(context.store.clone())) else {
        return;
    };
    let mut command = process::Command::new(silt);
    command.arg("--store").arg(store).args(["seal", "--leave-contended", volume.as_str()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: a Ctrl-C is for the command, not for this.
    let _ = command.process_group(0).spawn();
}

/// Runs the command that was given. Answers success, or what a result that is a bad one exits with.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let context = Context { store: cli.store, json: cli.json };
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Build(args) => done(build::run(&context, args)),
        Command::Clone(args) => done(clone::run(&context, args)),
        Command::Snapshot(args) => done(snapshot::run(&context, args)),
        Command::Rollback(args) => done(rollback::run(&context, args)),
        Command::Commit(args) => done(commit::run(&context, args)),
        Command::Flatten(args) => done(flatten::run(&context, args)),
        Command::Seal(args) => done(seal::run(&context, args)),
        Command::Rename(args) => done(rename::run(&context, args)),
        Command::Resize(args) => done(resize::run(&context, args)),
        Command::Log(args) => done(log::run(&context, args)),
        Command::Ls(args) => done(ls::run(&context, args)),
        Command::Info(args) => done(info::run(&context, args)),
        Command::Rm(args) => done(rm::run(&context, args)),
        Command::Sources(args) => done(sources::run(&context, args)),
        Command::Diff(args) => done(diff::run(&context, args)),
        Command::Export(args) => done(export::run(&context, args)),
        Command::Serve(args) => serve::run(&context, args),
        Command::Ps(args) => done(ps::run(&context, args)),
        Command::Top(args) => done(top::run(&context, args)),
        Command::Stop(args) => done(stop::run(&context, args)),
        Command::State(args) => done(state::run(&context, args)),
        Command::Metrics(args) => done(metrics::run(&context, args)),
        Command::Mount(args) => mount::run(&context, args),
        Command::Why(args) => done(why::run(&context, args)),
        Command::Store(args) => done(store::run(&context, args)),
        Command::Gc(args) => gc::run(&context, args),
        Command::Verify(args) => verify::run(&context, args),
        Command::Scrub(args) => scrub::run(&context, args),
        Command::Completions(args) => done(completions::run(&context, args)),
        Command::Man(args) => done(man::run(&context, args)),
    }
}
