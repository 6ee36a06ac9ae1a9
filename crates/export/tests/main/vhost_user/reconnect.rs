//! A server that is killed and started again under a guest that goes on: what it had taken is done again, once.

use super::Running;
use crate::device::{Odd, memory};
use silt_testkit::{
    vhost_user_client::{Guest, VhostUserClient, Wishes, header, request},
    virtqueue::Part,
};
use silt_volume::BlockDevice as _;
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{Arc, atomic::Ordering},
};
use vhost::vhost_user::{VhostUserFrontend as _, message::VhostUserInflight};
use vm_memory::{Bytes as _, GuestAddress};

/// The record that a killed server left: requests 6, 0 and 3 were taken in this order, none is answered.
fn left_by_a_killed_server(given: &VhostUserInflight, file: &File, size: u16) {
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, given.mmap_offset + at).unwrap();
    put(8, &1u16.to_le_bytes());
    put(10, &size.to_le_bytes());
    for (counter, head) in [(11u64, 6), (12, 0), (13, 3)] {
        put(16 + head * 16 + 8, &counter.to_le_bytes());
        put(16 + head * 16, &[1]);
    }
}

#[test]
fn requests_that_a_killed_server_had_taken_are_done_again_in_order() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let guest = Guest::new();
    let client =
        VhostUserClient::negotiate(&running.socket, guest.clone(), Wishes::default()).unwrap();
    let wanted = VhostUserInflight::new(0, 0, 1, 128);
    let (given, file) = client.lock_frontend().get_inflight_fd(&wanted).unwrap();
    // Three writes to the same block, in the guest's memory; the server that took them is gone.
    for (request, byte) in [(0u16, 1u8), (1, 2), (2, 3)] {
        let place = VhostUserClient::data_place(0) + u64::from(request) * 8192;
        let memory = &guest.memory;
        memory.write_slice(&header(request::OUT, 8), GuestAddress(place - 64)).unwrap();
        memory.write_slice(&[byte; 4096], GuestAddress(place)).unwrap();
        let parts = [(place - 64, 16, false), (place, 4096, false), (place - 16, 1, true)]
            .map(|(address, len, is_writable)| Part { address, len, is_writable });
        client.queue(0).submit(request * 3, &parts, false);
    }
    left_by_a_killed_server(&given, &file, 128);
    client.start(Some((&given, &file))).unwrap();
    let heads: Vec<u32> = (0..3).map(|_| client.queue(0).wait_used().unwrap().0).collect();
    assert_eq!(heads, [6, 0, 3]);
    assert!(client.queue(0).take_used().is_none(), "each once");
    assert_eq!(device.writes.load(Ordering::Relaxed), 3);
    let mut found = [0; 4096];
    device.inner.read_at(&mut found, 4096).unwrap();
    assert_eq!(found, [2; 4096], "the last one was that of descriptor 3");
    // And it goes on behind them.
    client.write_at(&[4; 4096], 4096).unwrap();
    let mut taken = [0; 1];
    file.read_exact_at(&mut taken, 16).unwrap();
    assert_eq!(taken, [0], "nothing is left in the record");
}

#[test]
fn what_is_under_way_is_in_the_record_that_the_monitor_keeps() {
    let device = Odd::new(1 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let client =
        VhostUserClient::negotiate(&running.socket, Guest::new(), Wishes::default()).unwrap();
    let wanted = VhostUserInflight::new(0, 0, 1, 128);
    let (given, file) = client.lock_frontend().get_inflight_fd(&wanted).unwrap();
    client.start(Some((&given, &file))).unwrap();
    client.flush().unwrap();
    device.gate.close();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| client.ask(0, (request::IN, 0), b"", 4096).unwrap());
        device.gate.wait_for(1);
        let record = |at: u64, len: usize| {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, given.mmap_offset + at).unwrap();
            bytes
        };
        assert_eq!(record(16, 1), [1]);
        // Version, size, last answered, used: one request was answered so far.
        assert_eq!(record(8, 8), [1, 0, 128, 0, 0, 0, 1, 0]);
        device.gate.open();
        assert_eq!(reading.join().unwrap().0, 0);
        assert_eq!((record(16, 1), record(14, 2)), (vec![0], vec![2, 0]));
    });
}

#[test]
fn a_server_goes_on_after_its_monitor_and_takes_the_next() {
    let running = Running::serve(memory(1 << 20));
    for round in 0..20u8 {
        let queues = 1 + usize::from(round % 4);
        let client = running.connect(Wishes { queues, ..Wishes::default() });
        let mut found = [0; 4096];
        client.read_at(&mut found, 0).unwrap();
        assert_eq!(found, [round; 4096]);
        client.write_at(&[round + 1; 4096], 0).unwrap();
    }
    running.stop().unwrap();
}

#[test]
fn several_queues_and_threads_write_at_once() {
    let device = memory(8 << 20);
    let running = Running::serve(device.clone());
    let client = Arc::new(running.connect(Wishes { queues: 4, ..Wishes::default() }));
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let client = &client;
            scope.spawn(move || {
                for block in (thread..2048).step_by(8) {
                    client.write_at(&[block as u8; 4096], block * 4096).unwrap();
                }
                client.flush().unwrap();
            });
        }
    });
    let mut all = vec![0; 8 << 20];
    device.read_at(&mut all, 0).unwrap();
    assert!(all.chunks(4096).enumerate().all(|(at, block)| block == [at as u8; 4096]));
}
