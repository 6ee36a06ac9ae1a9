//! A guest and a monitor that mean harm, case by case. Random ones: `fuzz`.

use super::Running;
use crate::device::memory;
use silt_testkit::{
    vhost_user_client::{
        GUEST_START, Guest, MEMORY_BYTES, VhostUserClient, Wishes, header, request,
    },
    virtqueue::{INDIRECT, NEXT, WRITE},
};
use silt_volume::BlockDevice as _;
use std::{fs::File, os::fd::AsRawFd as _};
use vhost::{
    VhostBackend as _, VhostUserDirtyLogRegion, VringConfigData,
    vhost_user::{VhostUserFrontend as _, message::VhostUserInflight},
};
use vm_memory::{Bytes as _, GuestAddress};

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

const HEADER: u64 = GUEST_START + (32 << 20);
const DATA: u64 = HEADER + 4096;
const STATUS: u64 = HEADER + 64;
const BEYOND: u64 = GUEST_START + MEMORY_BYTES;

const ASKS: Descriptor = (HEADER, 16, NEXT, 1);
const ANSWERS: Descriptor = (STATUS, 1, WRITE, 0);

/// What a read with these descriptors is answered: the status byte, and the length in the used ring.
fn answer(client: &VhostUserClient, descriptors: &[Descriptor]) -> (u8, u32) {
    let memory = &client.guest.memory;
    memory.write_slice(&header(request::IN, 0), GuestAddress(HEADER)).unwrap();
    memory.write_slice(&[0xee], GuestAddress(STATUS)).unwrap();
    let mut queue = client.queue(0);
    let [table, ..] = queue.places();
    for (at, (address, len, flags, next)) in descriptors.iter().enumerate() {
        queue.put_descriptor(table, at as u16, (*address, *len), *flags, *next);
    }
    queue.put_available(0, 1);
    queue.tell(1);
    let (head, len) = queue.wait_used().unwrap();
    assert_eq!(head, 0);
    let status: u8 = memory.read_obj(GuestAddress(STATUS)).unwrap();
    (status, len)
}

#[test]
fn malformed_requests_are_answered_and_harm_nobody() {
    let running = Running::serve(memory(1 << 20));
    let client = running.connect(Wishes::default());
    let indirect = client.queue(0).indirect_place(0);
    // A table that names itself as an indirect one, and a loop in an indirect table.
    client.queue(0).put_descriptor(indirect, 0, (indirect, 32), INDIRECT, 0);
    let looped = indirect + 4096;
    client.queue(0).put_descriptor(looped, 0, (DATA, 16), NEXT, 1);
    client.queue(0).put_descriptor(looped, 1, (DATA, 16), NEXT, 0);
    const FAILED: u8 = 1;
    const UNTOUCHED: u8 = 0xee;
    let cases: [(&str, &[Descriptor], u8); 19] = [
        ("good", &[ASKS, (DATA, 512, NEXT | WRITE, 2), ANSWERS], 0),
        ("data beyond memory", &[ASKS, (BEYOND, 512, NEXT | WRITE, 2), ANSWERS], FAILED),
        ("data across the end", &[ASKS, (BEYOND - 1, 512, NEXT | WRITE, 2), ANSWERS], FAILED),
        (
            "an address that overflows",
            &[ASKS, (u64::MAX - 3, 512, NEXT | WRITE, 2), ANSWERS],
            FAILED,
        ),
        ("a length of 4 GiB", &[ASKS, (DATA, u32::MAX - 511, NEXT | WRITE, 2), ANSWERS], FAILED),
        ("no whole sectors", &[ASKS, (DATA, 511, NEXT | WRITE, 2), ANSWERS], FAILED),
        ("no data", &[(HEADER, 16, NEXT, 1), ANSWERS], 0),
        ("empty pieces", &[ASKS, (BEYOND, 0, NEXT | WRITE, 2), ANSWERS], 0),
        ("a header beyond memory", &[(BEYOND, 16, NEXT, 1), ANSWERS], FAILED),
        ("a short header", &[(HEADER, 15, NEXT, 1), ANSWERS], FAILED),
        ("no header", &[(STATUS, 1, WRITE, 0)], FAILED),
        ("no status", &[(HEADER, 16, 0, 0)], UNTOUCHED),
        ("a status that cannot be written", &[ASKS, (BEYOND, 1, WRITE, 0)], UNTOUCHED),
        ("what is filled before what is read", &[ANSWERS_FIRST, (HEADER, 16, 0, 0)], UNTOUCHED),
        ("a loop", &[(HEADER, 16, NEXT, 1), (DATA, 16, NEXT, 0)], UNTOUCHED),
        ("a next beyond the table", &[(HEADER, 16, NEXT, 128)], UNTOUCHED),
        ("an indirect table in an indirect table", &[(indirect, 32, INDIRECT, 0)], UNTOUCHED),
        ("a loop in an indirect table", &[(looped, 32, INDIRECT, 0)], UNTOUCHED),
        ("an indirect table beyond memory", &[(BEYOND, 64, INDIRECT, 0)], UNTOUCHED),
    ];
    for (case, descriptors, status) in cases {
        assert_eq!(answer(&client, descriptors).0, status, "{case}");
    }
    for (case, descriptor) in [
        ("an indirect table of no whole entries", (indirect, 24, INDIRECT, 0)),
        ("an empty indirect table", (indirect, 0, INDIRECT, 0)),
        ("an indirect table with a next one", (looped, 32, INDIRECT | NEXT, 1)),
        ("an indirect table at the end of all addresses", (u64::MAX - 15, 64, INDIRECT, 0)),
    ] {
        assert_eq!(answer(&client, &[descriptor]), (UNTOUCHED, 0), "{case}");
    }
    client.write_at(&[1; 4096], 0).unwrap();
}

const ANSWERS_FIRST: Descriptor = (STATUS, 1, WRITE | NEXT, 1);

#[test]
fn a_request_beyond_the_disk_fails() {
    let running = Running::serve(memory(1 << 20));
    let client = running.connect(Wishes::default());
    for sector in [2048, 2047 + 1, 1 << 54, u64::MAX / 512, u64::MAX] {
        assert_eq!(client.ask(0, (request::IN, sector), b"", 512).unwrap().0, 1, "{sector}");
        assert_eq!(client.ask(0, (request::OUT, sector), &[0; 512], 0).unwrap().0, 1, "{sector}");
        let mut range = sector.to_le_bytes().to_vec();
        range.extend([8, 0, 0, 0, 0, 0, 0, 0]);
        for kind in [request::DISCARD, request::WRITE_ZEROES] {
            assert_eq!(client.ask(0, (kind, 0), &range, 0).unwrap().0, 1, "{sector}");
        }
    }
    client.flush().unwrap();
}

#[test]
fn a_broken_queue_is_given_up_and_the_others_go_on() {
    let running = Running::serve(memory(1 << 20));
    type Break = fn(&mut silt_testkit::virtqueue::VirtQueue);
    let breaks: [(&str, Break); 3] = [
        ("an index that jumps", |queue| queue.put_available(0, 129)),
        ("a head beyond the table", |queue| queue.put_available(128, 1)),
        ("the last head there is", |queue| queue.put_available(u16::MAX, 1)),
    ];
    for (case, break_it) in breaks {
        let client = running.connect(Wishes { queues: 2, ..Wishes::default() });
        let mut queue = client.queue(1);
        break_it(&mut queue);
        queue.kick.write(1).unwrap();
        assert!(queue.wait_error(), "{case}");
        assert!(queue.take_used().is_none(), "{case}");
        drop(queue);
        assert_eq!(client.ask(0, (request::IN, 0), b"", 512).unwrap().0, 0, "{case}");
        client.stop_queue(1).unwrap();
        assert_eq!(client.ask(0, (request::FLUSH, 0), b"", 0).unwrap().0, 0, "{case}");
    }
}

#[test]
fn a_monitor_whose_memory_cannot_be_is_cut_off_and_the_next_is_served() {
    let running = Running::serve(memory(1 << 20));
    type Break = fn(&mut [vhost::VhostUserMemoryRegionInfo; 2], &File);
    let breaks: [(&str, Break); 6] = [
        ("longer than its file", |regions, _| regions[1].memory_size += 4096),
        ("an offset beyond the file", |regions, _| regions[1].mmap_offset = MEMORY_BYTES),
        ("an offset that overflows", |regions, _| regions[1].mmap_offset = u64::MAX - 4095),
        ("addresses that overflow", |regions, _| regions[1].guest_phys_addr = u64::MAX - 4095),
        ("regions that overlap", |regions, _| regions[1].guest_phys_addr -= 4096),
        ("a file that was cut off", |_, file| file.set_len(4096).unwrap()),
    ];
    for (case, break_it) in breaks {
        let guest = Guest::new();
        let client =
            VhostUserClient::negotiate(&running.socket, guest.clone(), Wishes::default()).unwrap();
        let mut regions = guest.regions();
        break_it(&mut regions, &guest.file);
        assert!(client.lock_frontend().set_mem_table(&regions).is_err(), "{case}");
    }
    running.connect(Wishes::default()).flush().unwrap();
}

fn ring_at(table: u64) -> VringConfigData {
    VringConfigData {
        queue_max_size: 128,
        queue_size: 128,
        flags: 0,
        desc_table_addr: table,
        used_ring_addr: table,
        avail_ring_addr: table,
        log_addr: None,
    }
}

#[test]
fn rings_logs_and_records_that_cannot_be_are_refused() {
    let running = Running::serve(memory(1 << 20));
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    type Ask = fn(&VhostUserClient, &File) -> bool;
    let cases: [(&str, Ask); 8] = [
        ("a ring beyond memory", |client, _| {
            let table = 0x7000_0000_0000 + MEMORY_BYTES;
            client.lock_frontend().set_vring_addr(0, &ring_at(table)).is_err()
        }),
        ("a ring across the end of memory", |client, _| {
            let table = 0x7000_0000_0000 + MEMORY_BYTES - 64;
            client.lock_frontend().set_vring_addr(0, &ring_at(table)).is_err()
        }),
        ("a queue too long", |client, _| client.lock_frontend().set_vring_num(0, 2048).is_err()),
        ("a queue of an odd size", |client, _| {
            client.lock_frontend().set_vring_num(0, 100).is_err()
        }),
        ("a queue too many", |client, _| client.lock_frontend().set_vring_num(16, 128).is_err()),
        ("a log of no file", |client, null| {
            let log = VhostUserDirtyLogRegion {
                mmap_size: 1 << 20,
                mmap_offset: 0,
                mmap_handle: null.as_raw_fd(),
            };
            client.lock_frontend().set_log_base(0, Some(log)).is_err()
        }),
        ("a record of no file", |client, null| {
            let record = VhostUserInflight::new(1 << 20, 0, 1, 128);
            client.lock_frontend().set_inflight_fd(&record, null.as_raw_fd()).is_err()
        }),
        ("a feature that was not offered", |client, _| {
            client.lock_frontend().set_features(client.features | 1 << 34).is_err()
        }),
    ];
    for (case, is_refused) in cases {
        let client = running.connect(Wishes::default());
        assert!(is_refused(&client, &null), "{case}");
    }
    running.connect(Wishes::default()).flush().unwrap();
}
