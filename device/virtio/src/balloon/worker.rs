//! The queues: pages that are given and taken back, statistics, reports of free pages.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tern_engine::discard;
use vm_memory::{GuestAddress, GuestMemory as _, Permissions};

use super::statistics::{MOST_BYTES, Statistics};
use super::{F_REPORTING, F_STATS_VQ, PAGE, Shared};
use crate::device::{Served, Worker};
use crate::queue::{Chain, Violation};
use crate::session::Session;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;

/// Page numbers that a driver tells at once, at most.
const MOST_PAGES: usize = 64 << 10;
/// Bytes of a page number.
const NUMBER: usize = 4;

/// The worker.
pub(super) struct Lending {
    session: Session,
    shared: Arc<Shared>,
}

impl Lending {
    pub(super) const fn new(session: Session, shared: Arc<Shared>) -> Self {
        Self { session, shared }
    }

    /// The pages of a buffer's numbers, neighbours together: where they begin and how many bytes they have.
    fn pages(&self, chain: &Chain) -> Result<Vec<(u64, u64)>, Violation> {
        let total = usize::try_from(chain.readable.total()).unwrap_or(usize::MAX);
        if total == 0 || !total.is_multiple_of(NUMBER) || total > MOST_PAGES * NUMBER {
            return Err(Violation::Request("a buffer for the balloon holds no page numbers, or too many"));
        }
        let memory = self.session.memory();
        let mut bytes = vec![0; total];
        chain.readable.read(memory, &mut bytes).map_err(|_| Violation::Host)?;
        let mut pages: Vec<_> =
            bytes.as_chunks::<NUMBER>().0.iter().map(|page| u32::from_le_bytes(*page)).collect();
        pages.sort_unstable();
        let mut runs = Vec::new();
        for run in pages.chunk_by(|page, next| page.wrapping_add(1) == *next || page == next) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let start = u64::from(*first) * PAGE;
            let length = (u64::from(last - first) + 1) * PAGE;
            let is_memory = usize::try_from(length)
                .is_ok_and(|length| memory.check_range(GuestAddress(start), length, Permissions::Write));
            if !is_memory {
                return Err(Violation::Request("a page for the balloon is not in memory"));
            }
            runs.push((start, length));
        }
        Ok(runs)
    }

    /// Gives pages back to the host.
    fn inflate(&self, chain: &Chain) -> Result<u32, Violation> {
        for (start, length) in self.pages(chain)? {
            // What the host keeps nevertheless is no less the guest's gift.
            let _ = discard(self.session.memory(), start, length);
        }
        Ok(0)
    }

    /// Takes note that pages are the guest's again, which they are as soon as it touches them.
    fn deflate(&self, chain: &Chain) -> Result<u32, Violation> {
        self.pages(chain).map(|_| 0)
    }

    /// Gives free pages back to the host. The guest may use them again once the buffer is returned.
    fn report(&self, chain: &Chain) -> Result<u32, Violation> {
        let memory = self.session.memory();
        for segment in chain.writable.list() {
            let _ = discard(memory, segment.address, segment.length.into());
        }
        // Nothing was written that the driver could rely on.
        Ok(0)
    }

    /// Takes statistics, and keeps the buffer to ask for others.
    fn statistics(&self) -> Result<Served, Violation> {
        let Some(mut queue) = self.session.queue(STATISTICS) else { return Ok(Served::All) };
        queue.quiet()?;
        for _ in 0..queue.size() {
            let Some(chain) = queue.pop()? else {
                return Ok(if queue.listen()? { Served::Some } else { Served::All });
            };
            let mut bytes = [0; MOST_BYTES];
            let count =
                chain.readable.read(self.session.memory(), &mut bytes).map_err(|_| Violation::Host)?;
            let mut state = self.shared.lock();
            state.statistics = Statistics::parse(&bytes[..count]);
            state.received += 1;
            self.shared.told.notify_all();
            // A driver has one such buffer. One that sends more gets all but the last back.
            if let Some(before) = state.held.replace(chain.head) {
                queue.push(before, 0)?;
            }
        }
        Ok(Served::Some)
    }

    /// Asks for statistics, if the driver has left a buffer for that.
    fn ask(&self) -> Result<(), Violation> {
        let Some(mut queue) = self.session.queue(STATISTICS) else { return Ok(()) };
        let held = self.shared.lock().held.take();
        match held {
            Some(head) => queue.push(head, 0),
            None => Ok(()),
        }
    }
}

impl Worker for Lending {
    fn serve(&mut self, index: u16) -> Result<Served, Violation> {
        if index == STATISTICS && self.session.has(F_STATS_VQ) {
            return self.statistics();
        }
        let Some(mut queue) = self.session.queue(index) else { return Ok(Served::All) };
        match index {
            // A buffer may name so many pages, none beside another, that a queue full of such would keep a pause waiting.
            INFLATE => queue.some(1, |chain| self.inflate(chain)),
            DEFLATE => queue.some(1, |chain| self.deflate(chain)),
            // Without statistics a driver that leaves no gaps takes their queue for reports.
            _ if self.session.has(F_REPORTING) => queue.each(|chain| self.report(chain)),
            _ => Ok(Served::All),
        }
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.wake.as_fd())
    }

    fn wake(&mut self) -> Result<Served, Violation> {
        // An error: it was read already.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        self.ask()?;
        Ok(Served::All)
    }

    fn forget(&mut self, queue: u16) {
        if queue == STATISTICS {
            self.shared.lock().held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tern_engine::GuestMemory;

    use super::super::Balloon;
    use super::*;
    use crate::driver::{self, Ring};

    #[test]
    fn pages_are_given_and_taken_back_one_buffer_at_a_time() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let mut rings = [INFLATE, DEFLATE]
            .map(|index| Ring::new(&memory, index, 0x1_0000 * u64::from(index + 1), 128, 128));
        let session = driver::session(&memory, 0, &rings.each_ref());
        let mut worker = Lending::new(session, Balloon::new(0).unwrap().shared);
        for (index, ring) in (0..).zip(&mut rings) {
            ring.put(0x8_0000, &0x90_u32.to_le_bytes());
            for head in 0..2 {
                ring.send(head, &[(0x8_0000, 4, false)]);
            }
            for head in 0..2 {
                assert_eq!(worker.serve(index), Ok(Served::Some));
                assert_eq!(ring.used(), Some((head, 0)));
                assert_eq!(ring.used(), None);
            }
            assert_eq!(worker.serve(index), Ok(Served::All));
        }
    }
}
