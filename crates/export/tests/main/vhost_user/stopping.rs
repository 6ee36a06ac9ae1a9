//! The end of a queue, of a monitor, and of a server.

use super::Running;
use crate::device::{Odd, memory};
use silt_testkit::{
    vhost_user_client::{VhostUserClient, Wishes, header, request},
    virtqueue::Part,
};
use silt_types::ErrorKind;
use silt_volume::BlockDevice as _;
use std::{os::unix::net::UnixStream, sync::atomic::Ordering};
use vm_memory::{Bytes as _, GuestAddress};

/// Makes `count` cold reads of one block each available.
fn submit_reads(client: &VhostUserClient, count: u16) {
    let place = VhostUserClient::data_place(0);
    let memory = &client.guest.memory;
    memory.write_slice(&header(request::IN, 0), GuestAddress(place - 64)).unwrap();
    let parts = [(place - 64, 16, false), (place, 4096, true), (place - 16, 1, true)]
        .map(|(address, len, is_writable)| Part { address, len, is_writable });
    let mut queue = client.queue(0);
    (0..count).for_each(|request| queue.submit(request * 3, &parts, false));
    queue.tell(count);
}

#[test]
fn a_queue_is_stopped_only_when_what_it_took_is_answered() {
    let device = Odd::new(1 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let client = running.connect(Wishes::default());
    device.gate.close();
    submit_reads(&client, 6);
    device.gate.wait_for(4);
    let base = std::thread::scope(|scope| {
        let stopped = scope.spawn(|| client.stop_queue(0).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!stopped.is_finished() && client.queue(0).take_used().is_none());
        device.gate.open();
        stopped.join().unwrap()
    });
    // All that it took, whatever that was, is there now; nothing comes later.
    let mut answered = 0;
    while client.queue(0).take_used().is_some() {
        answered += 1;
    }
    assert_eq!(answered, base);
    // Another server, or the same one, goes on there.
    client.start_queue(0, base).unwrap();
    for _ in base..6 {
        client.queue(0).wait_used().unwrap();
    }
    client.flush().unwrap();
}

#[test]
fn what_was_taken_is_answered_and_the_device_flushed_when_the_server_stops() {
    let device = Odd::new(1 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let client = running.connect(Wishes::default());
    device.gate.close();
    submit_reads(&client, 4);
    device.gate.wait_for(4);
    running.stop.trigger();
    device.gate.open();
    running.stop().unwrap();
    for _ in 0..4 {
        assert!(client.queue(0).take_used().is_some());
    }
    assert_eq!(device.flushes.load(Ordering::Relaxed), 1);
}

#[test]
fn a_device_that_hangs_does_not_keep_the_server() {
    let device = Odd::new(1 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let client = running.connect(Wishes::default());
    device.gate.close();
    submit_reads(&client, 1);
    device.gate.wait_for(1);
    running.stop.trigger();
    // The last flush waits for the gate as well, so somebody opens it once the server has given the request up.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            device.gate.wait_for(2);
            device.gate.open();
        });
        assert_eq!(running.stop().unwrap_err().kind(), ErrorKind::Io);
    });
}

#[test]
fn a_half_sent_message_does_not_delay_the_end() {
    let running = Running::serve(memory(1 << 20));
    let mut stream = UnixStream::connect(&running.socket).unwrap();
    std::io::Write::write_all(&mut stream, &[1, 0, 0]).unwrap();
    while running.server.clients() == 0 {
        std::thread::yield_now();
    }
    running.stop().unwrap();
}

#[test]
fn the_next_monitor_waits_until_the_first_one_leaves() {
    let running = Running::serve(memory(1 << 20));
    let first = running.connect(Wishes::default());
    first.write_at(&[5; 4096], 4096).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| running.connect(Wishes { queues: 2, ..Wishes::default() }));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!second.is_finished());
        first.flush().unwrap();
        assert_eq!(running.server.clients(), 1);
        drop(first);
        let second = second.join().unwrap();
        let mut found = [0; 4096];
        second.read_at(&mut found, 4096).unwrap();
        assert_eq!(found, [5; 4096]);
    });
    running.stop().unwrap();
}

#[test]
fn an_error_of_the_device_is_the_requests_own_and_so_is_a_panic() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let client = running.connect(Wishes::default());
    device.fail(Some(ErrorKind::Corrupt));
    for kind in [(request::IN, 4096), (request::FLUSH, 0)] {
        assert_eq!(client.ask(0, (kind.0, 0), b"", kind.1).unwrap().0, 1);
    }
    assert_eq!(client.ask(0, (request::OUT, 0), &[1; 4096], 0).unwrap().0, 1);
    device.fail(None);
    client.flush().unwrap();
    device.panics.store(true, Ordering::Relaxed);
    device.is_cold.store(true, Ordering::Relaxed);
    assert_eq!(client.ask(0, (request::IN, 0), b"", 4096).unwrap().0, 1);
    device.panics.store(false, Ordering::Relaxed);
    client.flush().unwrap();
}
