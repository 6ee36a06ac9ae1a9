//! Other layers under running I/O.

use super::*;
use crate::WriteMark;
use silt_types::Error;
use std::sync::Mutex;

impl Fixture {
    /// A new delta, and the folders as they are once the volume has rotated to it.
    pub(super) fn next(&mut self) -> Delta {
        self.frozen.insert(0, self.own.clone());
        self.add_delta();
        Delta::open(&self.own).unwrap()
    }
}

#[test]
fn writers_go_on_through_rotations_and_everything_answered_is_there() {
    let (mut fixture, bytes) = Fixture::new();
    let volume = fixture.open();
    let (stop, expected) = (AtomicBool::new(false), Mutex::new(bytes));
    thread::scope(|scope| {
        for writer in 0..3 {
            let (volume, stop, expected) = (&volume, &stop, &expected);
            scope.spawn(move || {
                // Each has sectors of its own, in blocks that it shares with the others.
                for round in 1.. {
                    let at = (round * 7 % (LEN / SECTOR / 3) * 3 + writer) * SECTOR;
                    let sector = [round as u8 ^ writer as u8; SECTOR];
                    volume.write_at(&sector, at as u64).unwrap();
                    expected.lock().unwrap()[at..at + SECTOR].copy_from_slice(&sector);
                    if round % 50 == 0 {
                        volume.flush().unwrap();
                    }
                    if stop.load(Ordering::Relaxed) && round > 2000 {
                        break;
                    }
                }
            });
        }
        for _ in 0..FROZEN_DELTAS_MAX {
            let next = fixture.next();
            volume.rotate(next, |_| Ok(())).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let expected = expected.into_inner().unwrap();
    assert_same(&read_all(&volume), &expected, "while it is open");
    let ids: Vec<u8> = volume.deltas().iter().map(|id| id.as_bytes()[0]).collect();
    assert_eq!(ids, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let ninth = Delta::create(&fixture.temp.path().join("x"), DeltaId::from_bytes([10; 16]), 1);
    assert_eq!(volume.rotate(ninth.unwrap(), |_| Ok(())).unwrap_err().kind(), ErrorKind::Busy);
    volume.close().unwrap();
    drop(volume);
    assert_same(&read_all(&fixture.open()), &expected, "opened again");
}

#[test]
fn writes_do_not_wait_for_a_rotation_to_be_recorded_and_flushes_do() {
    let (mut fixture, mut bytes) = Fixture::new();
    let volume = fixture.open();
    volume.write_at(&[1; SECTOR], 0).unwrap();
    let (flushed, next) = (AtomicBool::new(false), fixture.next());
    thread::scope(|scope| {
        let record = |_: WriteMark| {
            volume.write_at(&[2; SECTOR], SECTOR as u64).unwrap();
            scope.spawn(|| {
                volume.flush().unwrap();
                flushed.store(true, Ordering::Relaxed);
            });
            thread::sleep(std::time::Duration::from_millis(50));
            assert!(!flushed.load(Ordering::Relaxed), "answered before it was recorded");
            Ok(())
        };
        volume.rotate(next, record).unwrap();
    });
    assert!(flushed.load(Ordering::Relaxed));
    drop(volume); // As a crash would: what was flushed is there.
    bytes[..SECTOR].fill(1);
    bytes[SECTOR..2 * SECTOR].fill(2);
    assert_same(&read_all(&fixture.open()), &bytes, "after the flush");
}

#[test]
fn a_rotation_that_cannot_be_recorded_ends_writing() {
    let (mut fixture, mut bytes) = Fixture::new();
    let before = fixture.parts();
    let volume = fixture.open();
    volume.write_at(&[1; SECTOR], 0).unwrap();
    let next = fixture.next();
    let refused = |_: WriteMark| Err(Error::new(ErrorKind::NoSpace, "no room for the header"));
    assert_eq!(volume.rotate(next, refused).unwrap_err().kind(), ErrorKind::NoSpace);
    for _ in 0..2 {
        assert_eq!(volume.write_at(&[3], 0).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(volume.flush().unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(volume.close().unwrap_err().kind(), ErrorKind::Io);
    }
    assert_eq!(volume.needs_freezing().unwrap_err().kind(), ErrorKind::Io);
    let next = fixture.next();
    assert_eq!(volume.rotate(next, |_| Ok(())).unwrap_err().kind(), ErrorKind::Io);
    bytes[..SECTOR].fill(1);
    assert_same(&read_all(&volume), &bytes, "it still reads");
    drop(volume);
    assert_same(&read_all(&Volume::open(before).unwrap()), &bytes, "as it was before");
}

#[test]
fn a_rebase_changes_no_byte_and_fits_only_the_deltas_it_is_for() {
    let (mut fixture, _) = Fixture::new();
    let volume = fixture.open();
    volume.write_at(&pattern(5 * BLOCK, 9), 3 * BLOCK as u64 + 100).unwrap();
    volume.rotate(fixture.next(), |_| Ok(())).unwrap();
    let mut map = MapBuilder::new(&*fixture.chunks, LEN as u64).unwrap();
    for (block, content) in (0..).zip(read_all(&volume).chunks(BLOCK)) {
        if content.iter().any(|byte| *byte != 0) {
            let id = fixture.chunks.put(ChunkKind::DiskData, content).unwrap();
            map.map(block, 1, id, 0).unwrap();
        }
    }
    let sealed = map.finish().unwrap();
    volume.discard(0, 8 * BLOCK as u64).unwrap();
    volume.rotate(fixture.next(), |_| Ok(())).unwrap();
    volume.write_at(&[7; SECTOR], 0).unwrap();
    let before = read_all(&volume);
    let [own, middle, oldest] = volume.deltas()[..] else { panic!("three deltas") };
    for wrong in [vec![oldest], vec![own], vec![middle, oldest]] {
        assert_eq!(volume.rebase(sealed, &wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let long = DiskId { size_bytes: LEN as u64 + 1, ..sealed };
    assert_eq!(volume.rebase(long, &[middle]).unwrap_err().kind(), ErrorKind::Invalid);
    volume.rebase(sealed, &[middle]).unwrap();
    assert_eq!((volume.base(), volume.deltas()), (sealed, vec![own, middle]));
    assert_same(&read_all(&volume), &before, "rebased");
    volume.rebase(sealed, &[middle]).unwrap();
    volume.write_at(&[8; SECTOR], 0).unwrap();
    volume.flush().unwrap();
}
