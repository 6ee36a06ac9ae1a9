//! Sources of images: from files to a tree, an ext4 layout and a disk map, published together.
//!
//! A source fills a [`silt_ext4::Hierarchy`] and reads the files it names; everything after that is the same for all:
//! see `assemble`. The one source so far is a folder: see `directory`.

mod assemble;
mod contents;
mod directory;

pub use assemble::{BuildOptions, BuiltImage, refuse_taken_name};
pub use directory::{Owner, build_from_directory};
