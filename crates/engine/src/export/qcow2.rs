//! A qcow2 file, by `imago`: no backing file, nothing compressed, clusters that are zero not allocated.
//!
//! Source: `docs/interop/qcow2.rst` of QEMU.

use super::copy::Sink;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder as _, FormatDriverBuilder as _,
    file::File as ImageFile, qcow2::Qcow2,
};
use silt_types::{Context as _, Result};
use std::{fs::File, io, path::Path};

/// QEMU measures disks in these, and leaves out what is behind the last whole one.
const SECTOR_SIZE_BYTES: u64 = 512;

/// A qcow2 file.
///
/// Clusters are allocated as they are written. In order, so a guest that reads its disk from one end to the other reads the
/// file so too.
pub(super) struct Qcow2File(FormatAccess<ImageFile>);

impl Qcow2File {
    /// Makes a new file into a disk of this length, rounded up to whole sectors.
    pub(super) fn new(file: File, size_bytes: u64, path: &Path) -> Result<Qcow2File> {
        let create = || {
            let image = Qcow2::<ImageFile>::create_builder(ImageFile::try_from(file)?)
                .size(size_bytes.next_multiple_of(SECTOR_SIZE_BYTES))
                .create_open(DenyImplicitOpenGate::default(), |image| {
                    Ok(Qcow2::builder(image).backing(None).write(true))
                })?;
            Ok::<_, io::Error>(Qcow2File(FormatAccess::new(image)))
        };
        create().context(|| format!("cannot make {} a qcow2 file", path.display()))
    }

    /// Writes what is still in memory: tables and reference counts.
    pub(super) fn finish(self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Qcow2File {
    fn data(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write(bytes, offset)
    }

    fn zeros(&self, _offset: u64, _len_bytes: u64) -> io::Result<()> {
        Ok(())
    }
}
