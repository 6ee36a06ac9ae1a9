//! `silt info`: what there is to know of a name, or of the store.

use super::image_config::{config_document, config_lines};
use super::{Context, ps, store::limits};
use crate::{
    output::{print, time, warn},
    shares,
};
use serde_json::{Value, json};
use silt_engine::{NameInfo, StoreBounds, StoreInfo, Warning};
use silt_types::{BLOCK_SIZE_BYTES, Error, ErrorKind, Result, format_size};
use std::path::PathBuf;

/// Show what there is to know of an image, a volume or a snapshot, or of the whole store.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt info           sizes of the store, before and after dedup and compression
  silt info vm1       what a volume has written, who serves it
  silt info vm1 --json
  silt info --graph shares.svg debian debian-dev    what each image adds and shares, as a picture")]
pub(crate) struct Args {
    /// Image, volume or snapshot; the store without one. Images for --graph; all without one.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Draw what images add and share into this file, as SVG, and print the numbers.
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    if let Some(file) = args.graph {
        let names = args.names.iter().map(|name| name.parse()).collect::<Result<Vec<_>>>()?;
        let images = context.engine()?.shares(&names)?;
        std::fs::write(&file, shares::picture(&images))
            .map_err(|error| Error::io(format!("cannot write {}", file.display()), error))?;
        return print(context.json, || shares::document(&images), || shares::text(&images));
    }
    match &args.names[..] {
        [name] => {
            let info = context.engine()?.info(&name.parse()?)?;
            print(context.json, || name_document(&info), || name_text(&info))
        }
        [] => {
            let engine = context.engine()?;
            let info = engine.store_info()?;
            // A server that does not answer keeps nobody from looking.
            let bounds = engine.bounds(&engine.servers()?.servers)?;
            bounds.warnings.iter().for_each(|warning| warn(&warning_text(warning)));
            print(context.json, || store_document(&info, &bounds), || store_text(&info, &bounds))
        }
        _ => Err(Error::new(ErrorKind::Usage, "more than one name: give one, or --graph FILE")),
    }
}

fn name_document(info: &NameInfo) -> Value {
    let served_by = info
        .served_by
        .as_ref()
        .map(|by| json!({ "pid": by.pid, "address": by.address, "read_only": by.read_only }));
    json!({
        "name": info.name.to_string(),
        "kind": info.kind,
        "disk_id": info.disk_id.map(|id| id.to_string()),
        "state_id": info.state_id.map(|id| id.to_string()),
        "tree_id": info.tree_id.map(|id| id.to_string()),
        "size": info.size_bytes,
        "block_size": BLOCK_SIZE_BYTES,
        "blocks": info.blocks(),
        "blocks_modified": info.blocks_modified,
        "delta_bytes_allocated": info.delta_bytes_allocated,
        "efficiency": efficiency(info),
        "map_bytes": info.map_bytes,
        "base": info.base.map(|id| id.to_string()),
        "source": info.source.as_ref().map(|name| name.to_string()),
        "snapshots": info.snapshots,
        "frozen_deltas": info.frozen_deltas,
        "created": time(info.created_ns),
        "served_by": served_by,
        "space": info.space.as_ref().map(ps::space),
        "config": info.config.as_deref().map(config_document),
    })
}

/// Space that a volume takes of its own, as a part of its size.
fn efficiency(info: &NameInfo) -> f64 {
    if info.size_bytes == 0 {
        0.0
    } else {
        info.delta_bytes_allocated as f64 / info.size_bytes as f64
    }
}

fn name_text(info: &NameInfo) -> String {
    let mut lines = vec![
        ("name", info.name.to_string()),
        ("kind", info.kind.to_owned()),
        ("size", format!("{} ({} blocks of 4 KiB)", format_size(info.size_bytes), info.blocks())),
        ("created", time(info.created_ns)),
        ("disk map", format_size(info.map_bytes)),
    ];
    if let Some(id) = info.disk_id {
        lines.push(("disk id", id.to_string()));
    }
    if let Some(id) = info.state_id {
        lines.push(("state id", id.to_string()));
    }
    if let Some(id) = info.tree_id {
        lines.push(("tree id", id.to_string()));
    }
    lines.extend(info.config.as_deref().map(config_lines).unwrap_or_default());
    if let Some(base) = info.base {
        if let Some(source) = &info.source {
            lines.push(("cloned from", source.to_string()));
        }
        lines.push(("base", base.to_string()));
        lines.push(("modified", format!("{} blocks since the base", info.blocks_modified)));
        let part = efficiency(info) * 100.0;
        lines.push((
            "delta",
            format!("{} ({part:.2} % of its size)", format_size(info.delta_bytes_allocated)),
        ));
        if info.frozen_deltas > 0 {
            lines
                .push(("frozen", format!("{} deltas that are not sealed yet", info.frozen_deltas)));
        }
    }
    if info.kind == "volume" {
        lines.push(("snapshots", info.snapshots.to_string()));
        lines.push((
            "served by",
            info.served_by.as_ref().map_or("nobody".to_owned(), |by| {
                let pid =
                    by.pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                let rights = if by.read_only { ", read-only" } else { "" };
                let place = by.address.as_ref().map(|address| format!(" at {address}"));
                format!("{pid}{}{rights}", place.unwrap_or_default())
            }),
        ));
    }
    if let Some(space) = &info.space {
        let max = space.delta_bytes_max.map_or("without a limit".to_owned(), |max| {
            format!("of {} that its deltas may take", format_size(max))
        });
        let state = match (space.waiting, space.is_full) {
            (1.., _) => format!("full, {} writes wait; ", space.waiting),
            (0, true) => "full; ".to_owned(),
            (0, false) => String::new(),
        };
        lines.push(("space", format!("{state}{} {max}", format_size(space.delta_bytes))));
    }
    lines.iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect()
}

fn warning_text(warning: &Warning) -> String {
    format!("{}: {}", warning.severity.as_str(), warning.message)
}

fn store_document(info: &StoreInfo, bounds: &StoreBounds) -> Value {
    let warning = |warning: &Warning| {
        json!({
            "about": warning.about,
            "volume": warning.volume,
            "severity": warning.severity.as_str(),
            "message": warning.message,
        })
    };
    json!({
        "space": limits::document(&bounds.space),
        "warnings": bounds.warnings.iter().map(warning).collect::<Vec<_>>(),
        "chunks": info.chunks,
        "packs": info.packs,
        "bytes_logical": info.bytes_logical,
        "bytes_nonzero": info.bytes_nonzero,
        "bytes_unique": info.bytes_unique,
        "bytes_unique_file_data": info.bytes_unique_file_data,
        "bytes_metadata": info.bytes_metadata,
        "bytes_metadata_disk": info.bytes_metadata_disk,
        "bytes_metadata_map": info.bytes_metadata_map,
        "bytes_metadata_tree": info.bytes_metadata_tree,
        "bytes_stored": info.bytes_stored,
        "images": info.images,
        "volumes": info.volumes,
        "snapshots": info.snapshots,
    })
}

fn store_text(info: &StoreInfo, bounds: &StoreBounds) -> String {
    let space = &bounds.space;
    let quota = space.limits.quota.map(|quota| format!(" of a quota of {}", format_size(quota)));
    let free = space.file_system.map(|all| {
        let (free, reserve) = (format_size(all.bytes_free), format_size(space.reserve()));
        ("free", format!("{free} on its file system, {reserve} of them in reserve"))
    });
    let saved = |what: &str, before: u64, after: u64| {
        let bytes = before.saturating_sub(after);
        // Nothing is saved on nothing.
        let part = if before == 0 { 0.0 } else { bytes as f64 * 100.0 / before as f64 };
        format!("{what:<12} {} saved ({part:.0} %)\n", format_size(bytes))
    };
    let rows = [
        (
            "names",
            format!(
                "{} images, {} volumes, {} snapshots",
                info.images, info.volumes, info.snapshots
            ),
        ),
        ("logical", format_size(info.bytes_logical)),
        ("content", format!("{} of images, without holes", format_size(info.bytes_nonzero))),
        ("unique", format!("{} in {} chunks", format_size(info.bytes_unique), info.chunks)),
        ("  file data", format_size(info.bytes_unique_file_data)),
        ("  metadata", format_size(info.bytes_metadata)),
        ("stored", format!("{} in {} packs", format_size(info.bytes_stored), info.packs)),
        ("on disk", format!("{}{}", format_size(space.bytes_on_disk), quota.unwrap_or_default())),
    ];
    let rows: String =
        rows.iter().chain(&free).map(|(key, value)| format!("{key:<12} {value}\n")).collect();
    rows + &saved("dedup", info.bytes_nonzero, info.bytes_unique)
        + &saved("compression", info.bytes_unique, info.bytes_stored)
}
