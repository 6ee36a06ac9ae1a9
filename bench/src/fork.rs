//! Dedup after a fork: two clones of a Debian image get the same packages in another order, and are sealed.
//!
//! Each clone is served, mounted by the kernel, and Debian's own dpkg installs in it. They are snapshotted twice over: with
//! the file system unmounted, and with it still mounted and its journal full of what is not in its place yet.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use silt_ext4::reader::{Ext4, FileDisk};
use silt_types::DiskId;

use crate::server::Mounted;
use crate::sharing::{Cells, GRIDS, Sharing, in_store, on_grid};
use crate::side::{json, number, output, program, remove, settle, silt, timed_seal};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// What is done with the file system before the snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unmounted,
    Mounted,
}

/// The room, the packages, and one table for each state.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 2)?;
    let packages = bench.scratch.join("packages");
    output(&mut program(bench.repository.join("bench/packages.sh"), [&packages]))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&packages)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.ends_with(".deb").then_some(name));
    }
    names.sort();
    let room = bench.room("fork")?;
    let store = room.join("store");
    output(silt(bench, &store, ["build", "--size", "2GiB"]).arg(&tree).arg("debian"))?;
    let fork = Fork { bench, room, store, packages };
    let base = Cells::of(&fork.export("debian")?)?;
    let mut tables = Vec::new();
    for state in [State::Unmounted, State::Mounted] {
        tables.push(fork.measure(&base, &names, state)?);
    }
    remove(&fork.room)?;
    Ok(tables)
}

struct Fork<'a> {
    bench: &'a Bench,
    room: PathBuf,
    store: PathBuf,
    packages: PathBuf,
}

impl Fork<'_> {
    fn measure(&self, base: &Cells, names: &[String], state: State) -> Result<Table> {
        let what = match state {
            State::Unmounted => "unmounted",
            State::Mounted => "mounted",
        };
        let clones = ["first", "second"].map(|clone| format!("{what}-{clone}"));
        let mut order = names.to_vec();
        for clone in &clones {
            self.install(clone, &order, state)?;
            order.reverse();
        }
        let snapshots = clones.each_ref().map(|clone| format!("{clone}@done"));
        let first = Cells::of(&self.export(&snapshots[0])?)?;
        let raw = self.export(&snapshots[1])?;
        let second = Cells::of(&raw)?;
        let changed = second.changed(base);
        let dirty = |name| {
            let info = json(&mut silt(self.bench, &self.store, ["info", name, "--json"]))?;
            Ok::<f64, Box<dyn std::error::Error>>(number(&info, "blocks_modified")? * 4096.0 / 1e6)
        };
        let mut sealing = Vec::new();
        for (clone, snapshot) in clones.iter().zip(&snapshots) {
            let dirty = dirty(snapshot)?;
            let mut seal = silt(self.bench, &self.store, ["seal", clone]);
            sealing.push((dirty, timed_seal(&mut seal)?));
        }
        let disks = [self.disk("debian")?, self.disk(&snapshots[0])?, self.disk(&snapshots[1])?];
        let ours = in_store(&self.store, disks, &changed)?;
        let grids: [Sharing; GRIDS.len()] =
            std::array::from_fn(|grid| on_grid(grid, base, &first, &second, &changed));
        let title = format!(
            "Dedup after a fork of Debian tree 2, {} packages in another order, file system {what}",
            names.len()
        );
        let mut table = table(title, &ours, &grids);
        let changed_bytes = changed.iter().filter(|changed| **changed).count() * 4096;
        table.alone("changed by the second clone", changed_bytes as f64 / 1e6, "MB", "");
        lost(&mut table, &raw, &ours, &grids[0])?;
        let stored = match state {
            State::Unmounted => ["nothing of it there before", "what it shares there before"],
            State::Mounted => ["all of its files there before"; 2],
        };
        for ((dirty, (seconds, took)), stored) in sealing.into_iter().zip(stored) {
            table.alone(&format!("silt seal, {stored}"), dirty / seconds, "MB/s", ">= 300");
            table.alone("  until its process has ended", took.seconds, "s", "");
            table.alone("  processor time", took.processor, "s", "");
            table.alone("  peak resident", took.resident_mib, "MiB", "<= 256 MiB");
        }
        if needs_recovery(&raw)? {
            table.note("the journal holds what is not in its place yet");
        } else if state == State::Mounted {
            return Err("a mounted file system whose journal is empty shows nothing".into());
        }
        table.note("of the blocks that the second clone changed: those in a chunk or cell that image or first clone have");
        table.note("chunks: distinct, of both clones and not of the image; added: bytes of those that the second brings, before compression");
        Ok(table)
    }

    /// Makes a clone, installs the packages in this order, and snapshots it.
    fn install(&self, clone: &str, packages: &[String], state: State) -> Result<()> {
        output(&mut silt(self.bench, &self.store, ["clone", "debian", clone]))?;
        let mut mounted = Mounted::new(self.bench, &self.store, &self.room, clone, "")?;
        let inside = mounted.files.join("mnt");
        output(program("mount", ["--bind"]).arg(&self.packages).arg(&inside))?;
        let installed = packages.iter().try_for_each(|package| {
            let mut dpkg = program("chroot", [&mounted.files]);
            dpkg.args(["dpkg", "--install"]).arg(Path::new("/mnt").join(package));
            dpkg.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
            dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            output(&mut dpkg).map(drop)
        });
        output(&mut program("umount", [&inside]))?;
        installed?;
        settle()?;
        if state == State::Unmounted {
            mounted.unmount()?;
        }
        let snapshot = format!("{clone}@done");
        let mut command = silt(self.bench, &self.store, ["snapshot", &snapshot]);
        output(command.env("SILT_SEAL", "manual")).map(drop)
    }

    /// A raw copy of a disk.
    fn export(&self, name: &str) -> Result<PathBuf> {
        let raw = self.room.join(format!("{name}.img"));
        output(silt(self.bench, &self.store, ["export", name]).arg(&raw))?;
        Ok(raw)
    }

    fn disk(&self, name: &str) -> Result<DiskId> {
        let info = json(&mut silt(self.bench, &self.store, ["info", name, "--json"]))?;
        let id = info["disk_id"].as_str().ok_or_else(|| format!("{name} is not sealed"))?;
        Ok(id.parse()?)
    }
}

fn table(title: String, ours: &Sharing, grids: &[Sharing; GRIDS.len()]) -> Table {
    let mut table = Table::new(title);
    let mut rows = |what: &str, unit, figure: &dyn Fn(&Sharing) -> f64, target: &str| {
        for (grid, blocks) in grids.iter().zip(GRIDS) {
            let peer = format!("grid of {} KiB", blocks * 4);
            let target = if blocks == 1 { target } else { "" };
            table.beside(what, (figure(ours), unit), &peer, figure(grid), target);
        }
    };
    rows("shared", "MB", &|sharing| sharing.bytes_shared() as f64 / 1e6, ">= 0.97");
    rows("chunks", "", &|sharing| sharing.chunks as f64, "<= 0.333");
    rows("added by the second", "MB", &|sharing| sharing.bytes_added as f64 / 1e6, "");
    table
}

/// Whether the superblock of an ext4 says that its journal is in use (`INCOMPAT_RECOVER`, 0x4 of the word at 0x60).
fn needs_recovery(raw: &Path) -> Result<bool> {
    let mut features = [0; 4];
    std::fs::File::open(raw)?.read_exact_at(&mut features, 1024 + 0x60)?;
    Ok(features[0] & 4 != 0)
}

/// Where the blocks lie that the 4 KiB grid shares and our chunks do not.
fn lost(table: &mut Table, raw: &Path, ours: &Sharing, grid: &Sharing) -> Result<()> {
    let mut lost: Vec<bool> =
        grid.shared.iter().zip(&ours.shared).map(|(grid, ours)| *grid && !*ours).collect();
    let mut take = |start: u64, len: u64| {
        let blocks = lost.get_mut(start as usize..(start + len) as usize).unwrap_or_default();
        let taken = blocks.iter().filter(|lost| **lost).count();
        blocks.fill(false);
        taken
    };
    let (mut whole, mut last) = (0, 0);
    let ext4 = Ext4::open(FileDisk::new(std::fs::File::open(raw)?)?)?;
    ext4.for_each_file_extent(&mut |inode, extent| {
        // The step that the file ends in is shorter, and may hold something behind the end.
        let end = inode.size_bytes.div_ceil(65_536).saturating_sub(1) * 16;
        let before = end.saturating_sub(extent.logical).min(extent.len);
        whole += take(extent.physical, before);
        last += take(extent.physical + before, extent.len - before);
        Ok(())
    })?;
    let rest = lost.iter().filter(|lost| **lost).count();
    let rows =
        [("whole steps of files", whole), ("last steps of files", last), ("elsewhere", rest)];
    for (what, blocks) in rows {
        let what = format!("shared by the 4 KiB grid alone: {what}");
        table.alone(&what, (blocks * 4096) as f64 / 1e6, "MB", "");
    }
    Ok(())
}
