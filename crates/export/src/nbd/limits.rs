//! Every bound of the NBD export, with its reason. Per connection they add up to at most 8 MiB of memory, taken as it is
//! needed.

use std::time::Duration;

/// Connections served at once. Clients open one per core or per queue; beyond this it is a leak or an attack.
pub(super) const CLIENTS_MAX: usize = 64;

/// Connections above [`CLIENTS_MAX`] that are told why they are refused; further ones are just closed.
pub(super) const REFUSALS_MAX: usize = 16;

/// Time for the whole handshake. Clients need milliseconds; who needs longer keeps a place from others.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Options in one handshake. Clients send up to ten.
pub(super) const OPTIONS_MAX: usize = 64;

/// Data of one option: an export name (4096 bytes in the specification) and as much again for queries.
pub(super) const OPTION_BYTES_MAX: u32 = 8192;

/// Data of all options of one handshake, too large ones that are read and dropped included.
pub(super) const HANDSHAKE_BYTES_MAX: u32 = 256 * 1024;

/// The longest read or write, announced to clients: 32 MiB is what the specification tells clients to assume.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// The block size that clients are asked to prefer: the unit in which volumes keep what was written.
pub(super) const BLOCK_BYTES_PREFERRED: u32 = silt_types::BLOCK_SIZE_BYTES as u32;

/// What one receive may bring: sixteen requests of 16 KiB, or all of a request of nbdcopy. Longer writes pass through
/// in pieces of this size.
pub(super) const INPUT_BYTES: usize = 512 << 10;

/// How long a client that has just asked is waited for awake. Beyond it the thread sleeps, and the next wait begins asleep: an idle
/// client costs nothing.
pub(super) const AWAKE_TIME_MAX: Duration = Duration::from_micros(50);

/// Replies that are collected before they are sent: a queue of sixteen reads of 16 KiB.
pub(super) const REPLY_BYTES: usize = 512 << 10;

/// The longest read that is tried on the connection's own thread: beyond it, copying costs more than a hand-over.
pub(super) const READ_INLINE_BYTES_MAX: u32 = 128 << 10;

/// The longest partial-block write that is handed over (it may have to read and decode what surrounds it). Longer ones
/// are mostly whole blocks, which are cheap.
pub(super) const WRITE_HANDOVER_BYTES_MAX: u32 = 32 << 10;

/// A worker reads in pieces of this size, so that 32 MiB reads on all connections at once cost no more memory.
pub(super) const READ_PIECE_BYTES_MAX: u32 = 1 << 20;

/// Threads of one connection for slow requests: enough to keep an SSD busy and a 16-core machine decoding from four
/// connections. They belong to the connection so that a client that does not read its replies stops only its own.
pub(super) const WORKERS_MAX: usize = 4;

/// Slow requests of one connection that wait or run, without the writes that wait. Then nothing more is received: the client's
/// queue is full.
pub(super) const JOBS_MAX: usize = 64;

/// The longest write that is handed over because there is no space for it yet. A longer one waits where it is received, and
/// all that its client asks for behind it.
pub(super) const WAITING_WRITE_BYTES_MAX: usize = 2 << 20;

/// What the writes of one connection may keep in memory while they wait for a worker, each counted as a block at least. Beyond it
/// nothing more is received.
pub(super) const WAITING_BYTES_MAX: usize = 8 << 20;

/// How much of a request to cache is done: a hint is not to keep a worker for long, nor to empty the cache for others.
pub(super) const PREFETCH_BYTES_MAX: u64 = 32 << 20;

/// Extents in one answer to a block status request: 32 KiB of reply. Clients ask again for the rest.
pub(super) const EXTENTS_MAX: usize = 4096;

/// The longest error message for a client; the specification allows 4096 bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024;

/// At the end: how long requests in flight may take before their connections are cut.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);

/// At the end: how long cut connections may take to notice. With [`DRAIN_TIME_MAX`] below the 5 s a server has to end.
pub(super) const CUT_TIME_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_and_the_constants_agree() {
        let document = include_str!("../../../../docs/internals/nbd.md");
        let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
        let rows = [
            ("CLIENTS_MAX", CLIENTS_MAX.to_string()),
            ("REFUSALS_MAX", REFUSALS_MAX.to_string()),
            ("HANDSHAKE_TIME_MAX", seconds(HANDSHAKE_TIME_MAX)),
            ("OPTIONS_MAX", OPTIONS_MAX.to_string()),
            ("OPTION_BYTES_MAX", OPTION_BYTES_MAX.to_string()),
            ("HANDSHAKE_BYTES_MAX", HANDSHAKE_BYTES_MAX.to_string()),
            ("PAYLOAD_BYTES_MAX", PAYLOAD_BYTES_MAX.to_string()),
            ("INPUT_BYTES", INPUT_BYTES.to_string()),
            ("AWAKE_TIME_MAX", format!("{} us", AWAKE_TIME_MAX.as_micros())),
            ("REPLY_BYTES", REPLY_BYTES.to_string()),
            ("READ_INLINE_BYTES_MAX", READ_INLINE_BYTES_MAX.to_string()),
            ("WRITE_HANDOVER_BYTES_MAX", WRITE_HANDOVER_BYTES_MAX.to_string()),
            ("READ_PIECE_BYTES_MAX", READ_PIECE_BYTES_MAX.to_string()),
            ("WORKERS_MAX", WORKERS_MAX.to_string()),
            ("JOBS_MAX", JOBS_MAX.to_string()),
            ("WAITING_WRITE_BYTES_MAX", WAITING_WRITE_BYTES_MAX.to_string()),
            ("WAITING_BYTES_MAX", WAITING_BYTES_MAX.to_string()),
            ("PREFETCH_BYTES_MAX", PREFETCH_BYTES_MAX.to_string()),
            ("EXTENTS_MAX", EXTENTS_MAX.to_string()),
            ("DRAIN_TIME_MAX", seconds(DRAIN_TIME_MAX)),
            ("CUT_TIME_MAX", seconds(CUT_TIME_MAX)),
        ];
        for (name, value) in rows {
            let row = format!("| `{name}` | {value} |");
            assert!(document.contains(&row), "no row {row}");
        }
    }
}
