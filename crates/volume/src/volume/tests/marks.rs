//! What a state of the disk is known by: the mark of its newest delta.

use super::*;
use crate::WriteMark;

fn mark(delta: u8, generation: u64) -> WriteMark {
    WriteMark { delta: DeltaId::from_bytes([delta; 16]), generation }
}

/// Nobody told the volume to close, as when its process was killed.
fn killed(fixture: &Fixture, volume: Volume) -> Volume {
    drop(volume);
    fixture.open()
}

#[test]
fn what_was_told_goes_by_its_mark_until_something_is_written_through_any_kill() {
    let (fixture, _) = Fixture::new();
    let volume = fixture.open();
    let id = volume.deltas()[0].as_bytes()[0];
    assert_eq!(volume.settled(), Some(mark(id, 0)));
    volume.write_at(&[1; SECTOR], 0).unwrap();
    assert_eq!(volume.settled(), None);
    assert_eq!(volume.settle().unwrap(), mark(id, 1));
    assert_eq!((volume.settle().unwrap(), volume.settled()), (mark(id, 1), Some(mark(id, 1))));
    // A kill changes nothing, and neither does being looked at, closed and opened.
    let volume = killed(&fixture, volume);
    assert_eq!(volume.settled(), None, "what is cached may not be durable");
    assert_eq!(volume.settle().unwrap(), mark(id, 1));
    volume.close().unwrap();
    let volume = killed(&fixture, volume);
    assert_eq!(volume.settled(), Some(mark(id, 1)));
    // Overwriting what is in already counts as well, once for all that follows, and before any flush.
    volume.write_at(&[2; SECTOR], 0).unwrap();
    volume.write_at(&[3; SECTOR], 0).unwrap();
    let volume = killed(&fixture, volume);
    assert_eq!(volume.settle().unwrap(), mark(id, 2));
    volume.discard(0, BLOCK as u64).unwrap();
    let volume = killed(&fixture, volume);
    assert_eq!(volume.settle().unwrap(), mark(id, 3));
    volume.write_zeroes(7, 9, false).unwrap();
    assert_eq!(volume.newest_mark(), Some(mark(id, 4)));
    volume.close().unwrap();
    let mut parts = fixture.parts();
    parts.frozen.insert(0, parts.own.take().unwrap());
    assert_eq!(Volume::open(parts).unwrap().newest_mark(), Some(mark(id, 4)));
}

#[test]
fn a_rotation_ends_with_the_mark_of_what_it_froze_and_begins_unwritten() {
    let (mut fixture, _) = Fixture::new();
    let volume = fixture.open();
    volume.write_at(&[1; SECTOR], 0).unwrap();
    let frozen = volume.newest_mark().unwrap();
    let next = fixture.next();
    let id = next.id().as_bytes()[0];
    let mut told = None;
    volume
        .rotate(next, |mark| {
            told = Some(mark);
            Ok(())
        })
        .unwrap();
    assert_eq!((told, volume.settled()), (Some(frozen), Some(mark(id, 0))));
    assert!(!volume.needs_freezing().unwrap());
    volume.write_at(&[1; SECTOR], 0).unwrap();
    assert_eq!((volume.settled(), volume.newest_mark()), (None, Some(mark(id, 1))));
    assert!(volume.needs_freezing().unwrap());
}

#[test]
fn writers_at_once_begin_one_generation_and_a_state_is_told_between_their_writes() {
    let (fixture, _) = Fixture::new();
    let volume = fixture.open();
    let started = volume.settle().unwrap();
    thread::scope(|scope| {
        for at in 0..4 {
            let volume = &volume;
            scope.spawn(move || volume.write_at(&[1; SECTOR], at * BLOCK as u64).unwrap());
        }
    });
    let first = volume.settle().unwrap();
    assert_eq!(first.generation, started.generation + 1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                volume.write_at(&[2; SECTOR], 0).unwrap();
            }
        });
        // Each state that is told has a mark of its own if a write came since the one before.
        let marks: Vec<u64> = (0..20).map(|_| volume.settle().unwrap().generation).collect();
        done.store(true, Ordering::Relaxed);
        assert!(marks.is_sorted());
    });
}

#[test]
fn a_disk_grows_under_its_writers_once_that_is_recorded() {
    let (mut fixture, mut bytes) = Fixture::new();
    let volume = fixture.open();
    volume.write_at(&[1; SECTOR], 0).unwrap();
    volume.write_at(&[8; SECTOR], (LEN - SECTOR) as u64).unwrap();
    bytes[..SECTOR].fill(1);
    bytes[LEN - SECTOR..].fill(8);
    let longer = LEN + 3 * BLOCK + SECTOR;
    fixture.frozen.insert(0, fixture.own.clone());
    let (dir, id) = (fixture.temp.path().join("longer"), DeltaId::from_bytes([77; 16]));
    let next = Delta::create(&dir, id, longer as u64).unwrap();
    volume
        .rotate(next, |_| {
            assert_eq!(volume.geometry().size_bytes, LEN as u64);
            assert!(volume.write_at(&[9; SECTOR], LEN as u64).is_err());
            Ok(())
        })
        .unwrap();
    fixture.own = dir;
    assert_eq!(volume.geometry().size_bytes, longer as u64);
    volume.write_at(&[9; SECTOR], (longer - SECTOR) as u64).unwrap();
    bytes.resize(longer, 0);
    bytes[longer - SECTOR..].fill(9);
    let mut read = vec![7; longer];
    volume.read_at(&mut read, 0).unwrap();
    assert_same(&read, &bytes, "grown");
    let short = Delta::create(&fixture.temp.path().join("short"), DeltaId::from_bytes([78; 16]), 1);
    assert_eq!(volume.rotate(short.unwrap(), |_| Ok(())).unwrap_err().kind(), ErrorKind::Internal);
    volume.close().unwrap();
    drop(volume);
    let parts = VolumeParts { size_bytes: longer as u64, ..fixture.parts() };
    let volume = Volume::open(parts).unwrap();
    volume.read_at(&mut read, 0).unwrap();
    assert_same(&read, &bytes, "opened again");
}

#[test]
fn a_disk_whose_growth_cannot_be_recorded_stays_as_long_as_it_was() {
    let (fixture, _) = Fixture::new();
    let volume = fixture.open();
    let dir = fixture.temp.path().join("longer");
    let next = Delta::create(&dir, DeltaId::from_bytes([77; 16]), 2 * LEN as u64).unwrap();
    let refused = |_| Err(silt_types::Error::new(ErrorKind::NoSpace, "no room for the header"));
    assert_eq!(volume.rotate(next, refused).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(volume.geometry().size_bytes, LEN as u64);
    let mut byte = [0];
    assert_eq!(volume.read_at(&mut byte, LEN as u64).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(volume.write_at(&byte, 0).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(volume.settled(), None);
    assert_eq!(volume.settle().unwrap_err().kind(), ErrorKind::Io);
}
