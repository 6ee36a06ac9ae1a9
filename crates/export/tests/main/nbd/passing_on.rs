//! A server ends and another goes on with its clients, who do not notice.

use crate::{device::memory, running::Running};
use silt_export::{Export, ExportAddress, StopSignal, nbd::Listen};
use silt_testkit::nbd_client::{NbdClient, NbdSession};
use silt_volume::BlockDevice;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// The next server of the same device, with what the one before passed on.
fn succeed(running: Running, device: &Arc<dyn BlockDevice>) -> Running {
    running.stop.pass_on();
    let (folder, socket, before) = running.ended();
    let passed = before.passed_on().expect("it was told to");
    assert!(before.passed_on().is_none(), "once");
    let address = ExportAddress::Nbd(Listen::Unix(socket.clone()));
    let server: Arc<dyn Export> = Arc::from(address.take_over(passed).unwrap());
    drop(before);
    Running::go_on(folder, socket, server, device.clone())
}

#[test]
fn clients_under_way_go_on_through_many_servers() {
    let device = memory(1 << 20);
    let running = Running::serve(device.clone());
    let socket = running.socket.clone();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (number, extended) in [(0u8, false), (1, true), (2, false)] {
            let (socket, over) = (&socket, &over);
            scope.spawn(move || {
                let connect =
                    if extended { NbdClient::connect_extended } else { NbdClient::connect };
                let client = connect(socket).unwrap();
                let at = u64::from(number) << 16;
                for round in 0u8.. {
                    let written = vec![round; 10_000];
                    client.write_at(&written, at).unwrap();
                    if round % 16 == 0 {
                        client.flush().unwrap();
                    }
                    let mut found = vec![0; 10_000];
                    client.read_at(&mut found, at).unwrap();
                    assert!(found == written, "client {number}, round {round}");
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    if round == u8::MAX - 1 {
                        break;
                    }
                }
            });
        }
        let mut running = running;
        for _ in 0..10 {
            running = succeed(running, &device);
            // A new client finds the same socket.
            NbdClient::connect(&socket).unwrap().flush().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        running
    })
    .stop()
    .unwrap();
}

#[test]
fn half_a_request_and_an_idle_client_are_passed_on() {
    let device = memory(1 << 20);
    let running = Running::serve(device.clone());
    let (mut idle, mut half) = (running.enter(true), running.enter(false));
    let request = NbdSession::header(0, 3, 5, 0, 0);
    half.send(&request[..11]).unwrap();
    let running = succeed(running, &device);
    half.send(&request[11..]).unwrap();
    assert_eq!(half.reply().unwrap().cookie, 5);
    assert_eq!(idle.ask((0, 1), (4096, 4096), &[3; 4096]).unwrap().error, 0);
    // What was negotiated is remembered.
    let status = idle.ask((0, 7), (0, 8192), b"").unwrap();
    assert_eq!((status.error, status.is_structured), (0, true));
    running.stop().unwrap();
}

#[test]
fn a_server_that_ends_passes_nobody_on() {
    let running = Running::serve(memory(4096));
    let mut session = running.enter(true);
    running.stop.trigger();
    // Too late.
    running.stop.pass_on();
    let (_folder, socket, server) = running.ended();
    assert!(server.passed_on().is_none() && !socket.exists());
    assert_eq!(session.receive_to_end().unwrap(), b"");
    assert!(!StopSignal::new().unwrap().is_passing_on());
}
