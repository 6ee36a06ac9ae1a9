//! What a state of the disk is known by, above its base and frozen deltas: see [`crate::WriteMark`].

use super::{Volume, read_only};
use crate::delta::WriteMark;
use silt_types::Result;
use std::sync::PoisonError;

impl Volume {
    /// Makes durable what was answered so far, and answers the mark of just that: whatever is written from now on, be it
    /// while this runs, goes by another, also after any crash. Costs what a flush does, and a sync of the next write.
    pub fn settle(&self) -> Result<WriteMark> {
        let _one_at_a_time = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        // Most of what has to be written is written before the next write has to wait for it.
        self.flushable()?.ok_or_else(read_only)?.flush()?;
        let (own, mark) = {
            // No write is in flight here.
            let layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
            let own = layers.own.clone().ok_or_else(read_only)?;
            let mark = own.tell();
            (own, mark)
        };
        own.flush()?;
        own.settle();
        Ok(mark)
    }

    /// The mark, if everything is durable and nothing was written since it was asked for. Costs nothing.
    pub fn settled(&self) -> Option<WriteMark> {
        let layers = self.layers();
        let own = layers.own.as_ref().filter(|_| layers.recorded.is_done())?;
        own.settled()
    }

    /// The mark of the newest delta of a disk that nobody writes; none if it has no delta.
    pub fn newest_mark(&self) -> Option<WriteMark> {
        let layers = self.layers();
        match &layers.own {
            Some(own) => Some(own.mark()),
            None => layers.frozen.first().map(|newest| newest.mark()),
        }
    }
}
