//! Nonsense for a vhost-user server, spelled out from bytes: what its fuzz targets and their short runs in tests do.
//!
//! Nothing is expected of the answers. What must not happen, a panic, a hang, an access outside, is seen by whoever runs
//! this: the next good client must be served.

use crate::{
    vhost_user_client::{
        GUEST_START, Guest, MEMORY_BYTES, VhostUserClient, Wishes, feature, header,
    },
    virtqueue::VirtQueue,
};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg},
};
use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};
use vm_memory::{Bytes as _, GuestAddress};

/// Descriptors of the queue that is abused.
const QUEUE_SIZE: u16 = 16;

/// Numbers off the front of bytes, zero behind their end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// As [`Input::edge`], of a number that begins somewhere and goes on from there in steps.
    fn edge_from(&mut self, start: u64, step: u64) -> u64 {
        let good = start + u64::from(self.byte()) * step;
        self.edge(good)
    }

    /// A number that is one of those on which things break.
    fn edge(&mut self, good: u64) -> u64 {
        match self.byte() % 16 {
            0 => self.number(),
            1 => u64::MAX - u64::from(self.byte()),
            2 => GUEST_START + MEMORY_BYTES - u64::from(self.byte()),
            3 => GUEST_START + MEMORY_BYTES / 2 - u64::from(self.byte()),
            4 => u64::from(self.byte()),
            5 => good.wrapping_add(self.byte().into()),
            6 => u64::from(u32::MAX) - u64::from(self.byte()),
            _ => good,
        }
    }
}

/// Connects, and fills a queue with what `input` spells, while another thread changes it under the server's hands.
pub fn abuse_queue(socket: &Path, input: &[u8]) {
    let mut input = Input(input);
    let without = match input.byte() % 3 {
        0 => feature::LOG_ALL,
        1 => feature::EVENT_IDX | feature::LOG_ALL,
        _ => feature::FLUSH | feature::INDIRECT | feature::LOG_ALL,
    };
    let wishes = Wishes { queues: 1, queue_size: QUEUE_SIZE, without };
    let client = VhostUserClient::connect(socket, wishes).expect("the server serves");
    let is_over = AtomicBool::new(false);
    let flips = [input.number(), input.number()];
    std::thread::scope(|scope| {
        scope.spawn(|| change_under_way(&client, flips, &is_over));
        while !input.0.is_empty() {
            one_step(&client, &mut client.queue(0), &mut input);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    client.stop_queue(0).expect("a queue can be stopped whatever was in it");
}

fn one_step(client: &VhostUserClient, queue: &mut VirtQueue, input: &mut Input<'_>) {
    let (memory, data) = (&client.guest.memory, VhostUserClient::data_place(0));
    let [table, ..] = queue.places();
    match input.byte() % 8 {
        0..=2 => {
            let into = match input.byte() % 4 {
                0 => queue.indirect_place(u16::from(input.byte()) % QUEUE_SIZE),
                _ => table,
            };
            let address = match input.byte() % 4 {
                0 => input.edge_from(queue.indirect_place(0), 1024),
                _ => input.edge_from(data, 512),
            };
            let len = [16, 512, 4096, 1, 0, 48][input.byte() as usize % 6];
            let len = input.edge(len) as u32;
            let at = u16::from(input.byte()) % QUEUE_SIZE;
            let (flags, next) = (u16::from(input.byte() % 8), u16::from(input.byte() % 20));
            queue.put_descriptor(into, at, (address, len), flags, next);
        }
        3 => {
            let kind = u32::from(input.byte() % 16);
            let sector = input.edge_from(0, 8);
            let place = data + u64::from(input.byte()) * 512;
            let _ = memory.write_slice(&header(kind, sector), GuestAddress(place));
        }
        4 | 5 => {
            let good = u64::from(input.byte()) % u64::from(QUEUE_SIZE);
            let head = input.edge(good) as u16;
            let steps = if input.byte() == 255 { u16::from(input.byte()) } else { 1 };
            queue.put_available(head, steps);
        }
        6 => {
            let _ = queue.kick.write(1);
        }
        _ => while queue.take_used().is_some() {},
    }
}

/// Changes descriptors over and over until it is over.
fn change_under_way(client: &VhostUserClient, flips: [u64; 2], is_over: &AtomicBool) {
    let memory = &client.guest.memory;
    for round in 0u64.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let at = flips[0].wrapping_mul(round | 1) % (u64::from(QUEUE_SIZE) * 16) / 2 * 2;
        let _ = memory.write_slice(&flips[1].rotate_left(round as u32).to_le_bytes()[..2], {
            GuestAddress(GUEST_START + at)
        });
        std::thread::yield_now();
    }
}

/// Connects, and sends what `input` spells as messages, with file descriptors of all kinds.
pub fn abuse_messages(socket: &Path, input: &[u8]) {
    let mut input = Input(input);
    let stream = UnixStream::connect(socket).expect("the server listens");
    let things = things();
    if input.byte() % 2 == 0 {
        // As far as features; what follows gets deeper.
        send(&stream, 1, 1, &[], &[]);
        send(&stream, 2, 1, &0x1_7400_6246u64.to_ne_bytes(), &[]);
        send(&stream, 16, 1, &0x9_922bu64.to_ne_bytes(), &[]);
    }
    while !input.0.is_empty() {
        let code = u32::from(input.byte() % 48);
        let flags = [1, 9, 1, 9, 1, 0, 5, 0xffff_ffff][input.byte() as usize % 8];
        let payload = payload(code, &mut input);
        let count = input.byte() as usize % 4;
        let fds: Vec<_> =
            (0..count).map(|_| things[input.byte() as usize % things.len()].as_fd()).collect();
        if !send(&stream, code, flags, &payload, &fds) {
            return;
        }
        let _ = recv(&stream, &mut [0; 4096][..], RecvFlags::DONTWAIT);
    }
}

/// A payload of about the right form.
fn payload(code: u32, input: &mut Input<'_>) -> Vec<u8> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let index = u64::from(input.byte() % 18);
    let (size, page) = (1 << 20, 4096u64);
    let region = |input: &mut Input<'_>| {
        [input.edge(0), input.edge(size), input.edge(0), input.edge_from(0, page)]
    };
    match code {
        5 => {
            let count = u64::from(input.byte() % 4);
            let mut all = vec![count];
            (0..count).for_each(|_| all.extend(region(input)));
            words(&all)
        }
        37 | 38 => words(&[&[0][..], &region(input)].concat()),
        8 | 10 | 11 | 18 => words(&[index | input.edge(128) << 32]),
        9 => words(&[index, input.edge(0), input.edge(page), input.edge(2 * page), 0]),
        12..=14 => words(&[input.edge(index)]),
        24 | 25 => [words(&[input.edge(60) << 32, 0]), vec![0; 60]].concat(),
        6 => words(&[input.edge(page), input.edge(0)]),
        31 | 32 => {
            let queues = input.edge(index) & 0xffff | (input.edge(128) & 0xffff) << 16;
            words(&[input.edge(page), input.edge(0), queues])
        }
        42 => words(&[u64::from(input.byte() % 3)]),
        _ => {
            let len = input.byte() as usize % 5 * 8;
            (0..len).map(|_| input.byte()).collect()
        }
    }
}

/// What file descriptors may be.
fn things() -> Vec<OwnedFd> {
    let memory = memfd_create("thing", MemfdFlags::CLOEXEC).expect("there is memory");
    ftruncate(&memory, 1 << 20).expect("there is memory");
    let event = || eventfd(0, EventfdFlags::CLOEXEC).expect("there are eventfds");
    let (read, write) = std::io::pipe().expect("there are pipes");
    let (one, _) = UnixStream::pair().expect("there are sockets");
    let guest = Guest::new();
    let copy = guest.file.try_clone().expect("there are descriptors");
    vec![memory, event(), event(), read.into(), write.into(), one.into(), copy.into()]
}

/// False when the server has hung up.
fn send(
    stream: &UnixStream,
    code: u32,
    flags: u32,
    payload: &[u8],
    fds: &[BorrowedFd<'_>],
) -> bool {
    let mut message = Vec::new();
    for word in [code, flags, payload.len() as u32] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(payload);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let iov = [IoSlice::new(&message)];
    sendmsg(stream, &iov, &mut control, SendFlags::NOSIGNAL).is_ok()
}
