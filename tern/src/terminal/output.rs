//! Writes the guest's console output to standard output.
//!
//! The guest gives single bytes; a thread writes them out, many at a time: it waits a moment after the
//! first byte for those that follow. A guest that floods the console waits once 64 KiB are on their way,
//! so memory stays bounded and nothing is lost.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tern_engine::start_thread;

/// How many bytes may be on their way.
const CAPACITY: usize = 64 << 10;

/// How long bytes are gathered before they are written: too short to be seen.
const GATHER: Duration = Duration::from_millis(1);

/// How long the rest may take once nobody cares any more.
const LAST_CALL: Duration = Duration::from_millis(200);

/// A handle for writing to the console; all handles write to the same.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

type OnFailure = Box<dyn FnOnce(io::Error) + Send>;

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or the end has come.
    work: Condvar,
    /// There is room again, or everything is written.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Not yet handed to the host.
    waiting: Vec<u8>,
    /// The thread is writing what it took.
    writing: bool,
    /// The thread sleeps until told of work.
    asleep: bool,
    /// Nobody waits for room or for the end any more.
    hurried: bool,
    /// The host takes nothing any more; why, until told.
    failed: bool,
    failure: Option<io::Error>,
    on_failure: Option<OnFailure>,
}

impl Output {
    /// Starts the thread that writes to `target`.
    pub(super) fn start(target: BorrowedFd<'static>) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), room: Condvar::new() });
        let output = Self(Arc::clone(&shared));
        start_thread("console-output", move || shared.write_out(target))?;
        Ok(output)
    }

    /// Has `act` called, once, if the host takes no more. It may have happened already.
    pub(super) fn on_failure(&self, act: impl FnOnce(io::Error) + Send + 'static) {
        let mut state = self.0.state();
        match state.failure.take() {
            Some(error) => {
                drop(state);
                act(error);
            }
            None => state.on_failure = Some(Box::new(act)),
        }
    }

    /// From now on nobody waits for room: what does not fit is dropped.
    pub(super) fn stop_waiting(&self) {
        self.0.state().hurried = true;
        self.0.room.notify_all();
    }

    /// Waits until everything is written; only a moment if nobody cares any more.
    pub(super) fn finish(&self) {
        let mut state = self.0.state();
        let started = Instant::now();
        while state.writing || !state.waiting.is_empty() {
            let left = LAST_CALL.saturating_sub(started.elapsed());
            if state.failed || (state.hurried && left.is_zero()) {
                return;
            }
            // The bound is there because `hurried` may be set while we wait.
            let waited = self.0.room.wait_timeout(state, LAST_CALL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Write for Output {
    /// Takes everything, after waiting for room if need be. Never fails: the machine is told of a failure
    /// by other means, and the guest has no way to know.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        let mut state = self.0.state();
        while !rest.is_empty() && !state.failed {
            let room = CAPACITY - state.waiting.len();
            if room == 0 {
                if state.hurried {
                    break;
                }
                state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            state.waiting.extend_from_slice(now);
            rest = later;
            if state.asleep {
                state.asleep = false;
                self.0.work.notify_one();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, target: BorrowedFd<'_>) {
        let mut taken = Vec::with_capacity(CAPACITY);
        loop {
            let mut state = self.state();
            state.writing = false;
            self.room.notify_all();
            let mut gather = false;
            while state.waiting.is_empty() {
                gather = true;
                state.asleep = true;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.asleep = false;
            if gather {
                drop(state);
                thread::sleep(GATHER);
                state = self.state();
            }
            std::mem::swap(&mut state.waiting, &mut taken);
            state.writing = true;
            self.room.notify_all();
            drop(state);
            if let Err(error) = write_all(target, &taken) {
                self.fail(error.into());
                return;
            }
            taken.clear();
        }
    }

    fn fail(&self, error: io::Error) {
        let mut state = self.state();
        state.failed = true;
        state.writing = false;
        state.waiting.clear();
        self.room.notify_all();
        match state.on_failure.take() {
            Some(act) => {
                drop(state);
                act(error);
            }
            None => state.failure = Some(error),
        }
    }
}

/// Writes everything, also to a descriptor that someone made non-blocking.
pub(crate) fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut descriptors = [PollFd::new(&target, PollFlags::OUT)];
                match poll(&mut descriptors, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::*;

    /// An output into a socket that lives as long as the test process.
    fn output() -> (Output, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let target: &'static UnixStream = Box::leak(Box::new(ours));
        (Output::start(target.as_fd()).unwrap(), theirs)
    }

    #[test]
    fn a_flood_arrives_whole_and_in_order() {
        let (mut output, mut reader) = output();
        let content: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let expected = content.clone();
        let writer = thread::spawn(move || {
            for byte in content {
                output.write_all(&[byte]).unwrap();
            }
            output.finish();
        });
        let mut seen = vec![0; expected.len()];
        reader.read_exact(&mut seen).unwrap();
        assert!(seen == expected, "bytes were lost or changed");
        writer.join().unwrap();
    }

    #[test]
    fn a_reader_that_goes_away_is_reported_once_and_no_writer_hangs() {
        let (mut output, reader) = output();
        drop(reader);
        let (sender, failures) = mpsc::channel();
        output.on_failure(move |error| sender.send(error.kind()).unwrap());
        output.write_all(&vec![0; 3 * CAPACITY]).unwrap();
        assert_eq!(failures.recv(), Ok(io::ErrorKind::BrokenPipe));
        output.finish();
    }

    #[test]
    fn a_failure_before_anyone_listens_is_not_lost() {
        let (mut output, reader) = output();
        drop(reader);
        output.write_all(&vec![0; 3 * CAPACITY]).unwrap();
        let (sender, failures) = mpsc::channel();
        output.on_failure(move |error| sender.send(error.kind()).unwrap());
        assert_eq!(failures.recv(), Ok(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_writer_waiting_for_a_stuck_reader_can_be_freed() {
        let (mut output, _reader) = output();
        let freer = output.clone();
        let writer = thread::spawn(move || output.write_all(&vec![0; 16 << 20]));
        freer.stop_waiting();
        writer.join().unwrap().unwrap();
        freer.finish();
    }
}
