//! `silt ls`: what there is.

use super::Context;
use crate::{
    lineage,
    output::{print, table, time},
};
use serde_json::{Value, json};
use silt_engine::{ImageRecord, Listing, SnapshotRecord, VolumeRecord};
use silt_types::{Result, format_size};

/// List images, volumes and snapshots.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt ls
  silt ls --tree     what was cloned from what
  silt ls --json")]
pub(crate) struct Args {
    /// Show lineage: clones below what they were cloned from, snapshots below their volume. With --json the list is the
    /// same, by `source`.
    #[arg(long)]
    tree: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let mut listing = context.engine()?.list()?;
    listing.snapshots.retain(SnapshotRecord::is_shown);
    let document = || {
        let images = listing.images.iter().map(image_document);
        let volumes = listing.volumes.iter().flat_map(|volume| {
            std::iter::once(volume_document(volume)).chain(
                snapshots_of(&listing, volume).map(|snapshot| snapshot_document(volume, snapshot)),
            )
        });
        Value::Array(images.chain(volumes).collect())
    };
    let text = || {
        if args.tree {
            return lineage::tree(&listing);
        }
        let images = listing.images.iter().map(image_row);
        let volumes = listing.volumes.iter().flat_map(|volume| {
            std::iter::once(volume_row(volume)).chain(
                snapshots_of(&listing, volume).map(|snapshot| snapshot_row(volume, snapshot)),
            )
        });
        let rows: Vec<_> = images.chain(volumes).collect();
        table(
            &["NAME", "KIND", "SIZE", "CREATED", "FROM"],
            &[false, false, true, false, false],
            &rows,
        )
    };
    print(context.json, document, text)
}

/// The snapshots of a volume, oldest first.
fn snapshots_of<'a>(
    listing: &'a Listing,
    volume: &'a VolumeRecord,
) -> impl Iterator<Item = &'a SnapshotRecord> {
    listing.snapshots.iter().filter(|snapshot| snapshot.volume == volume.id)
}

fn image_row(image: &ImageRecord) -> Vec<String> {
    let size = format_size(image.disk.size_bytes);
    vec![image.name.to_string(), "image".into(), size, time(image.created_ns), String::new()]
}

fn volume_row(volume: &VolumeRecord) -> Vec<String> {
    let size = format_size(volume.size_bytes);
    vec![
        volume.name.to_string(),
        "volume".into(),
        size,
        time(volume.created_ns),
        volume.source.to_string(),
    ]
}

fn snapshot_row(volume: &VolumeRecord, snapshot: &SnapshotRecord) -> Vec<String> {
    vec![
        format!("{}@{}", volume.name, snapshot.name),
        "snapshot".into(),
        format_size(snapshot.size_bytes),
        time(snapshot.created_ns),
        volume.name.to_string(),
    ]
}

fn image_document(image: &ImageRecord) -> Value {
    json!({
        "name": image.name.as_str(),
        "kind": "image",
        "size": image.disk.size_bytes,
        "disk_id": image.disk.to_string(),
        "created": time(image.created_ns),
        "source": null,
    })
}

fn volume_document(volume: &VolumeRecord) -> Value {
    json!({
        "name": volume.name.as_str(),
        "kind": "volume",
        "size": volume.size_bytes,
        "base": volume.base.to_string(),
        "created": time(volume.created_ns),
        "source": volume.source.to_string(),
    })
}

fn snapshot_document(volume: &VolumeRecord, snapshot: &SnapshotRecord) -> Value {
    json!({
        "name": format!("{}@{}", volume.name, snapshot.name),
        "kind": "snapshot",
        "size": snapshot.size_bytes,
        "disk_id": snapshot.disk_id().map(|id| id.to_string()),
        "created": time(snapshot.created_ns),
        "source": volume.name.as_str(),
    })
}
