//! `silt build`: an image from files or disks.

use super::Context;
use crate::{
    credential_files::credential_files,
    output::{print, warn},
    progress::Bar,
};
use serde_json::{Value, json};
use silt_engine::{
    AddedFile, BuildRequest, BuiltImage, Changes, Edits, Format, Glob, MAX_SIZE_BYTES_DEFAULT,
    Owner, RegistryAccess, Source, Summary,
};
use silt_types::{Error, Name, Result, format_size, parse_size};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::Instant,
};

/// Build an image from files or from a disk.
///
/// From a folder, a tar, a container image, a folder of an image, a raw disk or a qcow2 disk: `silt sources` says how each is
/// written. Everything is kept: owners, modes, times, links, devices, extended attributes, holes. An entry that cannot be
/// read, or a file that changes meanwhile, is an error (exit 10), and then nothing is published. The same files give the same
/// disk, byte for byte, on every machine, whatever they come from; a disk stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt build ./rootfs debian
  silt build ./rootfs debian --size 8GiB --replace
  silt build ./site www --owner 0:0 --json
  silt build rootfs.tar.zst debian
  curl -L https://example.org/rootfs.tar.xz | silt build - alpine
  silt build cloud.qcow2 cloud
  silt build debian:/root work --owner 0:0
  silt build docker://debian:13 debian
  silt build oci:layout:1.0 app --platform linux/arm64
  silt build ./rootfs debian --exclude '*.pyc' --add authorized_keys:/root/.ssh/

Without --size the disk holds the content and a quarter more; the output says how much of it is free.")]
pub(crate) struct Args {
    /// What to build from; `silt sources` lists what is understood.
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// Name of the image.
    image: String,
    /// Length of the disk, for example 512M or 20GiB.
    #[arg(long)]
    size: Option<String>,
    #[command(flatten)]
    edits: EditArgs,
    /// Take the place of an image of that name; volumes on the old one keep it.
    #[arg(long)]
    replace: bool,
    /// Let a qcow2 file name other files that the disk is read from.
    #[arg(long)]
    allow_backing: bool,
    /// Read every file, though it looks unchanged since it was read last.
    #[arg(long)]
    paranoid: bool,
    /// What the source is, whatever its content says: directory, tar, raw or qcow2.
    #[arg(long, value_name = "FORMAT")]
    from: Option<String>,
    /// The most that may come out of an archive.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Which of several images in a container image: OS/ARCHITECTURE[/VARIANT], as in linux/arm64 [default: Linux on this
    /// machine's architecture].
    #[arg(long)]
    platform: Option<String>,
    /// Speak to a registry without TLS. One on this machine is spoken to so where it offers none.
    #[arg(long)]
    plain_http: bool,
    /// none, lz4, zstd, or zstd:LEVEL with a level from 1 to 19.
    #[arg(long, value_name = "CODEC", default_value = "zstd")]
    compression: String,
}

/// Small edits of what the source has, in the order in which they stand here.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Edits, in this order")]
struct EditArgs {
    /// Owner of every entry, instead of its own.
    #[arg(long, value_name = "UID:GID")]
    owner: Option<String>,
    /// Leave out what matches: names anywhere, or paths from the root if there is a slash in it. May be repeated.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Remove a path, with all beneath it. May be repeated.
    #[arg(long, value_name = "PATH")]
    rm: Vec<PathBuf>,
    /// Add a file, or put it in place of another; it becomes root's. May be repeated.
    #[arg(long, value_name = "FILE:/PATH")]
    add: Vec<OsString>,
    /// Set the permissions of a path, in octal. May be repeated.
    #[arg(long, value_name = "MODE:/PATH")]
    chmod: Vec<OsString>,
    /// Set the owner of a path. May be repeated.
    #[arg(long, value_name = "UID:GID:/PATH")]
    chown: Vec<OsString>,
}

impl EditArgs {
    fn parse(&self) -> Result<Edits> {
        let add = |text: &OsString| {
            let (file, path) = split_at_path(text)?;
            Ok(AddedFile { file: file.into(), path })
        };
        let mode = |text: &OsString| {
            let (mode, path) = split_at_path(text)?;
            let bits = mode.to_str().and_then(|mode| u16::from_str_radix(mode, 8).ok());
            let bits = bits.filter(|bits| *bits <= 0o7777);
            let bits = bits.ok_or_else(|| {
                Error::invalid(format!("bad mode {mode:?}: give it in octal, as in 0755"))
            })?;
            Ok((path, bits))
        };
        let owner = |text: &OsString| {
            let (owner, path) = split_at_path(text)?;
            Ok((path, parse_owner(&owner.to_string_lossy())?))
        };
        Ok(Edits {
            owner: self.owner.as_deref().map(parse_owner).transpose()?,
            excluded: self.exclude.iter().map(|text| Glob::parse(text)).collect::<Result<_>>()?,
            removed: self.rm.clone(),
            added: self.add.iter().map(add).collect::<Result<_>>()?,
            modes: self.chmod.iter().map(mode).collect::<Result<_>>()?,
            owners: self.chown.iter().map(owner).collect::<Result<_>>()?,
        })
    }
}

/// What stands before the last `:/` and the path behind it.
fn split_at_path(text: &OsStr) -> Result<(&OsStr, PathBuf)> {
    let bytes = text.as_bytes();
    let cut = bytes.windows(2).rposition(|pair| pair == b":/").filter(|cut| *cut > 0);
    let cut = cut.ok_or_else(|| {
        Error::invalid(format!("{}: a path is missing, as in :/etc/hosts", text.display()))
    })?;
    Ok((OsStr::from_bytes(&bytes[..cut]), OsStr::from_bytes(&bytes[cut + 1..]).into()))
}

pub(crate) fn run(context: &Context, args: Args) -> Result<()> {
    let source = Source::parse(&args.source)?;
    let request = BuildRequest {
        name: args.image.parse()?,
        size_bytes: args.size.as_deref().map(parse_size).transpose()?,
        replace: args.replace,
        compression: args.compression.parse()?,
        format: args.from.as_deref().map(Format::parse).transpose()?,
        edits: args.edits.parse()?,
        max_size_bytes: args.max_size.as_deref().map_or(Ok(MAX_SIZE_BYTES_DEFAULT), parse_size)?,
        allow_backing: args.allow_backing,
        paranoid: args.paranoid,
        platform: args.platform,
        registry: RegistryAccess {
            plain_http: args.plain_http,
            credential_files: credential_files(),
            ..RegistryAccess::default()
        },
    };
    let started = Instant::now();
    let built = context.engine_or_new()?.build(&source, &request, &Bar::new())?;
    let seconds = started.elapsed().as_secs_f64();
    if built.layout.as_ref().is_some_and(|layout| !layout.has_journal()) {
        warn("note: a disk below 8 MiB has no journal");
    }
    built.notes.iter().for_each(|note| warn(&format!("note: {note}")));
    print(context.json, || document(&built, seconds), || text(&request.name, &built, seconds))
}

fn parse_owner(text: &str) -> Result<Owner> {
    let ids =
        text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    let (uid, gid) =
        ids.ok_or_else(|| Error::invalid(format!("bad owner {text:?}: give UID:GID, as in 0:0")))?;
    Ok(Owner { uid, gid })
}

fn document(built: &BuiltImage, seconds: f64) -> Value {
    let (record, counts, layout) = (&built.record, &built.counts, built.layout.as_ref());
    json!({
        "image": record.name.as_str(),
        "disk_id": record.disk.to_string(),
        "tree_id": record.tree.map(|tree| tree.to_string()),
        "no_tree": built.no_tree,
        "notes": built.notes,
        "size": record.disk.size_bytes,
        "bytes_read": built.bytes_read,
        "bytes_nonzero": counts.bytes,
        "bytes_new": counts.bytes_new,
        "bytes_deduplicated": counts.bytes - counts.bytes_new,
        "bytes_stored": counts.bytes_stored,
        "chunks": counts.chunks,
        "chunks_new": counts.chunks_new,
        "inodes": layout.map(|layout| layout.inodes),
        "bytes_free": layout.map(|layout| layout.blocks_free * 4096),
        "journal": layout.map(Summary::has_journal),
        "changes": built.changes.map(|changes| json!({
            "added": changes.added,
            "removed": changes.removed,
            "changed": changes.changed,
            "bytes_new": counts.bytes_new,
        })),
        "seconds": seconds,
    })
}

fn text(name: &Name, built: &BuiltImage, seconds: f64) -> String {
    let (record, counts) = (&built.record, &built.counts);
    let (size, read) = (format_size(record.disk.size_bytes), format_size(built.bytes_read));
    let (disk, read) = match &built.layout {
        None => (size, read),
        Some(layout) => (
            format!(
                "{size} ({} free, {} inodes{})",
                format_size(layout.blocks_free * 4096),
                layout.inodes,
                if layout.has_journal() { "" } else { ", no journal" }
            ),
            format!("{read} in {} files and folders", layout.inodes_used),
        ),
    };
    let tree =
        built.no_tree.as_ref().map_or_else(String::new, |why| format!("tree    none: {why}\n"));
    let changes = built.changes.map_or_else(String::new, |changes| {
        let Changes { added, removed, changed } = changes;
        format!("changes {added} paths added, {removed} removed, {changed} changed since the last image of that name\n")
    });
    format!(
        "built {name} in {seconds:.2} s\n\
         disk    {disk}\n\
         disk id {}\n\
         {tree}\
         {changes}\
         read    {read}\n\
         content {}, of which {} new and {} already in the store\n\
         stored  {} in {} new chunks of {}\n",
        record.disk,
        format_size(counts.bytes),
        format_size(counts.bytes_new),
        format_size(counts.bytes - counts.bytes_new),
        format_size(counts.bytes_stored),
        counts.chunks_new,
        counts.chunks,
    )
}
