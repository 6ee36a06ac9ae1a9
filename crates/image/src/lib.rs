//! Sources of images: from files to a tree, an ext4 layout and a disk map, published together.
//!
//! A source of files fills a [`silt_ext4::Hierarchy`] and puts the content of its files into chunks; everything after that
//! is the same for all: see `assemble`. A disk is imported as it is. Each kind of source has a module of its own, and
//! [`build()`] picks it.

mod assemble;
mod build;
mod caches;
mod config;
mod contents;
mod directory;
mod disk;
mod edits;
mod feed;
mod input;
mod oci;
mod paths;
mod placing;
mod source;
mod stream;
mod tar;

pub use build::{
    BuildRequest, BuiltImage, Changes, MAX_SIZE_BYTES_DEFAULT, Owner, build, refuse_taken_name,
    store_again,
};
pub use caches::{drop_caches, drop_dead_caches};
pub use config::{CONFIG_SIZE_BYTES_MAX, read_config};
pub use disk::{READ_CACHE_BYTES, build_stored};
pub use edits::{AddedFile, Edits, Glob};
pub use oci::RegistryAccess;
pub use paths::for_each_path;
pub use source::{Format, Source};
#[doc(hidden)]
pub use {oci::read_as_any_document, tar::read_as_archive};
