//! Random bytes as queues and as messages, from a seed: a short run of what `fuzz/` does for hours.

use super::Running;
use crate::device::memory;
use silt_testkit::vhost_user_client::Wishes;
use silt_volume::BlockDevice as _;

#[test]
fn placeholder() {
    let running = Running::serve(memory(1 << 20));
    running.connect(Wishes::default()).flush().unwrap();
}
