//! The roots that there are, and who has each.

use crate::{
    catalog::{self, Listing, Root},
    lease,
    store::Shared,
};
use silt_types::{LeaseId, Name, Result, SnapshotId, VolumeId};
use std::fmt;

/// Who needs a root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// An image.
    Image(Name),
    /// A volume, by what it is called now.
    Volume(VolumeId, Name),
    /// A snapshot, by what it is called now with its volume.
    Snapshot(SnapshotId, String),
    /// Somebody who is reading it.
    Reader(String),
    /// Nobody, but it was removed while a collection was under way.
    Grave,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Image(name) => write!(f, "image {name}"),
            Holder::Volume(_, name) => write!(f, "volume {name}"),
            Holder::Snapshot(_, name) => write!(f, "snapshot {name}"),
            Holder::Reader(who) => write!(f, "{who}, which reads it"),
            Holder::Grave => f.write_str("what was removed while a collection was under way"),
        }
    }
}

/// The roots of every name.
pub(super) fn named_roots(listing: &Listing) -> Vec<(Root, Holder)> {
    let mut roots = Vec::new();
    for image in &listing.images {
        let holder = Holder::Image(image.name.clone());
        roots.extend(image.roots().into_iter().map(|root| (root, holder.clone())));
    }
    for volume in &listing.volumes {
        roots.push((volume.root(), Holder::Volume(volume.id, volume.name.clone())));
    }
    let names: std::collections::HashMap<_, _> =
        listing.volumes.iter().map(|volume| (volume.id, &volume.name)).collect();
    for snapshot in &listing.snapshots {
        let of = names.get(&snapshot.volume).map_or("?", |name| name.as_str());
        let name = format!("{of}@{}", snapshot.name);
        roots.push((snapshot.root(), Holder::Snapshot(snapshot.id, name)));
    }
    roots
}

/// Everything that keeps chunks alive now: names, graves, and work that reads. `own` is a lease of this process.
pub(super) fn roots(
    shared: &Shared,
    listing: &Listing,
    own: LeaseId,
) -> Result<Vec<(Root, Holder)>> {
    let mut roots = named_roots(listing);
    let graves = shared.database.read_at_once("cannot read the graves", catalog::graves)?;
    roots.extend(graves.into_iter().map(|root| (root, Holder::Grave)));
    for lease in lease::held(&shared.paths, own)? {
        let holder = Holder::Reader(lease.holder());
        let read = lease.reads().unwrap_or_default();
        roots.extend(read.iter().map(|disk| (Root::Disk(*disk), holder.clone())));
    }
    Ok(roots)
}
