//! Serving a disk to block clients.

use crate::{
    bounded::{Bounded, Told},
    broker::Broker,
    confinement::{Confinement, Rights, confine},
    control::{Access, ControlServer, Role, RunFolder, Samples, ServedDisk, Writing, send_passed},
    device::OpenDisk,
    engine::{Engine, now_ns},
    remove::remove_folder,
    servers::served_id,
    state::{must_be_in, state_above},
};
use silt_export::{
    Export, ExportAddress, Limited, Limits, Metered, SocketFile, StateSource, StopSignal,
};
use silt_format::state_of_disk;
use silt_store::{Named, StorePaths, WhenFull};
use silt_sys::durability::create_dir;
use silt_types::{Context as _, DiskName, Error, Name, Result, StateId};
use silt_volume::{BlockDevice as _, Geometry, Volume, VolumeLock};
use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, PoisonError},
    thread,
};

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The volume; an image or a snapshot too where `read_only` is set.
    pub name: DiskName,
    /// Where clients find it: one place, or several where `read_only` is set.
    pub exports: Vec<ExportAddress>,
    /// Whether writes are refused. Several processes may serve a volume that nobody writes.
    pub read_only: bool,
    /// What its clients together may take.
    pub limits: Limits,
    /// How far it may grow.
    pub bounds: VolumeBounds,
    /// The state that the disk must be in: another one is `Invalid`.
    pub expect: Option<StateId>,
}

/// How far a volume may grow while it is served, where that is not as the store says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeBounds {
    /// What its deltas may take, in bytes.
    pub delta_bytes_max: Option<u64>,
    /// What a guest meets whose write needs more.
    pub when_full: Option<WhenFull>,
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
        let opened = self.open_to_serve(serving)?;
        must_be_in(&serving.name, serving.expect, opened.state)?;
        let bind = || serving.exports.iter().map(ExportAddress::bind).collect();
        self.prepare_opened(serving, opened, bind)
    }

    /// Prepares to serve what was opened by the exports that `bind` makes.
    pub(crate) fn prepare_opened(
        &self,
        serving: &Serving,
        opened: Opened,
        bind: impl FnOnce() -> Result<Vec<Box<dyn Export>>>,
    ) -> Result<Prepared> {
        let paths = self.store.paths();
        let Opened { disk: OpenDisk { mut volume, lock }, kind, id, access, .. } = opened;
        let role = match &access {
            Access::Read(_) => Role::reader()?,
            Access::Write(_) => Role::Writer,
        };
        // Before clients can connect, so that whoever sees them served finds out by whom.
        let folder = RunFolder::create(paths, &id, &role)?;
        let control = SocketFile::bind_private(&folder.socket())?;
        let exports: Arc<[Box<dyn Export>]> = bind()?.into();
        let mut rights = Rights { read: vec![paths.packs()], write: Vec::new() };
        if let Access::Write(writing) = &access {
            rights.write.push(writing.folder());
            // Where they cannot be read, whoever writes hears of it; reading goes on.
            let limits = self.store.limits().unwrap_or_default();
            let delta_bytes_max = serving.bounds.delta_bytes_max;
            volume.bound_by(self.allowance.clone(), &limits, delta_bytes_max)?;
        }
        volume.read_ahead();
        Ok(Prepared {
            name: serving.name.clone(),
            kind,
            id,
            limits: serving.limits,
            when_full: serving.bounds.when_full,
            told: Box::new(|_| ()),
            cache_bytes: self.cache_bytes,
            volume: Arc::new(volume),
            lock,
            exports,
            access,
            folder,
            control,
            rights,
            broker: None,
        })
    }

    /// Opens what is to be served.
    pub(crate) fn open_to_serve(&self, serving: &Serving) -> Result<Opened> {
        let lease = self.store.lease()?;
        let named = self.find(&serving.name)?;
        let id = served_id(&named);
        match (named, serving.read_only) {
            (Named::Image(image), true) => {
                let folder = use_folder(self.store.paths(), &image.name);
                create_dir(&folder)?;
                let lock = VolumeLock::share(&folder)?;
                let disk = self.open_sealed(image.disk, Some(lease), Some(lock))?;
                let state = state_of_disk(&image.disk);
                Ok(Opened::to_read(disk, "image", id, state))
            }
            (Named::Volume(record), true) => {
                // A volume that was never written has no folder, and so nothing to lock.
                create_dir(&self.store.paths().volume(record.id))?;
                let disk = self.open_to_read(&serving.name)?;
                // It does not change any more, so what a killed server left may become durable late.
                let state = self.settle_at_rest(&record)?;
                Ok(Opened::to_read(disk, "volume", id, state))
            }
            (Named::Snapshot(snapshot), true) => {
                let disk = self.open_to_read(&serving.name)?;
                Ok(Opened::to_read(disk, "snapshot", id, snapshot.state))
            }
            (Named::Volume(record), false) => {
                let (disk, record) = self.open_to_write(&record)?;
                let mark = disk.volume.newest_mark();
                let state = mark.map_or(record.state, |mark| state_above(record.state, mark));
                let access = Access::Write(Writing::new(self.store.paths().clone(), record));
                Ok(Opened { disk, kind: "volume", id, state, access })
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
    name: DiskName,
    kind: &'static str,
    id: String,
    limits: Limits,
    when_full: Option<WhenFull>,
    told: Told,
    cache_bytes: u64,
    volume: Arc<Volume>,
    lock: Option<VolumeLock>,
    exports: Arc<[Box<dyn Export>]>,
    access: Access,
    folder: RunFolder,
    control: SocketFile,
    rights: Rights,
    broker: Option<Broker>,
}

impl Prepared {
    /// Takes from this process, for good, what serving does not need; `broker` does the rest, through which the disk must be
    /// read. `Unsupported` if `required` and the kernel cannot do all of it. To be called before there are other threads, and
    /// after everything else that holds the store was dropped.
    pub fn confine(&mut self, broker: &Broker, required: bool) -> Result<Confinement> {
        let sockets = self.exports.iter().filter_map(|export| export.socket());
        let lease = self.volume.lease().map(|lease| lease.path().to_owned());
        sockets
            .chain(lease)
            .chain([self.folder.path().to_owned()])
            .try_for_each(|path| broker.remove_at_end(&path))?;
        let mut mounts = self.exports.iter().filter_map(|export| export.mount());
        mounts.try_for_each(|mount| broker.undo_at_end(mount))?;
        self.broker = Some(broker.clone());
        confine(&self.rights, broker, required)
    }

    /// Lets `told` hear when the volume is full, and when it is not any more.
    pub fn tell_when_full(&mut self, told: impl Fn(&str) + Send + Sync + 'static) {
        self.told = Box::new(told);
    }

    /// Serves until `stop` is given; then everything written is durable. Or until another server has asked to take over; then
    /// that is so too, and the clients are its own. `ready` is told once clients are answered.
    pub fn run(self, stop: &StopSignal, ready: impl FnOnce(&Served)) -> Result<()> {
        let Prepared { volume, lock, exports, folder, broker, .. } = self;
        let successor = Arc::default();
        let addresses: Vec<_> = exports.iter().map(|export| export.address()).collect();
        if let (Some(lock), Some(first)) = (&lock, addresses.first()) {
            lock.note(&format!("{} {first}", std::process::id()))?;
        }
        let bounded = Bounded::new(volume.clone(), self.when_full, self.told, stop.clone());
        let bounded = Arc::new(bounded);
        let limited = (!self.limits.are_none())
            .then(|| Arc::new(Limited::new(bounded.clone(), self.limits, stop.clone())));
        let device = Arc::new(Metered::new(match &limited {
            Some(limited) => limited.clone(),
            None => bounded.clone(),
        }));
        let served = Arc::new(ServedDisk {
            name: self.name,
            kind: self.kind,
            id: self.id,
            cache_bytes: self.cache_bytes,
            volume: volume.clone(),
            exports: exports.clone(),
            meter: device.meter(),
            limited,
            bounded,
            stop: stop.clone(),
            access: self.access,
            successor: Arc::clone(&successor),
            started_ns: now_ns(),
            samples: Samples::start(),
        });
        // Which has the exports: so they do not keep it.
        let disk = Arc::downgrade(&served);
        let state: StateSource = Arc::new(move || {
            let disk = disk.upgrade().ok_or_else(|| Error::invalid("the disk is let go of"))?;
            disk.settle().map(|id| id.to_string())
        });
        exports.iter().for_each(|export| export.tell_state(state.clone()));
        let control = ControlServer::start(self.control, served)?;
        ready(&Served { exports: addresses, geometry: volume.geometry() });
        let served = run_all(&exports, &device, stop);
        drop(control);
        let closed = volume.close();
        // Before the lock: whoever gets that finds no other server's folder.
        drop(folder);
        if let Some(lock) = &lock {
            lock.note("")?;
        }
        served.and(closed)?;
        let successor = successor.lock().unwrap_or_else(PoisonError::into_inner).take();
        successor.map_or(Ok(()), |successor| {
            // Nobody finds the disk in use from here on.
            drop((device, volume, lock));
            pass_on(&exports, broker.as_ref(), &successor)
        })
    }
}

/// Gives the clients of exports that were run to their end to whoever has taken over.
fn pass_on(
    exports: &[Box<dyn Export>],
    broker: Option<&Broker>,
    successor: &UnixStream,
) -> Result<()> {
    if let Some(broker) = broker {
        broker.leave_exports()?;
    }
    let passed = exports.iter().filter_map(|export| Some((export.address(), export.passed_on()?)));
    send_passed(successor, passed.collect())
}

/// A disk that is open to be served.
pub(crate) struct Opened {
    disk: OpenDisk,
    kind: &'static str,
    /// Id of the volume or snapshot, first half of the root of an image's disk.
    id: String,
    /// The state it is in.
    state: StateId,
    access: Access,
}

impl Opened {
    fn to_read(disk: OpenDisk, kind: &'static str, id: String, state: StateId) -> Opened {
        Opened { disk, kind, id, state, access: Access::Read(state) }
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
fn run_all(exports: &[Box<dyn Export>], device: &Arc<Metered>, stop: &StopSignal) -> Result<()> {
    let run = |export: &dyn Export| {
        let ended = export.run(device.clone(), stop);
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
