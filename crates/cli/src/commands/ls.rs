//! `silt ls`: what there is.

use super::Context;
use crate::output::{print, table, time};
use serde_json::{Value, json};
use silt_engine::{ImageRecord, VolumeRecord};
use silt_types::{Result, format_size};

/// List images and volumes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt ls
  silt ls --json")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<()> {
    let (images, volumes) = context.engine()?.list()?;
    let document = || {
        let images = images.iter().map(image_document);
        Value::Array(images.chain(volumes.iter().map(volume_document)).collect())
    };
    let text = || {
        let images = images.iter().map(image_row);
        let rows: Vec<_> = images.chain(volumes.iter().map(volume_row)).collect();
        table(
            &["NAME", "KIND", "SIZE", "CREATED", "FROM"],
            &[false, false, true, false, false],
            &rows,
        )
    };
    print(context.json, document, text)
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
        "source": volume.source.as_str(),
    })
}
