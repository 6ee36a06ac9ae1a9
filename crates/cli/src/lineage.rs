//! What was cloned from what, as a tree of lines.

use silt_engine::Listing;
use silt_types::{VolumeId, format_size};
use std::collections::{HashMap, HashSet};

/// Something in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place<'a> {
    Image(&'a str),
    Volume(VolumeId),
    Snapshot(VolumeId, &'a str),
}

/// Images, and volumes whose source is gone, at the margin; below each what was cloned from it, and its snapshots.
pub(crate) fn tree(listing: &Listing) -> String {
    let mut below: HashMap<Option<Place<'_>>, Vec<(Place<'_>, String)>> = HashMap::new();
    let image_there: HashSet<_> = listing.images.iter().map(|image| image.name.as_str()).collect();
    let volume_there: HashSet<_> = listing.volumes.iter().map(|volume| volume.id).collect();
    let snapshot_there: HashSet<_> = listing
        .snapshots
        .iter()
        .map(|snapshot| (snapshot.volume, snapshot.name.as_str()))
        .collect();
    for image in &listing.images {
        let line = format!("{}  image, {}", image.name, format_size(image.disk.size_bytes));
        below.entry(None).or_default().push((Place::Image(image.name.as_str()), line));
    }
    for volume in &listing.volumes {
        let source = &volume.source;
        let from = match (volume.source_volume, &source.snapshot) {
            (Some(id), Some(name)) if snapshot_there.contains(&(id, name.as_str())) => {
                Some(Place::Snapshot(id, name.as_str()))
            }
            (Some(id), _) if volume_there.contains(&id) => Some(Place::Volume(id)),
            (None, _) if image_there.contains(source.name.as_str()) => {
                Some(Place::Image(source.name.as_str()))
            }
            _ => None,
        };
        let gone =
            if from.is_none() { format!(", from {source}, which is gone") } else { String::new() };
        let line = format!("{}  volume, {}{gone}", volume.name, format_size(volume.size_bytes));
        below.entry(from).or_default().push((Place::Volume(volume.id), line));
    }
    for snapshot in &listing.snapshots {
        let place = Place::Snapshot(snapshot.volume, snapshot.name.as_str());
        let sealed = if snapshot.disk_id().is_some() { "" } else { ", not sealed yet" };
        let line =
            format!("@{}  snapshot, {}{sealed}", snapshot.name, format_size(snapshot.size_bytes));
        below.entry(Some(Place::Volume(snapshot.volume))).or_default().push((place, line));
    }
    draw(&below)
}

/// Depth first, without recursion: a lineage may be as long as its owner likes.
fn draw<'a>(below: &HashMap<Option<Place<'a>>, Vec<(Place<'a>, String)>>) -> String {
    let mut text = String::new();
    let children = |of: Option<Place<'a>>| below.get(&of).map_or(&[][..], Vec::as_slice);
    let mut pending: Vec<(usize, &(Place<'a>, String))> =
        children(None).iter().rev().map(|root| (0, root)).collect();
    while let Some((depth, (place, line))) = pending.pop() {
        text.push_str(&"  ".repeat(depth));
        text.push_str(line);
        text.push('\n');
        pending.extend(children(Some(*place)).iter().rev().map(|child| (depth + 1, child)));
    }
    text
}
