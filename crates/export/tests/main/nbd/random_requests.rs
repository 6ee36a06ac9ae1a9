//! Requests drawn at random, most of them valid, some beyond the end, with odd flags or lengths that lie: each is answered
//! once, and the disk holds what those that succeeded wrote.

use crate::{device::memory, running::Running};
use silt_testkit::nbd_client::{NbdReply, NbdSession};
use std::collections::HashMap;

const SIZE: usize = 1 << 20;

/// Requests of a run, in batches that are sent before any reply is read.
const BATCHES: usize = 60;
const BATCH: usize = 50;

/// Where each run starts; a failure that was found belongs here.
const SEEDS: [u64; 4] = [1, 0x5117, 0xbad_cafe, 0x0dd_ba11];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Simple,
    Structured,
    Extended,
}

#[test]
fn each_request_of_a_random_stream_is_answered_once_and_done_as_answered() {
    for seed in SEEDS {
        for way in [Way::Simple, Way::Structured, Way::Extended] {
            run(way, seed);
        }
    }
}

fn run(way: Way, seed: u64) {
    let running = Running::serve(memory(SIZE as u64));
    let mut session = NbdSession::connect(&running.socket).unwrap();
    match way {
        Way::Simple => session.enter(false),
        Way::Structured => session.enter(true),
        Way::Extended => session.enter_extended(),
    }
    .unwrap();
    let mut random = seed;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut model = vec![0; SIZE];
    for batch in 0..BATCHES {
        let mut asked = HashMap::new();
        // Those of a batch overlap in time, so each has a part of the disk of its own.
        for slot in 0..BATCH {
            let request = Drawn::new(slot, &mut next);
            let cookie = (batch * BATCH + slot) as u64;
            let payload = request.payload();
            session.request(request.command, cookie, request.range, &payload).unwrap();
            asked.insert(cookie, request);
        }
        while !asked.is_empty() {
            let reply = session.reply().unwrap();
            let request = asked.remove(&reply.cookie);
            let request = request.unwrap_or_else(|| panic!("{way:?} {seed}: answered twice"));
            request.judge(&reply, &mut model, way);
        }
    }
    let all = session.ask((0, 0), (0, SIZE as u64), b"").unwrap();
    let found: Vec<u8> = all.data.into_iter().flat_map(|(_, data)| data).collect();
    assert!(found == model, "{way:?} {seed}: the disk is not what was answered");
}

#[derive(Debug)]
struct Drawn {
    command: (u16, u16),
    range: (u64, u64),
    fill: u8,
}

impl Drawn {
    fn new(slot: usize, next: &mut impl FnMut() -> u64) -> Drawn {
        const PART: u64 = (SIZE / BATCH) as u64;
        let (kind, odd) = (next() % 10, next().is_multiple_of(8));
        let command = [0, 0, 1, 1, 1, 3, 4, 5, 6, 7][kind as usize];
        let flags = match (odd, command) {
            // A payload behind a request that says so in an extended header would have to be sent.
            (true, _) => next() as u16 & !(1 << 5),
            (false, 6) => (next() % 2) as u16 * 2,
            _ => (next() % 2) as u16,
        };
        let start = slot as u64 * PART + next() % PART;
        let len = 1 + next() % (slot as u64 * PART + PART - start);
        let range = match next() % 16 {
            0 if command != 1 => (next(), len),
            1 => (SIZE as u64 - len / 2, len),
            2 if command != 1 => (start, len << 24),
            _ if command == 3 => (0, 0),
            _ => (start, len),
        };
        Drawn { command: (flags, command), range, fill: next() as u8 | 1 }
    }

    fn payload(&self) -> Vec<u8> {
        if self.command.1 == 1 { vec![self.fill; self.range.1 as usize] } else { Vec::new() }
    }

    fn judge(&self, reply: &NbdReply, model: &mut [u8], way: Way) {
        let (start, len) = self.range;
        let inside = start.checked_add(len).is_some_and(|end| end <= SIZE as u64);
        if reply.error != 0 {
            assert!([22, 28, 75, 95].contains(&reply.error), "{self:?}: {reply:?}");
            return;
        }
        assert!(inside || self.command.1 == 3, "{way:?}: {self:?} was done");
        let range = start as usize..(start + len) as usize;
        match self.command.1 {
            0 => {
                let read: Vec<u8> = reply.data.iter().flat_map(|(_, data)| data.clone()).collect();
                assert!(read == model[range], "{way:?}: {self:?} read something else");
            }
            1 => model[range].fill(self.fill),
            4 => {
                let (first, end) = (range.start.next_multiple_of(4096), range.end / 4096 * 4096);
                if first < end {
                    model[first..end].fill(0);
                }
            }
            6 => model[range].fill(0),
            7 => assert!(reply.extents.iter().map(|(len, _)| len).sum::<u64>() <= len),
            _ => (),
        }
    }
}
