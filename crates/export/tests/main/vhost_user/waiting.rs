//! Which requests wait behind which: those that may take long are no queue's thread's.

use super::Running;
use crate::device::Odd;
use silt_testkit::{
    vhost_user_client::{VhostUserClient, Wishes, header, request},
    virtqueue::Part,
};
use std::sync::{Arc, atomic::Ordering};
use vm_memory::{Bytes as _, GuestAddress};

/// Makes a request of `len` bytes available; its descriptors begin at `head`.
fn submit(client: &VhostUserClient, head: u16, kind: u32, len: u32) {
    let place = VhostUserClient::data_place(0);
    let header_at = place - 64 - u64::from(head) * 16;
    client.guest.memory.write_slice(&header(kind, 0), GuestAddress(header_at)).unwrap();
    let parts = [
        (header_at, 16, false),
        (place, len, kind == request::IN),
        (place - 16 - u64::from(head), 1, true),
    ];
    let parts = parts.map(|(address, len, is_writable)| Part { address, len, is_writable });
    let parts: Vec<Part> = parts.into_iter().filter(|part| part.len > 0).collect();
    let mut queue = client.queue(0);
    queue.submit(head, &parts, false);
    queue.tell(1);
}

fn disk() -> (Arc<Odd>, Running, VhostUserClient) {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let client = running.connect(Wishes::default());
    (device, running, client)
}

/// A read of one block is answered while what is before it waits.
fn a_read_is_answered_now(client: &VhostUserClient) {
    submit(client, 9, request::IN, 4096);
    assert_eq!(client.queue(0).wait_used().unwrap(), (9, 4097));
}

/// It was done by the queue's own thread, and every request behind it waited for the limit of the disk as well.
#[test]
fn a_write_over_the_limit_holds_up_no_read() {
    let (device, _running, client) = disk();
    device.is_over_limit.store(true, Ordering::Relaxed);
    device.gate.close();
    submit(&client, 0, request::OUT, 4096);
    device.gate.wait_for(1);
    a_read_is_answered_now(&client);
    device.gate.open();
    assert_eq!(client.queue(0).wait_used().unwrap(), (0, 1));
}

#[test]
fn a_long_write_that_is_not_alone_holds_up_no_read() {
    let (device, _running, client) = disk();
    device.gate.close();
    submit(&client, 0, request::FLUSH, 0);
    device.gate.wait_for(1);
    submit(&client, 3, request::OUT, 512 << 10);
    device.gate.wait_for(2);
    a_read_is_answered_now(&client);
    device.gate.open();
    let mut heads = [0; 2].map(|_| client.queue(0).wait_used().unwrap().0);
    heads.sort_unstable();
    assert_eq!(heads, [0, 3]);
}
