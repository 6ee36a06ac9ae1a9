//! Serving a disk to block clients.

use crate::{
    broker::Broker,
    confinement::{Confinement, Rights, confine},
    control::{ControlServer, ServedVolume},
    device::OpenDisk,
    engine::Engine,
    remove::remove_folder,
};
use silt_export::{Export, ExportAddress, SocketFile, StopSignal};
use silt_store::{Named, StorePaths, VolumeRecord};
use silt_sys::durability::create_dir;
use silt_types::{Context as _, DiskName, Error, Name, Result};
use silt_volume::{BlockDevice as _, Geometry, Volume, VolumeLock};
use std::{path::PathBuf, sync::Arc, thread};

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The volume; an image or a snapshot too where `read_only` is set.
    pub name: DiskName,
    /// Where clients find it: one place, or several where `read_only` is set.
    pub exports: Vec<ExportAddress>,
    /// Whether writes are refused. Several processes may serve a volume that nobody writes.
    pub read_only: bool,
}

/// A disk that is being served.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where, with what was left to choose filled in.
    pub exports: Vec<ExportAddress>,
    /// What.
    pub geometry: Geometry,
}

impl Engine {
    /// Serves a disk until `stop` is given; then everything written is durable. `ready` is told once clients can
    /// connect. `Busy` if somebody else has it open.
    pub fn serve(
        &self,
        serving: &Serving,
        stop: &StopSignal,
        ready: impl FnOnce(&Served),
    ) -> Result<()> {
        self.prepare(serving)?.run(stop, ready)
    }

    /// Does all of [`Engine::serve`] that comes before the first client: opens the disk, takes its lock, and listens. What
    /// comes out has nothing of this engine but what its disk is read through.
    pub fn prepare(&self, serving: &Serving) -> Result<Prepared> {
        must_fit_together(serving)?;
        let paths = self.store.paths();
        let (disk, written) = self.open_to_serve(serving)?;
        let exports =
            serving.exports.iter().map(ExportAddress::bind).collect::<Result<Vec<_>>>()?;
        let mut rights = Rights { read: vec![paths.packs()], write: Vec::new() };
        let mut sockets: Vec<_> = exports.iter().filter_map(|export| export.socket()).collect();
        let written = written.map(|record| {
            let control = ControlServer::bind(paths, record.id)?;
            sockets.push(control.path().to_owned());
            rights.write.push(paths.volume(record.id));
            Ok((control, paths.clone(), record))
        });
        let written = written.transpose()?;
        let mut volume = disk.volume;
        volume.read_ahead();
        let volume = Arc::new(volume);
        Ok(Prepared { volume, lock: disk.lock, exports, written, rights, sockets })
    }

    /// Opens what is to be served; the record too of a volume that is to be written.
    fn open_to_serve(&self, serving: &Serving) -> Result<(OpenDisk, Option<VolumeRecord>)> {
        match (self.find(&serving.name)?, serving.read_only) {
            (Named::Image(image), true) => {
                let folder = use_folder(self.store.paths(), &image.name);
                create_dir(&folder)?;
                let lock = VolumeLock::share(&folder)?;
                Ok((self.open_sealed(image.disk, Some(lock))?, None))
            }
            (named, true) => {
                if let Named::Volume(record) = &named {
                    // A volume that was never written has no folder, and so nothing to lock.
                    create_dir(&self.store.paths().volume(record.id))?;
                }
                Ok((self.open_to_read(&serving.name)?, None))
            }
            (Named::Volume(record), false) => {
                let (disk, record) = self.open_to_write(&record)?;
                Ok((disk, Some(record)))
            }
            (other, false) => {
                let (name, kind) = (&serving.name, other.kind());
                let message =
                    format!("{name}, {kind}, never changes: clone it, or serve it read-only");
                Err(Error::invalid(message))
            }
        }
    }
}

/// A disk about to be served: open, locked, and listened for.
pub struct Prepared {
    volume: Arc<Volume>,
    lock: Option<VolumeLock>,
    exports: Vec<Box<dyn Export>>,
    /// Of a volume that is to be written.
    written: Option<(SocketFile, StorePaths, VolumeRecord)>,
    rights: Rights,
    sockets: Vec<PathBuf>,
}

impl Prepared {
    /// Takes from this process, for good, what serving does not need; `broker` does the rest, through which the disk must be
    /// read. `Unsupported` if `required` and the kernel cannot do all of it. To be called before there are other threads, and
    /// after everything else that holds the store was dropped.
    pub fn confine(&self, broker: &Broker, required: bool) -> Result<Confinement> {
        self.sockets.iter().try_for_each(|path| broker.remove_at_end(path))?;
        confine(&self.rights, broker, required)
    }

    /// Serves until `stop` is given; then everything written is durable. `ready` is told once clients are answered.
    pub fn run(self, stop: &StopSignal, ready: impl FnOnce(&Served)) -> Result<()> {
        let Prepared { volume, lock, exports, written, .. } = self;
        let addresses: Vec<_> = exports.iter().map(|export| export.address()).collect();
        if let (Some(lock), Some(first)) = (&lock, addresses.first()) {
            lock.note(&format!("{} {first}", std::process::id()))?;
        }
        let control = written.map(|(socket, paths, record)| {
            ControlServer::start(socket, ServedVolume::new(volume.clone(), paths, record))
        });
        let control = control.transpose()?;
        ready(&Served { exports: addresses, geometry: volume.geometry() });
        let served = run_all(&exports, &volume, stop);
        drop(control);
        let closed = volume.close();
        if let Some(lock) = &lock {
            lock.note("")?;
        }
        served.and(closed)
    }
}

/// Clients of several exports would each have a cache that knows nothing of the others' writes.
fn must_fit_together(serving: &Serving) -> Result<()> {
    match serving.exports.len() {
        0 => Err(Error::invalid(format!("{} is to be served nowhere", serving.name))),
        1 => Ok(()),
        _ if serving.read_only => Ok(()),
        several => Err(Error::invalid(format!(
            "{} cannot be served in {several} places at once, since it may be written: use --read-only",
            serving.name
        ))),
    }
}

/// Runs every export until `stop` is given or one of them fails, which ends all.
fn run_all(exports: &[Box<dyn Export>], volume: &Arc<Volume>, stop: &StopSignal) -> Result<()> {
    let run = |export: &dyn Export| {
        let ended = export.run(volume.clone(), stop);
        stop.trigger();
        ended
    };
    thread::scope(|scope| {
        let (first, others) = exports.split_first().expect("checked before anything was opened");
        let others: Vec<_> =
            others.iter().map(|export| scope.spawn(|| run(export.as_ref()))).collect();
        let mut ended = run(first.as_ref());
        for other in others {
            let other = other.join().map_err(|_| Error::internal("an export panicked"));
            ended = ended.and(other.and_then(|ended| ended));
        }
        ended
    })
}

/// Where the lock of those who serve an image is.
fn use_folder(paths: &StorePaths, image: &Name) -> PathBuf {
    paths.run().join(format!("{image}.image"))
}

/// `Busy`, naming who, if somebody serves the image. What killed servers left is removed.
pub(crate) fn image_in_use(paths: &StorePaths, image: &Name) -> Result<()> {
    let folder = use_folder(paths, image);
    if !folder.exists() {
        return Ok(());
    }
    let lock = VolumeLock::acquire(&folder).context(|| format!("image {image} cannot be had"))?;
    drop(lock);
    remove_folder(&folder)
}
