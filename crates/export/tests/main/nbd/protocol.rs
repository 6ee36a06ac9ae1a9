//! The protocol's corners that the usual clients do not visit.

use crate::{
    device::{Odd, memory},
    running::Running,
};
use silt_testkit::nbd_client::NbdSession;
use std::{collections::BTreeSet, sync::atomic::Ordering};

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META: u32 = 9;
const SET_META: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;
const ACK: u32 = 1;
const UNSUPPORTED: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const TOO_BIG: u32 = 0x8000_0009;

fn greeted(running: &Running) -> NbdSession {
    let mut session = NbdSession::connect(&running.socket).unwrap();
    assert_eq!(session.greet(3).unwrap(), 3);
    session
}

#[test]
fn every_option_has_the_answer_of_the_specification() {
    let running = Running::serve(memory(1 << 20));
    let mut session = greeted(&running);
    let base = b"\0\0\0\0\0\0\0\x01\0\0\0\x05base:";
    let allocation = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
    let other = b"\0\0\0\0\0\0\0\x01\0\0\0\x03x:y";
    let named = b"\0\0\0\x01x\0\0\0\0";
    let cases: &[(u32, &[u8], &[u32])] = &[
        (STARTTLS, b"", &[UNSUPPORTED]),
        (4, b"", &[UNSUPPORTED]),
        (0xffff_ffff, b"whatever", &[UNSUPPORTED]),
        (LIST, b"", &[2, ACK]),
        (LIST, b"x", &[INVALID]),
        (INFO, b"\0\0\0\0\0\0", &[3, 3, ACK]),
        (INFO, b"\0\0\0\0\0\x01\0\x03", &[3, 3, ACK]),
        (INFO, b"\0\0\0\x01x\0\0", &[UNKNOWN]),
        (GO, b"\0\0\0\x01x\0\0", &[UNKNOWN]),
        (GO, b"\xff\xff\xff\xff\0\0", &[INVALID]),
        (GO, b"", &[INVALID]),
        (LIST_META, &[0; 8], &[INVALID]),
        (STRUCTURED_REPLY, b"x", &[INVALID]),
        (STRUCTURED_REPLY, b"", &[ACK]),
        (LIST_META, &[0; 8], &[4, ACK]),
        (LIST_META, base, &[4, ACK]),
        (LIST_META, other, &[ACK]),
        (LIST_META, named, &[UNKNOWN]),
        (SET_META, allocation, &[4, ACK]),
        (SET_META, base, &[ACK]),
        (SET_META, b"\0\0\0\0\0\0\0\x02\0\0\0\x01x", &[INVALID]),
        (SET_META, b"\0\0\0\0\xff\xff\xff\xff", &[INVALID]),
        (INFO, &[0; 9000], &[TOO_BIG]),
        (GO, b"\0\0\0\0\0\0", &[3, 3, ACK]),
    ];
    for (option, data, expected) in cases {
        let answers = session.option(*option, data).unwrap();
        let kinds: Vec<u32> = answers.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(&kinds, expected, "option {option} with {data:?}");
    }
    // The last choice of contexts held none, so there is no block status.
    assert_eq!(session.ask((0, 7), (0, 4096), b"").unwrap().error, 22);
    assert_eq!(session.ask((0, 0), (0, 4096), b"").unwrap().error, 0);
}

#[test]
fn headers_only_get_longer() {
    let running = Running::serve(memory(1 << 20));
    let mut session = greeted(&running);
    for (option, data, expected) in [
        (EXTENDED_HEADERS, &b"x"[..], INVALID),
        (STRUCTURED_REPLY, b"", ACK),
        (EXTENDED_HEADERS, b"", ACK),
        (STRUCTURED_REPLY, b"", 0x8000_000a),
        (EXTENDED_HEADERS, b"", ACK),
    ] {
        let answers = session.option(option, data).unwrap();
        assert_eq!(answers[0].0, expected, "option {option} with {data:?}");
    }
}

#[test]
fn extended_headers_take_lengths_of_64_bits() {
    let device = memory(1 << 20);
    let running = Running::serve(device);
    let mut session = NbdSession::connect(&running.socket).unwrap();
    session.enter_extended().unwrap();
    // Refused, and what they say follows is passed over.
    for (command, range, errno) in [
        ((0, 4), (0, 1 << 40), 22),
        ((0, 6), (0, 1 << 40), 28),
        ((0, 7), (0, 1 << 40), 22),
        ((0, 5), (4096, 8192), 0),
        ((0, 6), (0, 1 << 20), 0),
    ] {
        let reply = session.ask(command, range, b"").unwrap();
        assert_eq!((reply.error, reply.is_structured), (errno, true), "{command:?} {range:?}");
    }
    let with_payload = session.ask((1 << 5, 4), (0, 4096), &[7; 4096]).unwrap();
    assert_eq!(with_payload.error, 22);
    assert_eq!(session.ask((0, 1), (0, 4096), &[8; 4096]).unwrap().error, 0);
    let read = session.ask((0, 0), (0, 4096), b"").unwrap();
    assert_eq!(read.data, [(0, vec![8; 4096])]);
    let status = session.ask((0, 7), (0, 1 << 20), b"").unwrap();
    assert_eq!(status.extents.iter().map(|(len, _)| len).sum::<u64>(), 1 << 20);
    // A payload that nobody would send is the end.
    session.request((1 << 5, 4), 1, (0, 1 << 40), b"").unwrap();
    assert_eq!(session.receive_to_end().unwrap(), b"");
}

#[test]
fn abort_is_acknowledged_and_ends_the_connection() {
    let running = Running::serve(memory(4096));
    let mut session = greeted(&running);
    assert_eq!(session.option(ABORT, b"").unwrap(), [(ACK, Vec::new())]);
    assert_eq!(session.receive_to_end().unwrap(), b"");
    assert_eq!(running.server.clients(), 0);
}

#[test]
fn export_name_is_the_old_way_in() {
    let running = Running::serve(memory(1 << 20));
    for (flags, zeroes) in [(3, 0), (1, 124), (0, 124)] {
        let mut session = NbdSession::connect(&running.socket).unwrap();
        session.greet(flags).unwrap();
        session.send_option(EXPORT_NAME, b"").unwrap();
        let answer = session.receive(10 + zeroes).unwrap();
        assert_eq!(answer[..8], (1u64 << 20).to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        let reply = session.ask((0, 0), (0, 4096), b"").unwrap();
        assert_eq!((reply.error, reply.is_structured), (0, false));
        assert_eq!(reply.data, [(0, vec![0; 4096])]);
    }
    let mut session = greeted(&running);
    session.send_option(EXPORT_NAME, b"other").unwrap();
    assert_eq!(session.receive_to_end().unwrap(), b"");
}

#[test]
fn a_client_without_structured_replies_gets_all_of_a_long_read() {
    let device = Odd::new(8 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device);
    let mut session = running.enter(false);
    for len in [1u32, 100_000, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let reply = session.ask((0, 0), (3, len.into()), b"").unwrap();
        assert!(reply.data == [(0, vec![7; len as usize])], "{len}");
    }
    assert_eq!(session.ask((0, 0), (0, 0), b"").unwrap().error, 0);
}

#[test]
fn an_error_behind_the_first_piece_of_a_simple_reply_ends_the_connection() {
    let device = Odd::new(8 << 20, false);
    device.is_cold.store(true, Ordering::Relaxed);
    let running = Running::serve(device.clone());
    let mut session = running.enter(false);
    session.send(&NbdSession::header(0, 0, 1, 0, 8 << 20)).unwrap();
    // The header is there, so the first piece was read; later ones fail, as the rest does not fit the socket.
    session.receive(16).unwrap();
    device.fail(Some(silt_types::ErrorKind::Corrupt));
    let rest = session.receive_to_end().unwrap();
    assert!(rest.len() < 8 << 20, "{} bytes came", rest.len());
    assert!(rest.iter().all(|byte| *byte == 7), "but never wrong ones");
}

#[test]
fn long_structured_reads_come_in_chunks_that_fit_together() {
    let device = Odd::new(40 << 20, false);
    let running = Running::serve(device);
    let mut session = running.enter(true);
    let len = 32 << 20;
    let reply = session.ask((0, 0), (12_345, len), b"").unwrap();
    assert_eq!(reply.error, 0);
    let mut at = 12_345;
    for (offset, data) in &reply.data {
        assert_eq!(*offset, at);
        assert!(data.iter().all(|byte| *byte == 7));
        at += data.len() as u64;
    }
    assert_eq!(at, 12_345 + len);
    let unfragmented = session.ask((4, 0), (0, 1 << 20), b"").unwrap();
    assert_eq!((unfragmented.error, unfragmented.data.len()), (0, 1));
    assert_eq!(session.ask((4, 0), (0, 2 << 20), b"").unwrap().error, 75);
    let nothing = session.ask((0, 0), (0, 0), b"").unwrap();
    assert!(nothing.error == 0 && nothing.is_structured && nothing.data.is_empty());
}

#[test]
fn block_status_covers_what_was_asked_and_one_extent_is_one() {
    let running = Running::serve(memory(1 << 20));
    let mut session = running.enter(true);
    session.ask((0, 1), (0, 8192), &[1; 8192]).unwrap();
    let reply = session.ask((8, 7), (0, 8192), b"").unwrap();
    assert_eq!(reply.extents, [(8192, 0)]);
    let reply = session.ask((0, 7), (8192, 4096), b"").unwrap();
    assert_eq!(reply.extents, [(4096, 2)]);
}

#[test]
fn every_request_of_a_deep_queue_is_answered_once() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let mut session = running.enter(true);
    // Hot and cold reads, writes whole and partial, flushes and refusals, all under way at once; more than the server
    // takes on at a time, and no more than the sockets hold, since this client reads its replies late.
    let (rounds, depth) = (10u64, 150u64);
    let mut cookies = BTreeSet::new();
    for round in 0..rounds {
        for cookie in round * depth..(round + 1) * depth {
            device.is_cold.store(cookie % 3 == 0, Ordering::Relaxed);
            let commands =
                [((0, 0), 512), ((0, 1), 4096), ((0, 1), 512), ((0, 3), 0), ((0, 77), 0)];
            let (command, len) = commands[cookie as usize % 5];
            let payload = if command == (0, 1) { &[7; 4096][..len as usize] } else { b"" };
            session.request(command, cookie, (cookie % 50 * 4096, len), payload).unwrap();
        }
        for _ in 0..depth {
            let reply = session.reply().unwrap();
            assert_eq!(reply.error, if reply.cookie % 5 == 4 { 22 } else { 0 }, "{}", reply.cookie);
            assert!(reply.data.iter().all(|(_, data)| *data == [7; 512]));
            assert!(cookies.insert(reply.cookie), "{} was answered twice", reply.cookie);
        }
    }
    assert_eq!(cookies.len() as u64, rounds * depth);
}

#[test]
fn flushes_that_wait_together_are_one_flush_of_the_device() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let mut session = running.enter(true);
    device.is_cold.store(true, Ordering::Relaxed);
    device.gate.close();
    (0..4).for_each(|cookie| session.request((0, 0), cookie, (0, 512), b"").unwrap());
    device.gate.wait_for(4);
    (4..24).for_each(|cookie| session.request((0, 3), cookie, (0, 0), b"").unwrap());
    // Refused on the spot, so everything before it is in the queue.
    session.request((0, 77), 24, (0, 0), b"").unwrap();
    assert_eq!(session.reply().unwrap().cookie, 24);
    device.gate.open();
    (0..24).for_each(|_| assert_eq!(session.reply().unwrap().error, 0));
    assert_eq!(device.flushes.load(Ordering::Relaxed), 1);
}
