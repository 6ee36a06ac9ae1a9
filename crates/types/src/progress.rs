//! How long work tells a front end where it is. Libraries never print.

/// Hears of the progress of long work, from any thread.
pub trait Progress: Sync {
    /// Work of this name begins; `total_bytes` of it, or 0 where that is not known.
    fn begin(&self, task: &'static str, total_bytes: u64);

    /// This many bytes more are done.
    fn advance(&self, bytes: u64);
}

/// Hears nothing.
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _task: &'static str, _total_bytes: u64) {}

    fn advance(&self, _bytes: u64) {}
}
