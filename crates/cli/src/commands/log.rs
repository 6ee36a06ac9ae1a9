//! `silt log`: the history of a volume.

use super::Context;
use crate::{
    graph::graph,
    output::{print, time},
};
use serde_json::{Value, json};
use silt_engine::{HistoryState, StateKind};
use silt_types::Result;

/// Show the history of a volume: its snapshots, rollbacks and clones.
///
/// The newest is first, and each is above what it went on from. OWN is what was written since then, SHARED what both have
/// in common, both without zeros; nothing else is counted, neither compression nor what is stored once for other disks.
/// A state that a rollback gave up with --discard is not there any more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt log vm1
  silt log vm1 --json")]
pub(crate) struct Args {
    /// The volume.
    volume: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let states = context.engine()?.history(&args.volume.parse()?)?;
    let document =
        || Value::Array(states.iter().rev().map(|state| document(state, &states)).collect());
    print(context.json, document, || graph(&states))
}

/// What a state is called for people and in JSON.
pub(crate) fn kind(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Image => "image",
        StateKind::Snapshot => "snapshot",
        StateKind::Rollback => "rollback",
        StateKind::Now => "volume",
        StateKind::Clone => "clone",
    }
}

fn document(state: &HistoryState, states: &[HistoryState]) -> Value {
    json!({
        "name": state.name.to_string(),
        "kind": kind(state.kind),
        "parent": state.parent.map(|parent| states[parent].name.to_string()),
        "created": time(state.created_ns),
        "size": state.size_bytes,
        "disk_id": state.disk_id.map(|id| id.to_string()),
        "bytes_own": state.held.map(|held| held.own_bytes),
        "bytes_shared": state.held.map(|held| held.shared_bytes),
    })
}
