//! What is offered, feature by feature.

use super::Running;
use crate::device::{Odd, memory};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use silt_export::StateSource;
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_testkit::{
    vhost_user_client::{
        GUEST_START, Guest, MEMORY_BYTES, VhostUserClient, Wishes, feature, request,
    },
    virtqueue::Part,
};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry, MemoryDevice};
use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use vhost::{
    VhostBackend as _, VhostUserDirtyLogRegion,
    vhost_user::{
        FrontendReqHandler, HandlerResult, VhostUserFrontend as _, VhostUserFrontendReqHandler,
        message::{VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags},
    },
};
use vm_memory::{Bytes as _, GuestAddress};

/// A disk that grows.
struct Growing {
    inner: MemoryDevice,
    size: AtomicU64,
}

impl Growing {
    fn new() -> Arc<Growing> {
        let inner = MemoryDevice::new(vec![7; 1 << 20], false);
        Arc::new(Growing { inner, size: AtomicU64::new(512 << 10) })
    }
}

impl BlockDevice for Growing {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.size.load(Ordering::Relaxed), read_only: false }
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.inner.readv_at(buf, offset)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.inner.writev_at(buf, offset)
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.inner.discard(offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.inner.write_zeroes(offset, len_bytes, may_unmap)
    }

    fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<BlockStatus>> {
        self.inner.block_status(offset, len, runs_max)
    }
}

#[derive(Default)]
struct Monitor {
    told: AtomicUsize,
}

impl VhostUserFrontendReqHandler for Monitor {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.told.fetch_add(1, Ordering::Relaxed);
        Ok(0)
    }
}

#[test]
fn a_monitor_is_told_that_the_disk_grew() {
    let device = Growing::new();
    let running = Running::serve(device.clone());
    // Nobody to be told.
    running.server.grown();
    let client = running.connect(Wishes::default());
    running.server.grown();
    let monitor = Arc::new(Monitor::default());
    let mut channel = FrontendReqHandler::new(monitor.clone()).unwrap();
    client.lock_frontend().set_backend_request_fd(&Fd(channel.get_tx_raw_fd())).unwrap();
    assert!(client.ask(0, (request::IN, 2047), b"", 512).is_ok());
    device.size.store(1 << 20, Ordering::Relaxed);
    assert_eq!(client.geometry().size_bytes, 512 << 10);
    running.server.grown();
    channel.handle_request().unwrap();
    assert_eq!(monitor.told.load(Ordering::Relaxed), 1);
    client.look_again().unwrap();
    assert_eq!(client.geometry().size_bytes, 1 << 20);
}

struct Fd(i32);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}

#[test]
fn the_disk_has_a_name_and_unknown_requests_are_unsupported() {
    let running = Running::serve(memory(1 << 20));
    let client = running.connect(Wishes::default());
    let (status, name) = client.ask(0, (request::GET_ID, 0), b"", 20).unwrap();
    assert_eq!((status, &name[..]), (0, &b"siltstone\0\0\0\0\0\0\0\0\0\0\0"[..]));
    for kind in [2, 3, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(client.ask(0, (kind, 0), b"", 0).unwrap().0, 2, "{kind:#x}");
    }
    let range = |flags: u32| {
        let mut range = 0u64.to_le_bytes().to_vec();
        range.extend(8u32.to_le_bytes());
        range.extend(flags.to_le_bytes());
        range
    };
    // A discard unmaps anyway, and other flags are for later versions.
    assert_eq!(client.ask(0, (request::DISCARD, 0), &range(1), 0).unwrap().0, 2);
    assert_eq!(client.ask(0, (request::WRITE_ZEROES, 0), &range(2), 0).unwrap().0, 2);
    // More ranges than announced, and a piece of one.
    assert_eq!(client.ask(0, (request::DISCARD, 0), &range(0).repeat(17), 0).unwrap().0, 1);
    assert_eq!(client.ask(0, (request::DISCARD, 0), &range(0)[..15], 0).unwrap().0, 1);
    assert_eq!(client.ask(0, (request::DISCARD, 0), &range(0).repeat(16), 0).unwrap().0, 0);
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let running = Running::serve(Arc::new(MemoryDevice::new(vec![7; 1 << 20], true)));
    let client = running.connect(Wishes::default());
    assert!(client.geometry().read_only);
    assert_eq!(client.ask(0, (request::IN, 0), b"", 512).unwrap(), (0, vec![7; 512]));
    assert_eq!(client.ask(0, (request::OUT, 0), &[1; 4096], 0).unwrap().0, 1);
    assert_eq!(client.ask(0, (request::DISCARD, 0), &[0; 16], 0).unwrap().0, 2);
    assert_eq!(client.ask(0, (request::FLUSH, 0), b"", 0).unwrap().0, 0);
    assert_eq!(client.ask(0, (request::IN, 0), b"", 512).unwrap(), (0, vec![7; 512]));
}

#[test]
fn a_driver_that_cannot_flush_finds_every_write_durable() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let without = feature::FLUSH | feature::LOG_ALL;
    let client = running.connect(Wishes { without, ..Wishes::default() });
    for (written, data) in [(1, &[1; 4096][..]), (2, &[2; 512])] {
        client.ask(0, (request::OUT, 0), data, 0).unwrap();
        assert_eq!(device.flushes.load(Ordering::Relaxed), written);
    }
}

#[test]
fn the_configuration_cannot_be_written_and_asking_harms_nobody() {
    let running = Running::serve(memory(1 << 20));
    let client = running.connect(Wishes::default());
    let flags = VhostUserConfigFlags::WRITABLE;
    assert!(client.lock_frontend().set_config(32, flags, &[0]).is_err());
    let all = client.lock_frontend().get_config(0, 256, flags, &[0; 256]).unwrap().1;
    assert_eq!(&all[..60], &client.config().unwrap()[..]);
    assert_eq!(all[60..], [0; 196]);
    client.flush().unwrap();
}

#[test]
fn with_event_index_a_batch_is_told_of_far_less_often_than_it_is_long() {
    let running = Running::serve(memory(1 << 20));
    let client = running.connect(Wishes::default());
    let mut queue = client.queue(0);
    let place = VhostUserClient::data_place(0);
    let header = silt_testkit::vhost_user_client::header(request::IN, 0);
    client.guest.memory.write_slice(&header, GuestAddress(place - 64)).unwrap();
    let parts = [(place - 64, 16, false), (place, 512, true), (place - 16, 1, true)]
        .map(|(address, len, is_writable)| Part { address, len, is_writable });
    for _ in 0..100 {
        (0..40).for_each(|request| queue.submit(request * 3, &parts, false));
        queue.tell(40);
        // The driver looks at what is there without having been told, as busy drivers do.
        let mut left = 40;
        while left > 0 {
            queue.wait_used().unwrap();
            left -= 1;
        }
    }
    assert!(queue.kicks <= 100 && queue.calls < 2000, "{} {}", queue.kicks, queue.calls);
}

#[test]
fn memory_comes_and_goes_under_a_running_queue() {
    let running = Running::serve(memory(1 << 20));
    let client = running.connect(Wishes::default());
    assert_eq!(client.lock_frontend().get_max_mem_slots().unwrap(), 32);
    let mut more = Guest::new().regions()[0];
    let other = Guest::new();
    more.guest_phys_addr = GUEST_START + MEMORY_BYTES;
    more.userspace_addr = 0x1000_0000_0000;
    more.mmap_handle = other.file.as_raw_fd();
    let read_into = |address: u64| {
        let place = VhostUserClient::data_place(0);
        let header = silt_testkit::vhost_user_client::header(request::IN, 0);
        client.guest.memory.write_slice(&header, GuestAddress(place - 64)).unwrap();
        let parts = [(place - 64, 16, false), (address, 512, true), (place - 16, 1, true)]
            .map(|(address, len, is_writable)| Part { address, len, is_writable });
        let mut queue = client.queue(0);
        queue.submit(0, &parts, false);
        queue.tell(1);
        queue.wait_used().unwrap();
        let status: u8 = client.guest.memory.read_obj(GuestAddress(place - 16)).unwrap();
        status
    };
    client.write_at(&[9; 512], 0).unwrap();
    assert_eq!(read_into(more.guest_phys_addr + 4096), 1);
    client.lock_frontend().add_mem_region(&more).unwrap();
    assert_eq!(read_into(more.guest_phys_addr + 4096), 0);
    let mut found = [0; 512];
    other.file.read_exact_at(&mut found, 4096).unwrap();
    assert_eq!(found, [9; 512]);
    client.lock_frontend().remove_mem_region(&more).unwrap();
    assert_eq!(read_into(more.guest_phys_addr + 4096), 1);
}

#[test]
fn every_page_that_is_written_while_a_log_is_kept_is_in_it() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let client = running.connect(Wishes { without: feature::LOG_ALL, ..Wishes::default() });
    let log_bytes = (GUEST_START + MEMORY_BYTES) / 4096 / 8;
    let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, log_bytes).unwrap();
    let log = VhostUserDirtyLogRegion {
        mmap_size: log_bytes,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    client.ask(0, (request::IN, 0), b"", 4096).unwrap();
    client.lock_frontend().set_log_base(0, Some(log)).unwrap();
    client.ask(0, (request::IN, 0), b"", 4096).unwrap();
    assert_eq!(dirty_pages(&file), [0u64; 0], "not yet");
    // As a monitor does in the middle of a migration, under a running queue.
    client.lock_frontend().set_features(client.features | feature::LOG_ALL).unwrap();
    let place = VhostUserClient::data_place(0);
    let used = client.queue(0).places()[2];
    for is_cold in [false, true] {
        device.is_cold.store(is_cold, Ordering::Relaxed);
        dirty_pages(&file);
        client.ask(0, (request::IN, 0), b"", 3 * 4096).unwrap();
        // Status, used ring, and what was read, of which not one page too many.
        let mut expected: Vec<u64> = (0..3).map(|page| place + page * 4096).collect();
        expected.extend([(place - 16) / 4096 * 4096, used]);
        expected.sort_unstable();
        assert_eq!(dirty_pages(&file), expected);
        client.ask(0, (request::OUT, 0), &[1; 8192], 0).unwrap();
        assert_eq!(dirty_pages(&file), [used, (place - 16) / 4096 * 4096]);
    }
    client.lock_frontend().set_features(client.features).unwrap();
    dirty_pages(&file);
    client.ask(0, (request::IN, 0), b"", 4096).unwrap();
    assert_eq!(dirty_pages(&file), [0u64; 0], "no more");
}

/// The pages of a log, which is empty afterwards.
fn dirty_pages(log: &File) -> Vec<u64> {
    let len = log.metadata().unwrap().len();
    let mut bytes = vec![0; len as usize];
    log.read_exact_at(&mut bytes, 0).unwrap();
    log.write_all_at(&vec![0; len as usize], 0).unwrap();
    let bits = bytes.iter().enumerate().flat_map(|(at, byte)| {
        (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| (at as u64 * 8 + bit) * 4096)
    });
    bits.collect()
}

#[test]
fn the_state_of_a_disk_goes_with_its_machine_and_fits_no_other() {
    let state = Arc::new(Mutex::new("vm1 at 17".to_owned()));
    let source: StateSource = Arc::new({
        let state = state.clone();
        move || Ok(state.lock().unwrap().clone())
    });
    let running = Running::serve_in(Some(source), memory(1 << 20));
    let client = running.connect(Wishes::default());
    let transfer = |direction, bytes: Option<&[u8]>| {
        let (mut read, mut write) = std::io::pipe().unwrap();
        let phase = VhostTransferStatePhase::STOPPED;
        let frontend = client.lock_frontend();
        let Some(bytes) = bytes else {
            frontend.set_device_state_fd(direction, phase, write.into()).unwrap();
            let mut saved = Vec::new();
            std::io::Read::read_to_end(&mut read, &mut saved).unwrap();
            frontend.check_device_state().unwrap();
            return saved;
        };
        frontend.set_device_state_fd(direction, phase, read.into()).unwrap();
        std::io::Write::write_all(&mut write, bytes).unwrap();
        drop(write);
        match frontend.check_device_state() {
            Ok(()) => b"good".to_vec(),
            Err(_) => b"refused".to_vec(),
        }
    };
    let (save, load) = (VhostTransferStateDirection::SAVE, VhostTransferStateDirection::LOAD);
    let (_, write) = std::io::pipe().unwrap();
    let stopped = VhostTransferStatePhase::STOPPED;
    let running_state = client.lock_frontend().set_device_state_fd(save, stopped, write.into());
    assert!(running_state.is_err(), "it changes while its queues run");
    client.stop_queue(0).unwrap();
    assert_eq!(transfer(save, None), b"vm1 at 17");
    assert_eq!(transfer(load, Some(b"vm1 at 17")), b"good");
    assert_eq!(transfer(load, Some(b"vm1 at 18")), b"refused");
    assert_eq!(transfer(load, Some(b"")), b"refused");
    assert_eq!(transfer(load, Some(&[b'x'; 5000])), b"refused");
    *state.lock().unwrap() = "vm1 at 18".into();
    assert_eq!(transfer(load, Some(b"vm1 at 18")), b"good");
    let base = client.queue(0).next_available();
    client.start_queue(0, base).unwrap();
    client.flush().unwrap();
}
