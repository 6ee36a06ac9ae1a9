//! A guest's driver of virtio-blk without the guest: asks a vhost-user-blk server for one thing again and again, and prints how
//! often it got it.
//!
//!     vhost-load SOCKET read|write|randread|randwrite|sum BLOCK_BYTES DEPTH OFFSET LENGTH SECONDS
//!
//! Prints requests, seconds, and seconds of processor time of its own: while those are fewer, it waited for the server. With
//! SECONDS 0 all of the range once. `sum` reads it in order, and prints the CRC-32C of what it got.
//!
//! One queue, as QEMU and Linux set it up: 128 descriptors, an indirect table for each request, an inflight record where one is
//! offered. It does not poll: it asks with an eventfd when the event index wants that, sleeps in `epoll_wait` until the
//! other one tells it, takes all the answers there are, asks again for as many, and only then looks whether to tell.

mod connection;
mod queue;

use connection::Connection;
use queue::Kind;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Beyond the time of the run: the server hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, pattern, numbers @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let numbers: Vec<u64> =
        numbers.iter().map(|number| number.parse()).collect::<std::result::Result<_, _>>()?;
    let [block, depth, offset, len, seconds] = numbers[..] else { return Err(USAGE.into()) };
    let time = Duration::from_secs(seconds);
    std::thread::spawn(move || {
        std::thread::sleep(time + PATIENCE);
        eprintln!("vhost-load: the server does not answer");
        std::process::exit(1);
    });
    let kind = if pattern.ends_with("write") { Kind::Write } else { Kind::Read };
    let mut connection = Connection::open(socket, kind, block as u32, depth as u16)?;
    let places = Places {
        first: offset,
        count: len / block,
        block,
        next: 0,
        random: pattern.starts_with("rand").then_some(0x5117),
        end: (time > Duration::ZERO).then(|| Instant::now() + time),
    };
    let (began, cost) = (Instant::now(), processor_seconds());
    let (count, sum) = run(&mut connection, depth as u16, places, pattern == "sum")?;
    let (took, cost) = (began.elapsed().as_secs_f64(), processor_seconds() - cost);
    match pattern.as_str() {
        "sum" => println!("{sum:08x}"),
        _ => println!("{count} {took} {cost}"),
    }
    Ok(())
}

const USAGE: &str = "usage: vhost-load SOCKET PATTERN BLOCK_BYTES DEPTH OFFSET LENGTH SECONDS";

/// Keeps `depth` requests under way until there are no more places; answers with how many were done.
fn run(
    connection: &mut Connection,
    depth: u16,
    mut places: Places,
    wants_sum: bool,
) -> Result<(u64, u32)> {
    let queue = &mut connection.queue;
    let (mut count, mut open, mut sum) = (0, 0, 0);
    for slot in 0..depth {
        if let Some(place) = places.next() {
            queue.submit(slot, place)?;
            open += 1;
        }
    }
    queue.tell()?;
    while open > 0 {
        queue.wait()?;
        while let Some(slot) = queue.take()? {
            count += 1;
            if wants_sum {
                sum = queue.add_to_sum(slot, sum)?;
            }
            match places.next() {
                Some(place) => queue.submit(slot, place)?,
                None => open -= 1,
            }
        }
        queue.tell()?;
    }
    Ok((count, sum))
}

/// Where the next request goes, in bytes.
struct Places {
    first: u64,
    count: u64,
    block: u64,
    next: u64,
    random: Option<u64>,
    /// Without one all places are asked for once, in order.
    end: Option<Instant>,
}

impl Iterator for Places {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.next += 1;
        match self.end {
            None if self.next > self.count => return None,
            // A clock is looked at now and then.
            Some(end) if self.next.is_multiple_of(16) && Instant::now() >= end => return None,
            _ => (),
        }
        let at = match &mut self.random {
            None => self.next - 1,
            Some(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                *state
            }
        };
        Some(self.first + at % self.count * self.block)
    }
}

/// Of this thread.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
