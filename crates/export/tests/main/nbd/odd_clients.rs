//! Clients that send garbage, lie, dawdle or vanish: they harm nobody but themselves.

use crate::{
    device::{Odd, memory},
    running::Running,
};
use silt_testkit::nbd_client::NbdSession;
use std::sync::atomic::Ordering;

/// The server serves on, and everybody else has left.
fn check_alive(running: &Running) {
    let mut session = running.enter(true);
    assert_eq!(session.ask((0, 0), (0, 4096), b"").unwrap().error, 0);
    assert_eq!(session.ask((0, 3), (0, 0), b"").unwrap().error, 0);
    running.wait_for_clients(1);
}

#[test]
fn garbage_at_any_stage_closes_the_connection() {
    let running = Running::serve(memory(1 << 20));
    let option =
        |kind: u32, len: u32| [&b"IHAVEOPT"[..], &kind.to_be_bytes(), &len.to_be_bytes()].concat();
    let before: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\xff",
        b"\0\0\0\x03IHAVEOPS\0\0\0\0\0\0\0\0",
        // A client that does not speak fixed newstyle knows no other option than the first.
        &[&b"\0\0\0\0"[..], &option(3, 0)].concat(),
        &[&b"\0\0\0\x03"[..], &option(7, u32::MAX)].concat(),
    ];
    for bytes in before {
        let mut session = NbdSession::connect(&running.socket).unwrap();
        session.receive(18).unwrap();
        session.send(bytes).unwrap();
        assert_eq!(session.receive_to_end().unwrap(), b"", "{bytes:?}");
    }
    for bytes in [&[0xff; 4096][..], &NbdSession::header(0, 1, 1, 0, (32 << 20) + 1)] {
        let mut session = running.enter(true);
        session.send(bytes).unwrap();
        assert_eq!(session.receive_to_end().unwrap(), b"");
    }
    check_alive(&running);
}

#[test]
fn what_was_asked_before_garbage_is_answered() {
    let running = Running::serve(memory(1 << 20));
    let mut session = running.enter(true);
    let mut bytes = NbdSession::header(0, 99, 1, 0, 0);
    bytes.extend([0xff; 28]);
    session.send(&bytes).unwrap();
    assert_eq!(session.reply().unwrap().error, 22);
    assert_eq!(session.receive_to_end().unwrap(), b"");
}

#[test]
fn endless_options_end() {
    let running = Running::serve(memory(4096));
    for (len, count) in [(0, 100), (200_000, 10)] {
        let mut session = NbdSession::connect(&running.socket).unwrap();
        session.greet(3).unwrap();
        let answered = (0..count).take_while(|_| session.option(99, &vec![0; len]).is_ok()).count();
        assert!(answered < count, "{answered} options of {len} bytes were answered");
    }
    check_alive(&running);
}

#[test]
fn a_client_that_never_ends_its_handshake_is_let_go() {
    let running = Running::serve(memory(4096));
    let mut silent = NbdSession::connect(&running.socket).unwrap();
    let mut dripping = NbdSession::connect(&running.socket).unwrap();
    silent.receive(18).unwrap();
    dripping.receive(18).unwrap();
    check_alive(&running);
    // A byte now and then does not extend its time: at last the server has closed, which a write is told.
    let drip = b"\0\0\0\x03IHAVEOPT\0\0\0\x63\xff\xff";
    let mut bytes = drip.iter().chain(std::iter::repeat(&0));
    while dripping.send(&[*bytes.next().unwrap()]).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(silent.receive_to_end().unwrap(), b"");
}

#[test]
fn clients_that_vanish_mid_request_leave_no_trace() {
    let device = Odd::new(4 << 20, false);
    let running = Running::serve(device.clone());
    for sent in [1, 27, 28, 100, 28 + 4095] {
        let mut session = running.enter(true);
        let mut write = NbdSession::header(0, 1, 1, 0, 4096);
        write.extend([1; 4096]);
        session.send(&write[..sent]).unwrap();
    }
    running.wait_for_clients(0);
    assert_eq!(device.writes.load(Ordering::Relaxed), 0);
    check_alive(&running);
}

#[test]
fn a_client_that_vanishes_with_replies_under_way_harms_nobody() {
    let device = Odd::new(8 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device);
    for structured in [true, false] {
        for len in [4096, 8 << 20] {
            let mut session = running.enter(structured);
            for cookie in 0..50 {
                session.request((0, 0), cookie, (0, len), b"").unwrap();
            }
        }
    }
    check_alive(&running);
}

#[test]
fn a_client_that_does_not_read_stops_only_itself() {
    let device = Odd::new(8 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device);
    let deaf: Vec<NbdSession> = (0..5)
        .map(|_| {
            let mut session = running.enter(true);
            for cookie in 0..100 {
                session.request((0, 0), cookie, (0, 1 << 20), b"").unwrap();
            }
            session
        })
        .collect();
    let mut session = running.enter(true);
    for _ in 0..100 {
        assert_eq!(session.ask((0, 0), (0, 4096), b"").unwrap().error, 0);
    }
    drop(deaf);
}

#[test]
fn the_client_beyond_the_limit_is_told_so_and_the_others_go_on() {
    let running = Running::serve(memory(4096));
    let mut served: Vec<NbdSession> = (0..64).map(|_| running.enter(true)).collect();
    running.wait_for_clients(64);
    let mut refused = NbdSession::connect(&running.socket).unwrap();
    refused.greet(3).unwrap();
    for option in [7, 6, 3, 8] {
        let answers = refused.option(option, b"").unwrap();
        assert_eq!(answers[0].0, 0x8000_0002);
        assert!(String::from_utf8_lossy(&answers[0].1).contains("64 clients"));
    }
    assert_eq!(refused.option(2, b"").unwrap()[0].0, 1, "it may leave as clients do");
    for session in &mut served {
        assert_eq!(session.ask((0, 0), (0, 4096), b"").unwrap().error, 0);
    }
    served.pop();
    running.wait_for_clients(63);
    // Its place is given back a moment after it was counted out.
    let mut session = loop {
        let mut session = NbdSession::connect(&running.socket).unwrap();
        if session.enter(true).is_ok() {
            break session;
        }
    };
    assert_eq!(session.ask((0, 0), (0, 4096), b"").unwrap().error, 0);
}

#[test]
fn random_bytes_never_stop_the_server() {
    let running = Running::serve(memory(1 << 20));
    let mut state = 0x5117_u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for round in 0..300 {
        let in_transmission = round % 2 == 0;
        let mut session = if in_transmission {
            running.enter(round % 4 == 0)
        } else {
            let mut session = NbdSession::connect(&running.socket).unwrap();
            session.greet(3).unwrap();
            session
        };
        // Mostly well-formed, so that it gets beyond the first check.
        for _ in 0..random() % 20 {
            let small =
                |value: u64| if value.is_multiple_of(4) { value << 30 } else { value % 5000 };
            let bytes = if in_transmission {
                let (flags, command) = (random() as u16 & 0x1f, random() as u16 % 9);
                let (offset, len) = (small(random()), small(random()) as u32 % (1 << 25));
                NbdSession::header(flags, command, random(), offset, len)
            } else {
                let (kind, len) = (random() as u32 % 12, random() as u32 % 40);
                let mut option = b"IHAVEOPT".to_vec();
                option.extend(kind.to_be_bytes());
                option.extend(len.to_be_bytes());
                option.extend((0..len).map(|_| (random() % 3) as u8));
                option
            };
            if session.send(&bytes).is_err() {
                break;
            }
        }
    }
    check_alive(&running);
}
