//! The names of a hierarchy: one record per name, one buffer for all bytes, and a hash table of record numbers, so that a
//! name costs 25 to 30 bytes and its own length.

use super::NONE;
use silt_types::{Error, Result};

/// All names.
#[derive(Default)]
pub(super) struct NameTable {
    records: Vec<Record>,
    bytes: Vec<u8>,
    /// Open addressing with linear probing; a power of two long, at most two thirds full. Holds record numbers or [`NONE`].
    slots: Vec<u32>,
}

struct Record {
    parent: u32,
    /// [`NONE`] once the name was taken away; the record stays, for the name may be given again.
    entry: u32,
    /// The next name of the same directory.
    next: u32,
    start: u32,
    len: u8,
}

impl NameTable {
    pub(super) fn bytes(&self, name: u32) -> &[u8] {
        let record = &self.records[name as usize];
        &self.bytes[record.start as usize..][..record.len.into()]
    }

    pub(super) fn parent(&self, name: u32) -> u32 {
        self.records[name as usize].parent
    }

    pub(super) fn entry(&self, name: u32) -> u32 {
        self.records[name as usize].entry
    }

    pub(super) fn next(&self, name: u32) -> u32 {
        self.records[name as usize].next
    }

    pub(super) fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.record(parent, name).filter(|record| self.entry(*record) != NONE)
    }

    /// Takes a name away. Answers the entry that it was of.
    pub(super) fn take(&mut self, name: u32) -> u32 {
        std::mem::replace(&mut self.records[name as usize].entry, NONE)
    }

    fn record(&self, parent: u32, name: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots[self.slot_of(parent, name)];
        (slot != NONE).then_some(slot)
    }

    /// Gives a name that was taken away again. Answers its record, if there is one.
    pub(super) fn give_again(&mut self, parent: u32, name: &[u8], entry: u32) -> Option<u32> {
        let record = self.record(parent, name)?;
        self.records[record as usize].entry = entry;
        Some(record)
    }

    /// Adds a name of at most 255 bytes that never was there.
    pub(super) fn push(&mut self, parent: u32, name: &[u8], entry: u32, next: u32) -> Result<u32> {
        let (id, start) = (self.records.len(), self.bytes.len());
        if id >= super::ENTRIES_MAX || start + name.len() > u32::MAX as usize {
            return Err(Error::invalid("the hierarchy has too many names"));
        }
        if (id + 1) * 3 > self.slots.len() * 2 {
            self.grow();
        }
        self.bytes.extend_from_slice(name);
        let len = name.len() as u8;
        self.records.push(Record { parent, entry, next, start: start as u32, len });
        let slot = self.slot_of(parent, name);
        self.slots[slot] = id as u32;
        Ok(id as u32)
    }

    fn grow(&mut self) {
        self.slots = vec![NONE; (self.slots.len() * 2).max(16)];
        for id in 0..self.records.len() as u32 {
            let slot = self.slot_of(self.parent(id), self.bytes(id));
            self.slots[slot] = id;
        }
    }

    /// The slot that holds the name, or the one it would go to.
    fn slot_of(&self, parent: u32, name: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = super::name_hash(u64::from(parent), name) as usize & mask;
        loop {
            match self.slots[slot] {
                NONE => return slot,
                id if self.parent(id) == parent && self.bytes(id) == name => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}
