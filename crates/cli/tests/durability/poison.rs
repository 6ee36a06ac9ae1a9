//! A failed fsync poisons a volume: nothing written after it is taken for durable until the volume is opened anew.

use super::{
    facts::{complaints, look},
    guest::{Ask, Guest, History, Moment, Request, request},
    scenes::Props,
    stage::{Served, Stage},
};
use silt_testkit::fault::{Errno, Later, OpClass, Plan};
use std::cell::RefCell;

const THREE: [Request; 3] = [
    request(Ask::Write, 0, 8192),
    request(Ask::Write, 700 << 10, 512),
    request(Ask::WriteFua, 16 << 10, 4096),
];

#[test]
fn fuse_after_a_failed_fsync_every_write_and_flush_fails_on_every_connection() {
    let props = Props::new();
    let before = look(&props.store()).unwrap();
    // The sync of the data, and that of the map behind it.
    for sync in [0, 1] {
        let Some(stage) = Stage::over(&props.store()) else { return };
        let served = Served::start(&stage.store(), "idle", &stage.socket()).unwrap();
        let mut history = History::new(before.disks["idle"].clone());
        let marks = RefCell::new(Vec::new());
        let note = |mark| marks.borrow_mut().push(mark);
        let session = served.connect().unwrap();
        let mut guest = Guest { session, history: &mut history, note: &note };
        guest.ask_all(&THREE);
        let class = OpClass::Sync;
        let plan = Plan::FailAt { class, op: sync, errno: Errno::IO, later: Later::Work };
        assert_eq!(guest.ask(request(Ask::Write, 600 << 10, 8192)).unwrap(), 0);
        stage.layer.set_plan(plan);
        assert_eq!(guest.flush().unwrap(), 5, "EIO");
        assert!(stage.layer.tripped());
        let mut other = served.connect().unwrap();
        for _ in 0..2 {
            for request in THREE {
                assert_eq!(guest.ask(request).unwrap(), 5, "{request:?}");
            }
            assert_eq!(guest.flush().unwrap(), 5);
            // Trims and zeroes too, of blocks that would need work.
            assert_eq!(other.ask((0, 4), (0, 4096), b"").unwrap().error, 5);
            assert_eq!(other.ask((0, 6), (0, 4096), b"").unwrap().error, 5);
            assert_eq!(other.ask((1, 1), (0, 512), &[1; 512]).unwrap().error, 5);
            assert_eq!(other.ask((0, 3), (0, 0), b"").unwrap().error, 5);
        }
        assert_eq!(other.ask((0, 0), (0, 4096), b"").unwrap().error, 0, "reading goes on");
        let answer = served.terminate();
        assert_eq!(answer.code(), 10, "it does not end as if all were well: {}", answer.stderr);

        history.lost_from(THREE.len());
        let served = Served::start(&stage.store(), "idle", &stage.socket()).unwrap();
        let session = served.connect().unwrap();
        let mut guest = Guest { session, history: &mut history, note: &note };
        guest.ask_all(&THREE);
        assert_eq!(served.terminate().code(), 0);
        let (store, _dir) = stage.leave();
        assert_eq!(complaints(&store), [""; 0]);
        let moment = Moment::of(marks.borrow().iter().map(String::as_str));
        history.allows(&look(&store).unwrap().disks["idle"], &moment).unwrap();
    }
}
