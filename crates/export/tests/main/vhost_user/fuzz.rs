//! Random bytes as queues and as messages, from a seed: a short run of what `fuzz/` does for hours.

use super::Running;
use crate::device::memory;
use silt_testkit::{
    vhost_user_abuse::{abuse_messages, abuse_queue},
    vhost_user_client::Wishes,
};
use silt_volume::BlockDevice as _;
use std::path::Path;

/// Runs so many inputs of up to 600 bytes; in between and at the end, a good client must be served.
fn run(seed: u64, inputs: usize, abuse: fn(&Path, &[u8])) {
    let running = Running::serve(memory(1 << 20));
    let mut random = seed;
    let mut next = || {
        // SplitMix64.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    for round in 0..inputs {
        let len = next() as usize % 600;
        let input: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        abuse(&running.socket, &input);
        if round % 50 == 49 {
            running.connect(Wishes::default()).flush().unwrap();
        }
    }
    running.stop().unwrap();
}

#[test]
fn random_queues_that_change_under_way_leave_the_server_whole() {
    run(0x51_17, 400, abuse_queue);
}

#[test]
fn random_messages_leave_the_server_whole() {
    run(0xb10c, 1000, abuse_messages);
}
