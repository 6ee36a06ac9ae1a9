//! `silt why`: what keeps something, and what would go with it.

use super::Context;
use crate::{output::print, progress::Bar};
use serde_json::{Value, json};
use silt_engine::{ChunkKind, Holder, Why, WouldFree};
use silt_types::{Result, format_size};

/// Say what keeps a chunk or a pack, or what would go with a name.
///
/// A chunk is named by 64 hexadecimal digits, a pack by 32, as `silt verify` and the names of files tell them. What several names
/// share goes with none of them alone: `silt rm --dry-run` tells what goes with some together.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt why debian
  silt why vm1@before
  silt why 1c3f08e6d5b2497a8e0f6b7d5a4c3b29")]
pub(crate) struct Args {
    /// A chunk, a pack, or the name of an image, a volume or a snapshot.
    #[arg(value_name = "CHUNK|PACK|NAME")]
    what: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let why = context.engine()?.why(&args.what, &Bar::new())?;
    print(context.json, || document(&why), || text(&why))
}

fn kind_of(kind: ChunkKind) -> &'static str {
    match kind {
        ChunkKind::FileData => "content of a file",
        ChunkKind::DiskData => "content of a disk",
        ChunkKind::MapNode => "node of a disk map",
        ChunkKind::TreeNode => "node of a tree",
    }
}

fn document(why: &Why) -> Value {
    let names = |holders: &[Holder]| holders.iter().map(Holder::to_string).collect::<Vec<_>>();
    match why {
        Why::Chunk { chunk, kind, bytes, bytes_stored, pack, needed_by } => json!({
            "chunk": chunk.to_string(),
            "kind": kind_of(*kind),
            "bytes": bytes,
            "bytes_stored": bytes_stored,
            "pack": pack.to_string(),
            "needed_by": names(needed_by),
        }),
        Why::Pack { pack, content, needed_by } => json!({
            "pack": pack.to_string(),
            "size_bytes": content.size_bytes,
            "chunks": content.chunks,
            "bytes_stored": content.bytes_stored,
            "condemned": content.is_condemned,
            "needed_by": names(needed_by),
        }),
        Why::Name { name, kind, freed } => {
            json!({ "name": name.to_string(), "kind": kind, "would_free": would_free(freed) })
        }
    }
}

/// What would go, for a document.
pub(crate) fn would_free(freed: &WouldFree) -> Value {
    json!({
        "chunks": freed.chunks.chunks,
        "bytes": freed.chunks.bytes,
        "bytes_stored": freed.chunks.bytes_stored,
        "delta_bytes": freed.delta_bytes,
    })
}

/// The same, for people.
pub(crate) fn would_free_text(freed: &WouldFree) -> String {
    let (chunks, stored) = (freed.chunks.chunks, format_size(freed.chunks.bytes_stored));
    let mut text = format!("would free {stored} in {chunks} chunks");
    if freed.delta_bytes > 0 {
        text.push_str(&format!(", and {} of deltas", format_size(freed.delta_bytes)));
    }
    text
}

fn text(why: &Why) -> String {
    let lines = |holders: &[Holder]| match holders {
        [] => "nothing needs it\n".to_owned(),
        some => some.iter().map(|holder| format!("needed by {holder}\n")).collect(),
    };
    match why {
        Why::Chunk { chunk, kind, bytes, bytes_stored, pack, needed_by } => format!(
            "chunk {chunk}: {}, {}, {} in pack {pack}\n{}",
            kind_of(*kind),
            format_size(*bytes),
            format_size(*bytes_stored),
            lines(needed_by)
        ),
        Why::Pack { pack, content, needed_by } => format!(
            "pack {pack}: {}, {} chunks ({}){}\n{}",
            format_size(content.size_bytes),
            content.chunks,
            format_size(content.bytes_stored),
            if content.is_condemned { ", to be removed" } else { "" },
            lines(needed_by)
        ),
        Why::Name { name, kind, freed } => {
            format!("{kind} {name}: removing it {}\n", would_free_text(freed))
        }
    }
}
