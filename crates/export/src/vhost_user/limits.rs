//! Every bound of the vhost-user export, with its reason.

use std::time::Duration;

/// Virtqueues. Monitors give a device one for each virtual CPU; beyond this many, queues share what a disk can do.
pub(super) const QUEUES_MAX: usize = 16;

/// Descriptors in a queue. QEMU gives 128 unless told otherwise, and at most 1,024.
pub(super) const QUEUE_SIZE_MAX: u16 = 1024;

/// Pieces of data in a request, announced to guests: with header and status they fill the queue of 128 that QEMU gives.
/// More are served all the same, up to the size of the queue.
pub(super) const SEGMENTS_MAX: u32 = 126;

/// Length of one such piece, announced to guests.
pub(super) const SEGMENT_BYTES_MAX: u32 = 1 << 20;

/// Data of one read or write: what the two above allow. Longer ones are answered with an error.
pub(super) const REQUEST_BYTES_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_BYTES_MAX as u64;

/// Ranges in one discard or write-zeroes request, announced to guests. Linux sends up to 256 where it may; each takes a
/// system call or more, and a request should end soon.
pub(super) const RANGES_MAX: u32 = 16;

/// Length of one such range in sectors of 512 bytes, announced to guests: 2 GiB.
pub(super) const RANGE_SECTORS_MAX: u32 = 1 << 22;

/// Pieces of guest memory: what one message of the `vhost` crate can carry. QEMU needs one to eight, and one more for
/// each memory device.
pub(super) const MEMORY_SLOTS_MAX: usize = 32;

/// Reads up to this length are tried on the queue's own thread, if they are hot.
pub(super) const READ_INLINE_BYTES_MAX: u64 = 256 << 10;

/// Whole-block writes up to this length are done on the queue's own thread.
pub(super) const WRITE_INLINE_BYTES_MAX: u64 = 256 << 10;

/// The same for both while the queue has nothing else to do: nobody waits behind it, and a worker would only have to be woken.
pub(super) const ALONE_INLINE_BYTES_MAX: u64 = 1 << 20;

/// How long a guest that has just asked is waited for awake, and need not tell. Beyond it the thread sleeps, and the next wait
/// begins asleep: an idle guest costs nothing.
pub(super) const AWAKE_TIME_MAX: Duration = Duration::from_micros(50);

/// Threads of a queue for requests that may wait.
pub(super) const WORKERS_MAX: usize = 4;

/// Requests of a queue that wait for or run on those threads; the queue takes no more until one ends. Bounds the memory
/// that requests of a hostile guest hold: each at most [`QUEUE_SIZE_MAX`] pieces of 16 bytes.
pub(super) const JOBS_MAX: usize = 64;

/// Answers that the guest may not hear of yet while the queue has more requests. Few enough for it to ask for more while the rest
/// of what it asked for is done; a guest that has not come to look at the answers before is not told again.
pub(super) const UNTOLD_MAX: usize = 4;

/// Length of the state that is handed over with a virtual machine: an id with room to spare.
pub(super) const STATE_BYTES_MAX: usize = 1024;

/// Time for a monitor to send the rest of a message that it began, or to take an answer.
pub(super) const MESSAGE_TIME_MAX: Duration = Duration::from_secs(2);

/// Time for the requests of a stopped queue to end, before it is given up.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_gives_these_limits() {
        let document = include_str!("../../../../docs/internals/vhost-user.md");
        let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
        for (name, value) in [
            ("QUEUES_MAX", QUEUES_MAX.to_string()),
            ("QUEUE_SIZE_MAX", QUEUE_SIZE_MAX.to_string()),
            ("SEGMENTS_MAX", SEGMENTS_MAX.to_string()),
            ("SEGMENT_BYTES_MAX", SEGMENT_BYTES_MAX.to_string()),
            ("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX.to_string()),
            ("RANGES_MAX", RANGES_MAX.to_string()),
            ("RANGE_SECTORS_MAX", RANGE_SECTORS_MAX.to_string()),
            ("MEMORY_SLOTS_MAX", MEMORY_SLOTS_MAX.to_string()),
            ("READ_INLINE_BYTES_MAX", READ_INLINE_BYTES_MAX.to_string()),
            ("WRITE_INLINE_BYTES_MAX", WRITE_INLINE_BYTES_MAX.to_string()),
            ("ALONE_INLINE_BYTES_MAX", ALONE_INLINE_BYTES_MAX.to_string()),
            ("AWAKE_TIME_MAX", format!("{} us", AWAKE_TIME_MAX.as_micros())),
            ("WORKERS_MAX", WORKERS_MAX.to_string()),
            ("JOBS_MAX", JOBS_MAX.to_string()),
            ("UNTOLD_MAX", UNTOLD_MAX.to_string()),
            ("STATE_BYTES_MAX", STATE_BYTES_MAX.to_string()),
            ("MESSAGE_TIME_MAX", seconds(MESSAGE_TIME_MAX)),
            ("DRAIN_TIME_MAX", seconds(DRAIN_TIME_MAX)),
        ] {
            assert!(document.contains(&format!("| `{name}` | {value} |")), "{name} is {value}");
        }
    }
}
