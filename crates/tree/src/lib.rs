//! Sealed manifests of file hierarchies: what an image was built from, by name.
//!
//! A tree is one ordered sequence of entries, cut into nodes where the content says so: a change touches the nodes
//! around it and the inner nodes above, all others are shared. [`TreeBuilder`] writes one, [`Tree`] reads one, [`for_each_change`]
//! compares two. The
//! bytes of a node are `silt_format`'s.

mod build;
mod diff;
mod read;

pub use build::TreeBuilder;
pub use diff::{EnterTreeNode, NewInTree, TreeChange, for_each_change, for_each_new};
pub use read::{Met, Tree};
pub use silt_format::{
    TREE_INLINE_CHUNKS_MAX as INLINE_CHUNKS_MAX, TreeContent, TreeEntry, TreeKind, TreeXattr,
};
