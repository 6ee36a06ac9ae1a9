//! A guest that remembers what it asked for, and what its disk may therefore hold after a crash.
//!
//! The rule: each sector holds its value at the last answered flush, or one written since, and nothing else. A write
//! with FUA counts as flushed for its own sectors; one that was answered with an error may be there or not.

use silt_testkit::nbd_client::NbdSession;
use std::ops::Range;

/// Bytes that a disk writes whole.
pub(crate) const SECTOR: u64 = 512;

/// What a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Write,
    /// A write that is durable when it is answered.
    WriteFua,
    Trim,
    Zero,
    /// The space is kept.
    ZeroKeep,
}

/// One request, in bytes; multiples of a sector, trims of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) at: u64,
    pub(crate) len: u64,
}

/// Shorthand for tables.
pub(crate) const fn request(ask: Ask, at: u64, len: u64) -> Request {
    Request { ask, at, len }
}

impl Request {
    fn covers(&self, sector: u64) -> bool {
        (self.at..self.at + self.len).contains(&(sector * SECTOR))
    }

    /// What the request with this number makes of a sector.
    fn sector(&self, number: usize, sector: u64) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        if matches!(self.ask, Ask::Write | Ask::WriteFua) {
            let word = (number as u64 + 1) << 32 | sector;
            bytes.chunks_mut(8).for_each(|part| part.copy_from_slice(&word.to_le_bytes()));
        }
        bytes
    }

    fn payload(&self, number: usize) -> Vec<u8> {
        let sectors: Range<u64> = self.at / SECTOR..(self.at + self.len) / SECTOR;
        sectors.flat_map(|sector| self.sector(number, sector)).collect()
    }
}

/// How far a guest had come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moment {
    /// Requests sent.
    pub(crate) issued: usize,
    /// Requests sent and answered before a flush that was answered.
    pub(crate) flushed: usize,
    /// Answered requests with FUA.
    pub(crate) durable: Vec<usize>,
}

impl Moment {
    /// From what [`Guest`] wrote down.
    pub(crate) fn of<'a>(marks: impl Iterator<Item = &'a str>) -> Moment {
        let mut moment = Moment::default();
        for mark in marks {
            match mark.split_once(' ').map(|(word, number)| (word, number.parse::<usize>())) {
                Some(("issued", Ok(number))) => moment.issued = number,
                Some(("flushed", Ok(number))) => moment.flushed = number,
                Some(("durable", Ok(number))) => moment.durable.push(number),
                _ => {}
            }
        }
        moment
    }
}

/// Everything that was asked of one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The disk as it was before.
    pub(crate) before: Vec<u8>,
    pub(crate) requests: Vec<Request>,
    /// Requests answered with an error, or not at all.
    pub(crate) failed: Vec<usize>,
    /// Requests whose server ended before they were flushed.
    lost: Vec<usize>,
}

impl History {
    pub(crate) fn new(before: Vec<u8>) -> History {
        History { before, ..History::default() }
    }

    /// Says that a server ended without making these requests and those after them durable: no later flush does.
    pub(crate) fn lost_from(&mut self, first: usize) {
        self.lost.extend(first..self.requests.len());
    }

    /// Whether a disk may hold `bytes` after a crash at this moment.
    pub(crate) fn allows(&self, bytes: &[u8], moment: &Moment) -> Result<(), String> {
        if bytes.len() != self.before.len() {
            return Err(format!("{} bytes instead of {}", bytes.len(), self.before.len()));
        }
        let size = SECTOR as usize;
        for (sector, found) in bytes.chunks(size).enumerate() {
            let sector = sector as u64;
            let covering: Vec<usize> =
                (0..moment.issued).filter(|n| self.requests[*n].covers(sector)).collect();
            let is_safe = |n: &&usize| {
                let is_flushed = **n < moment.flushed && !self.lost.contains(n);
                (is_flushed || moment.durable.contains(n)) && !self.failed.contains(n)
            };
            let floor = covering.iter().rev().find(is_safe).copied();
            let at_floor = match floor {
                Some(number) => self.requests[number].sector(number, sector).to_vec(),
                None => self.before[sector as usize * size..][..found.len()].to_vec(),
            };
            let since = covering.iter().filter(|n| floor.is_none_or(|floor| **n > floor));
            let is_since =
                |n: &usize| self.requests[*n].sector(*n, sector)[..found.len()] == *found;
            if at_floor != found && !since.clone().any(is_since) {
                let since: Vec<_> = since.collect();
                return Err(format!(
                    "sector {sector} is neither as flushed (request {floor:?}) nor as written since ({since:?}): {:x?}",
                    &found[..16]
                ));
            }
        }
        Ok(())
    }
}

/// A guest at a disk.
pub(crate) struct Guest<'a> {
    pub(crate) session: NbdSession,
    pub(crate) history: &'a mut History,
    /// Hears of each moment.
    pub(crate) note: &'a dyn Fn(String),
}

impl Guest<'_> {
    /// Sends one request. The error number of the answer; `Err` where the server is gone.
    pub(crate) fn ask(&mut self, request: Request) -> silt_types::Result<u32> {
        let number = self.history.requests.len();
        self.history.requests.push(request);
        (self.note)(format!("issued {}", number + 1));
        let (command, payload) = match request.ask {
            Ask::Write => ((0, 1), request.payload(number)),
            Ask::WriteFua => ((1, 1), request.payload(number)),
            Ask::Trim => ((0, 4), Vec::new()),
            Ask::Zero => ((0, 6), Vec::new()),
            Ask::ZeroKeep => ((2, 6), Vec::new()),
        };
        let answer = self.session.ask(command, (request.at, request.len), &payload);
        match &answer {
            Ok(reply) if reply.error == 0 => {
                if request.ask == Ask::WriteFua {
                    (self.note)(format!("durable {number}"));
                }
            }
            _ => self.history.failed.push(number),
        }
        Ok(answer?.error)
    }

    /// Flushes. The error number of the answer.
    pub(crate) fn flush(&mut self) -> silt_types::Result<u32> {
        let issued = self.history.requests.len();
        let error = self.session.ask((0, 3), (0, 0), b"")?.error;
        if error == 0 {
            (self.note)(format!("flushed {issued}"));
        }
        Ok(error)
    }

    /// Sends requests and a flush; all must succeed.
    pub(crate) fn ask_all(&mut self, requests: &[Request]) {
        for request in requests {
            assert_eq!(self.ask(*request).unwrap(), 0, "{request:?}");
        }
        assert_eq!(self.flush().unwrap(), 0);
    }
}

#[test]
fn a_guest_accepts_old_and_newer_sectors_and_nothing_else() {
    let requests = vec![request(Ask::Write, 0, 1024), request(Ask::Write, 512, 512)];
    let history = History { requests, ..History::new(vec![7; 2048]) };
    let moment = Moment::of(["issued 1", "flushed 1", "issued 2"].into_iter());
    let disk = |first: &[u8], second: &[u8]| [first, second, &[7; 1024]].concat();
    let (one, two) = (history.requests[0], history.requests[1]);
    history.allows(&disk(&one.sector(0, 0), &one.sector(0, 1)), &moment).unwrap();
    history.allows(&disk(&one.sector(0, 0), &two.sector(1, 1)), &moment).unwrap();
    for wrong in [disk(&[7; 512], &one.sector(0, 1)), disk(&one.sector(0, 0), &[0; 512])] {
        history.allows(&wrong, &moment).unwrap_err();
    }
    let lost = Moment { issued: 2, ..Moment::default() };
    history.allows(&disk(&[7; 512], &one.sector(0, 1)), &lost).unwrap();
}
