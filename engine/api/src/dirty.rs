//! Which pages of guest memory were written: what live migration and incremental snapshots stand on.
//!
//! ```text
//! start ─▶ copy everything ─▶ take, copy what it names ─▶ … ─▶ processors and devices stop ─▶ take, copy ─▶ stop
//! ```
//!
//! A page that is written after a `take` has begun is named by it or by the next one. Guests' writes are logged by the
//! engine, the machine's own (devices, boot) by the memory itself: see [`crate::WriteWatch`].

use crate::EngineError;

/// Bytes of a page of the log.
pub const LOG_PAGE: u64 = 4096;

/// The written pages of one region of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyRegion {
    /// Guest-physical address of its first byte.
    pub start: u64,
    /// Bit `n % 64` of word `n / 64` stands for the region's page `n`.
    pub bitmap: Vec<u64>,
}

impl DirtyRegion {
    /// Guest-physical addresses of the written pages, ascending.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        (0..).zip(&self.bitmap).flat_map(move |(index, word)| {
            (0..64u64)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| self.start + (64 * index + bit) * LOG_PAGE)
        })
    }
}

/// The log of written pages. It is not kept until it is started.
pub trait DirtyLog {
    /// Begins to log; nothing is dirty yet. Processors may run.
    ///
    /// # Errors
    /// The log is kept already, or the host refuses.
    fn start_dirty_log(&self) -> Result<(), EngineError>;

    /// The pages that were written since the log was started or last taken; from now on they count as clean. Processors
    /// may run: whatever was written to these pages before they ran on is in memory when this returns.
    ///
    /// # Errors
    /// No log is kept, or the host refuses.
    fn take_dirty_log(&self) -> Result<Vec<DirtyRegion>, EngineError>;

    /// Ends the log.
    ///
    /// # Errors
    /// The host refuses.
    fn stop_dirty_log(&self) -> Result<(), EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_from_the_regions_start() {
        let region = DirtyRegion { start: 1 << 32, bitmap: vec![1 << 63 | 1, 0, 2] };
        let pages: Vec<_> = region.pages().map(|page| page - (1 << 32)).collect();
        assert_eq!(pages, [0, 63 * LOG_PAGE, 129 * LOG_PAGE]);
    }
}
