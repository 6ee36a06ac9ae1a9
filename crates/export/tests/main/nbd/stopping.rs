//! The end of a server: what it still does, and what it leaves behind.

use crate::{
    device::{Odd, memory},
    running::Running,
};
use silt_export::nbd::{Listen, Server};
use silt_testkit::nbd_client::NbdSession;
use silt_types::ErrorKind;
use std::{
    os::unix::net::{UnixListener, UnixStream},
    sync::atomic::Ordering,
};

#[test]
fn requests_in_flight_are_answered_and_the_device_is_flushed() {
    let device = Odd::new(1 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let mut session = running.enter(true);
    device.gate.close();
    // Four reads stand before the gate, one for each worker; a flush and a fifth read wait behind them.
    for cookie in 0..4 {
        session.request((0, 0), cookie, (cookie * 4096, 4096), b"").unwrap();
    }
    device.gate.wait_for(4);
    session.request((0, 3), 4, (0, 0), b"").unwrap();
    session.request((0, 0), 5, (0, 100_000), b"").unwrap();
    running.stop.trigger();
    while running.socket.exists() {
        std::thread::yield_now();
    }
    assert!(UnixStream::connect(&running.socket).is_err());
    device.gate.open();
    let mut cookies: Vec<u64> = (0..6)
        .map(|_| {
            let reply = session.reply().unwrap();
            assert_eq!(reply.error, 0);
            reply.cookie
        })
        .collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [0, 1, 2, 3, 4, 5]);
    assert_eq!(session.receive_to_end().unwrap(), b"");
    running.join().unwrap();
    assert_eq!(device.flushes.load(Ordering::Relaxed), 2, "the client's, and the last one");
}

#[test]
fn idle_clients_silent_ones_and_half_written_requests_do_not_delay_the_end() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let idle = running.enter(true);
    let silent = NbdSession::connect(&running.socket).unwrap();
    let mut half = running.enter(false);
    let header = NbdSession::header(0, 1, 1, 0, 4096);
    half.send(&header).unwrap();
    half.send(&[0; 100]).unwrap();
    running.wait_for_clients(2);
    running.stop().unwrap();
    assert_eq!(half.receive_to_end().unwrap(), b"", "never acknowledged");
    assert_eq!(device.writes.load(Ordering::Relaxed), 0, "never done");
    drop((idle, silent));
}

#[test]
fn a_client_that_does_not_read_its_replies_is_cut_in_the_end() {
    let running = Running::serve(memory(8 << 20));
    let mut deaf = running.enter(true);
    for cookie in 0..16 {
        deaf.request((0, 0), cookie, (0, 8 << 20), b"").unwrap();
    }
    let mut bystander = running.enter(true);
    assert_eq!(bystander.ask((0, 0), (0, 4096), b"").unwrap().error, 0);
    drop(bystander);
    running.stop().unwrap();
}

#[test]
fn a_failed_last_flush_is_the_servers_failure() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    drop(running.enter(true));
    device.fail(Some(ErrorKind::Io));
    let error = running.stop().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.chain().contains("as the test wants it"), "{error:?}");
}

#[test]
fn a_device_that_hangs_is_reported_and_does_not_hang_the_server() {
    let device = Odd::new(1 << 20, true);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let mut session = running.enter(true);
    device.gate.close();
    session.request((0, 0), 1, (0, 4096), b"").unwrap();
    device.gate.wait_for(1);
    let error = running.stop().unwrap_err();
    assert!(error.chain().contains("1 connections"), "{error:?}");
    device.gate.open();
}

#[test]
fn a_stale_socket_is_replaced_and_a_server_that_lives_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd");
    drop(UnixListener::bind(&path).unwrap());
    let server = Server::bind(&Listen::Unix(path.clone())).unwrap();
    let error = Server::bind(&Listen::Unix(path.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.chain().contains(path.to_str().unwrap()), "{error:?}");
    drop(server);
    assert!(!path.exists());
}
