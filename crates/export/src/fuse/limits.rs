//! Every bound of the FUSE export, with its reason.

use std::time::Duration;

/// Threads that read requests from the kernel and answer the quick ones. One may be held up by a write that waits for the
/// page cache to be written out; with four, hot reads still find one.
pub(super) const THREADS: usize = 4;

/// Threads for what may wait for a disk or decode something: enough to keep an SSD busy. Started when needed.
pub(super) const WORKERS_MAX: usize = 8;

/// Slow requests that wait for a worker. Beyond it whoever received a request does it.
pub(super) const JOBS_MAX: usize = 256;

/// The longest read or write: what kernels send at most unless told otherwise (256 pages). A longer read is cut.
pub(super) const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel has under way for readahead and asynchronous direct I/O. Its own default of 12 is less than
/// the queue of one virtual disk.
pub(super) const BACKGROUND_MAX: u16 = 128;

/// The longest partial-block write that is handed over (it may have to read and decode what surrounds it). Longer ones
/// are mostly whole blocks, which are cheap.
pub(super) const WRITE_HANDOVER_BYTES_MAX: usize = 32 << 10;

/// Runs asked for at a time when the next hole or data is looked for.
pub(super) const SEEK_RUNS_MAX: usize = 64;

/// Disks of a folder that programs have open at once: each has a few descriptors and map nodes.
pub(super) const DISKS_OPEN_MAX: usize = 256;

/// At the end, once the name is gone: how long those who have the file open may take to let go of it. A loop device takes
/// milliseconds after its unmount.
pub(super) const LINGER_TIME_MAX: Duration = Duration::from_millis(1500);

/// After that: how long requests under way may take. With [`LINGER_TIME_MAX`] below the 5 s a server has to end.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_millis(2000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_and_the_constants_agree() {
        let document = include_str!("../../../../docs/internals/fuse.md");
        let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
        let rows = [
            ("THREADS", THREADS.to_string()),
            ("WORKERS_MAX", WORKERS_MAX.to_string()),
            ("JOBS_MAX", JOBS_MAX.to_string()),
            ("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX.to_string()),
            ("BACKGROUND_MAX", BACKGROUND_MAX.to_string()),
            ("WRITE_HANDOVER_BYTES_MAX", WRITE_HANDOVER_BYTES_MAX.to_string()),
            ("SEEK_RUNS_MAX", SEEK_RUNS_MAX.to_string()),
            ("DISKS_OPEN_MAX", DISKS_OPEN_MAX.to_string()),
            ("LINGER_TIME_MAX", seconds(LINGER_TIME_MAX)),
            ("DRAIN_TIME_MAX", seconds(DRAIN_TIME_MAX)),
        ];
        for (name, value) in rows {
            let row = format!("| `{name}` | {value} |");
            assert!(document.contains(&row), "no row {row}");
        }
    }
}
