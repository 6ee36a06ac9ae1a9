//! Turns: threads that take numbered pieces of work do them at the same time, and hand on what comes of them in their order.

use std::sync::{Condvar, Mutex, PoisonError};

/// Whose turn it is.
#[derive(Default)]
pub(crate) struct Order {
    next: Mutex<u64>,
    passed: Condvar,
}

/// A piece's place in the order. It is given up whatever becomes of the piece, so that the next one never waits in vain.
pub(crate) struct Turn<'a> {
    order: &'a Order,
    number: u64,
}

impl Order {
    /// The turn of a piece, numbered from 0.
    pub(crate) fn turn(&self, number: u64) -> Turn<'_> {
        Turn { order: self, number }
    }
}

impl Turn<'_> {
    /// Waits until every piece before this one is done.
    pub(crate) fn wait(&self) {
        let next = self.order.next.lock().unwrap_or_else(PoisonError::into_inner);
        let come = self.order.passed.wait_while(next, |next| *next != self.number);
        drop(come.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.wait();
        *self.order.next.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.order.passed.notify_all();
    }
}
