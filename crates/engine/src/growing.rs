//! Growing a volume under its clients, by an export that can tell them.

use crate::{
    CloneRequest, Engine, ResizeRequest, Serving, VerifyRequest, VolumeBounds,
    control::ControlClient, control::Layering,
};
use silt_export::{Export, ExportAddress, Limits, StopSignal, nbd::Listen};
use silt_store::VolumeRecord;
use silt_types::{DiskId, DiskName, ErrorKind, Name, NoProgress, Result};
use silt_volume::BlockDevice;
use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};
use tempfile::TempDir;

const LEN: u64 = 4 << 20;

/// An export whose only client is the test.
#[derive(Clone, Default)]
struct Fake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    device: Mutex<Option<Arc<dyn BlockDevice>>>,
    is_there: Condvar,
    told: AtomicUsize,
    cannot_grow: bool,
}

impl Fake {
    fn device(&self) -> Arc<dyn BlockDevice> {
        let device = self.0.device.lock().unwrap();
        let device = self.0.is_there.wait_while(device, |device| device.is_none()).unwrap();
        device.clone().unwrap()
    }

    fn told(&self) -> usize {
        self.0.told.load(Ordering::Relaxed)
    }
}

impl Export for Fake {
    fn address(&self) -> ExportAddress {
        ExportAddress::Nbd(Listen::Unix("nowhere".into()))
    }

    fn clients(&self) -> usize {
        1
    }

    fn socket(&self) -> Option<std::path::PathBuf> {
        None
    }

    fn can_grow(&self) -> bool {
        !self.0.cannot_grow
    }

    fn grown(&self) {
        let device = self.0.device.lock().unwrap();
        assert!(device.as_ref().is_some_and(|device| device.geometry().size_bytes > LEN));
        self.0.told.fetch_add(1, Ordering::Relaxed);
    }

    fn run(&self, device: Arc<dyn BlockDevice>, stop: &StopSignal) -> Result<()> {
        *self.0.device.lock().unwrap() = Some(device.clone());
        self.0.is_there.notify_all();
        while !stop.is_triggered() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // The volume is closed by whoever serves it.
        self.0.device.lock().unwrap().take();
        device.flush()
    }
}

/// A store with a volume `vm` of zeros.
fn furnished() -> (TempDir, Engine, DiskName) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open_or_create(&dir.path().join("store"), 1 << 20).unwrap();
    let disk = DiskId { root: DiskId::ZERO_ROOT, size_bytes: LEN };
    let image = silt_store::ImageRecord {
        name: "image".parse().unwrap(),
        disk,
        tree: None,
        config: None,
        created_ns: 0,
        bytes_nonzero: 0,
    };
    engine.store.change("test", |change| change.put_image(&image, false)).unwrap();
    let (source, volumes) = ("image".parse().unwrap(), vec!["vm".parse().unwrap()]);
    engine.clone_disk(&CloneRequest { source, volumes }).unwrap();
    (dir, engine, "vm".parse().unwrap())
}

/// Lets `f` do things while `vm` is served by these exports.
fn while_served(engine: &Engine, fakes: &[Fake], f: impl FnOnce()) {
    let stop = StopSignal::new().unwrap();
    let serving = Serving {
        name: "vm".parse().unwrap(),
        exports: Vec::new(),
        read_only: false,
        limits: Limits::default(),
        bounds: VolumeBounds::default(),
        expect: None,
    };
    let boxed = |fake: &Fake| Box::new(fake.clone()) as Box<dyn Export>;
    let exports: Vec<_> = fakes.iter().map(boxed).collect();
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let opened = engine.open_to_serve(&serving)?;
            let prepared = engine.prepare_opened(&serving, opened, || Ok(exports))?;
            prepared.run(&stop, move |_| ready.send(()).unwrap())
        });
        is_ready.recv().unwrap();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        stop.trigger();
        server.join().unwrap().unwrap();
        done.unwrap();
    });
}

fn resize(engine: &Engine, size_bytes: u64) -> Result<VolumeRecord> {
    let volume: Name = "vm".parse().unwrap();
    engine.resize(&ResizeRequest { volume, size_bytes, shrink: false }, &NoProgress)
}

fn read(device: &dyn BlockDevice, offset: u64) -> u8 {
    let mut byte = [0; 1];
    device.read_at(&mut byte, offset).unwrap();
    byte[0]
}

#[test]
fn a_served_volume_grows_under_its_client_as_often_as_it_is_asked_to() {
    let (_dir, engine, vm) = furnished();
    let fake = Fake::default();
    while_served(&engine, std::slice::from_ref(&fake), || {
        let device = fake.device();
        device.write_at(&[1; 8192], LEN - 8192).unwrap();
        // More often than there can be frozen deltas: the oldest is sealed then.
        for round in 1..=12 {
            let before = engine.state(&vm).unwrap();
            let size = LEN + round * 12_345;
            assert_eq!(device.geometry().size_bytes, LEN + (round - 1) * 12_345);
            assert!(device.write_at(&[1], size - 1).is_err());
            assert_eq!(resize(&engine, size).unwrap().size_bytes, size);
            assert_eq!(device.geometry().size_bytes, size);
            assert_eq!(fake.told(), round as usize);
            assert!(engine.state(&vm).unwrap() != before, "another length is another state");
            assert_eq!(read(device.as_ref(), size - 1), 0);
            device.write_at(&[round as u8], size - 1).unwrap();
        }
        // As long as it is.
        resize(&engine, LEN + 12 * 12_345).unwrap();
        assert_eq!(fake.told(), 12);
        assert_eq!(resize(&engine, LEN).unwrap_err().kind(), ErrorKind::Invalid);
    });
    let disk = engine.open_to_read(&vm).unwrap().volume;
    assert_eq!(disk.geometry().size_bytes, LEN + 12 * 12_345);
    assert_eq!((read(&disk, LEN - 1), read(&disk, LEN)), (1, 0));
    (1..=12).for_each(|round| assert_eq!(read(&disk, LEN + round * 12_345 - 1), round as u8));
    assert!(engine.verify(&VerifyRequest::default(), &NoProgress).unwrap().damages.is_empty());
}

#[test]
fn one_export_that_cannot_tell_keeps_all_from_growing() {
    let (_dir, engine, _) = furnished();
    let deaf = Fake(Arc::new(Inner { cannot_grow: true, ..Inner::default() }));
    let fakes = [Fake::default(), deaf];
    while_served(&engine, &fakes, || {
        let device = fakes[0].device();
        let error = resize(&engine, 2 * LEN).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.chain().contains("stop it first"), "{error:?}");
        assert_eq!((device.geometry().size_bytes, fakes[0].told()), (LEN, 0));
    });
    assert_eq!(resize(&engine, 2 * LEN).unwrap().size_bytes, 2 * LEN);
}

/// The command that asked for it was killed before the catalog followed: the volume is longer all the same, for its server
/// and, after that, for everybody.
#[test]
fn what_a_killed_command_made_longer_stays_so_with_all_that_was_written_there() {
    let (_dir, engine, vm) = furnished();
    let fake = Fake::default();
    while_served(&engine, std::slice::from_ref(&fake), || {
        let device = fake.device();
        device.write_at(&[1; 4096], 0).unwrap();
        let record = engine.find_volume(&vm.name).unwrap();
        let server = ControlClient::connect(engine.store.paths(), &record).unwrap().unwrap();
        server.grow(&Layering::of(&record), record.generation + 1, 2 * LEN).unwrap();
        assert_eq!(engine.find_volume(&vm.name).unwrap().size_bytes, LEN);
        device.write_at(&[9; 4096], 2 * LEN - 4096).unwrap();
        device.flush().unwrap();
    });
    let disk = engine.open_to_read(&vm).unwrap().volume;
    assert_eq!(disk.geometry().size_bytes, 2 * LEN);
    assert_eq!((read(&disk, 0), read(&disk, 2 * LEN - 1)), (1, 9));
    assert_eq!(engine.find_volume(&vm.name).unwrap().size_bytes, 2 * LEN);
    assert!(engine.verify(&VerifyRequest::default(), &NoProgress).unwrap().damages.is_empty());
}
