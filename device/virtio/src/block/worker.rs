//! One queue's work: requests to the lane, completions back to the driver.

use std::io;
use std::os::fd::BorrowedFd;

use tern_disk::{Buffer, Completion, Lane, Operation};
use vm_memory::{GuestAddress, GuestMemory as _, Permissions};

use super::Serial;
use super::request::{Answer, Range, Request, Status, Wanted};
use crate::device::{Served, Worker};
use crate::queue::{Segments, Violation};
use crate::session::{ActiveQueue, Session};

/// As many bytes are moved at once, or one request's: the thread can be had by others then. A request has up to 4 GiB.
const MOST_AT_ONCE: u64 = 16 << 20;

/// A request that the lane has.
#[derive(Debug)]
struct InFlight {
    answer: Answer,
    data: Segments,
    is_read: bool,
}

/// A queue's worker.
#[derive(Debug)]
pub(super) struct Serving {
    // Dropped before the session, and with it before the memory that its buffers are in.
    lane: Box<dyn Lane>,
    session: Session,
    queue: u16,
    serial: Serial,
    /// By tag. There are as many places as were ever needed at once: no more than the queue has entries.
    in_flight: Vec<Option<InFlight>>,
    free: Vec<usize>,
    /// Kept for its memory.
    buffers: Vec<Buffer>,
    done: Vec<Completion>,
}

impl Serving {
    pub(super) fn new(session: Session, queue: u16, lane: Box<dyn Lane>, serial: Serial) -> Self {
        Self {
            lane,
            session,
            queue,
            serial,
            in_flight: Vec::new(),
            free: Vec::new(),
            buffers: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Begins a request, or answers it at once.
    fn begin(&mut self, queue: &mut ActiveQueue<'_>, request: Request) -> Result<(), Violation> {
        let Request { wanted, data, answer } = request;
        let status = match wanted {
            Wanted::Refused(status) => status,
            Wanted::Read(_) | Wanted::Write(_) if data.list().is_empty() => Status::Ok,
            Wanted::Serial => {
                data.write(self.session.memory(), &self.serial).map_err(|_| Violation::Host)?;
                Status::Ok
            }
            wanted => {
                let is_read = matches!(wanted, Wanted::Read(_));
                self.submit(wanted, InFlight { answer, data, is_read })?;
                return Ok(());
            }
        };
        finish(&self.session, queue, &answer, status)
    }

    fn submit(&mut self, wanted: Wanted, request: InFlight) -> Result<(), Violation> {
        self.buffers.clear();
        for segment in request.data.list() {
            let slices = self
                .session
                .memory()
                .get_slices(
                    GuestAddress(segment.address),
                    segment.length as usize,
                    if request.is_read { Permissions::Write } else { Permissions::Read },
                )
                .map_err(|_| Violation::Host)?;
            for slice in slices {
                self.buffers.push(Buffer::of(&slice.map_err(|_| Violation::Host)?));
            }
        }
        let tag = self.free.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        self.in_flight[tag] = Some(request);
        let buffers = &self.buffers;
        let operation = match wanted {
            Wanted::Read(offset) => Operation::Read { offset, buffers },
            Wanted::Write(offset) => Operation::Write { offset, buffers },
            Wanted::Discard(Range { offset, length }) => Operation::Discard { offset, length },
            Wanted::WriteZeroes(Range { offset, length }, may_unmap) => {
                Operation::WriteZeroes { offset, length, may_unmap }
            }
            Wanted::Flush | Wanted::Serial | Wanted::Refused(_) => Operation::Flush,
        };
        // SAFETY: the buffers are guest memory, which the session keeps mapped, and which is only ever accessed by address. The
        // lane is dropped before the session.
        #[allow(unsafe_code, reason = "it is how a lane is used")]
        unsafe {
            self.lane.submit(tag as u64, operation);
        }
        Ok(())
    }

    /// Gives back what the lane has done.
    fn complete(&mut self, queue: &mut ActiveQueue<'_>) -> Result<(), Violation> {
        for Completion { tag, result } in self.done.drain(..) {
            let tag = usize::try_from(tag).unwrap_or(usize::MAX);
            // The lane gives back what it got.
            let Some(request) = self.in_flight.get_mut(tag).and_then(Option::take) else { continue };
            self.free.push(tag);
            let InFlight { answer, data, is_read } = request;
            if is_read {
                // Also after an error: a part may have been written.
                data.mark_written(self.session.memory()).map_err(|_| Violation::Host)?;
            }
            finish(&self.session, queue, &answer, status_of(&result))?;
        }
        Ok(())
    }
}

/// Writes the status and gives the buffer back.
fn finish(
    session: &Session,
    queue: &mut ActiveQueue<'_>,
    answer: &Answer,
    status: Status,
) -> Result<(), Violation> {
    answer.status.write(session.memory(), &[status.byte()]).map_err(|_| Violation::Host)?;
    queue.push(answer.head, answer.written)
}

fn status_of(result: &io::Result<()>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Status::Unsupported,
        Err(_) => Status::IoError,
    }
}

impl Worker for Serving {
    fn serve(&mut self, index: u16) -> Result<Served, Violation> {
        let session = self.session.clone();
        let Some(mut queue) = session.queue(index) else { return Ok(Served::All) };
        queue.quiet()?;
        let mut served = Served::Some;
        let mut moved = 0;
        for _ in 0..queue.size() {
            if moved >= MOST_AT_ONCE {
                break;
            }
            let Some(chain) = queue.pop()? else {
                served = if queue.listen()? { Served::Some } else { Served::All };
                break;
            };
            let request = Request::read(session.memory(), chain)?;
            moved += request.data.total();
            self.begin(&mut queue, request)?;
        }
        self.lane.start();
        // What was quick is done already.
        self.lane.completions(&mut self.done);
        self.complete(&mut queue)?;
        Ok(served)
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lane.wait_descriptor())
    }

    fn wake(&mut self) -> Result<Served, Violation> {
        self.lane.completions(&mut self.done);
        let session = self.session.clone();
        let Some(mut queue) = session.queue(self.queue) else { return Ok(Served::All) };
        self.complete(&mut queue)?;
        Ok(Served::All)
    }

    fn drain(&mut self) -> Result<(), Violation> {
        self.lane.drain(&mut self.done);
        let session = self.session.clone();
        let Some(mut queue) = session.queue(self.queue) else { return Ok(()) };
        self.complete(&mut queue)
    }
}
