//! The paths of a hierarchy, in the order of trees.

use silt_ext4::{Hierarchy, Visit};
use silt_types::Result;

/// Visits every name but the root's with its path, folders before what they hold. No path is allocated.
pub fn for_each_path<'a>(
    hierarchy: &'a Hierarchy,
    mut visit: impl FnMut(&Visit<'a>, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut path: Vec<u8> = Vec::new();
    let mut lengths = Vec::new();
    for name in hierarchy.walk() {
        // The path of the parent, by its depth.
        lengths.truncate(name.depth - 1);
        path.truncate(lengths.last().copied().unwrap_or(0));
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.name);
        lengths.push(path.len());
        visit(&name, &path)?;
    }
    Ok(())
}
