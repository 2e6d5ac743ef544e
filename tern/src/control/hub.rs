//! The machine's console, for everybody who looks at it: the terminal that the machine was started on, and connections.
//!
//! The terminal is waited for, as a serial line waits. A connection is not: one that reads too slowly is closed.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_engine::start_thread;

/// How much of the last output is kept for those who come later, in bytes.
const RECENT: usize = 16 << 10;
/// How much may wait for a connection, in bytes.
const WAITING: usize = 64 << 10;
/// How long a connection may take nothing at all.
const STUCK: Duration = Duration::from_secs(10);
/// How long connections are waited for at the end.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Where a machine's output goes; all clones lead to the same places.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A connection has got everything.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    recent: VecDeque<u8>,
    viewers: Vec<SyncSender<u8>>,
    /// Connections that are still being written to.
    writing: usize,
    has_ended: bool,
}

impl Hub {
    /// What a machine writes to: everything also goes to `terminal`, first.
    pub(crate) fn output(&self, terminal: impl Write + Send + 'static) -> impl Write + Send + 'static {
        Tee { hub: self.clone(), terminal }
    }

    /// Sends `viewer` the last output, and from now on all.
    pub(super) fn show(&self, viewer: UnixStream) -> io::Result<()> {
        viewer.set_write_timeout(Some(STUCK))?;
        let (sender, receiver) = sync_channel(WAITING);
        let mut state = self.state();
        let recent: Vec<u8> = state.recent.iter().copied().collect();
        if !state.has_ended {
            state.viewers.push(sender);
        }
        let hub = self.clone();
        let write = move || {
            // However it ends, it is not waited for any more.
            let _ = write_all(viewer, &recent, &receiver);
            hub.state().writing -= 1;
            hub.0.finished.notify_all();
        };
        start_thread("viewer", write)?;
        state.writing += 1;
        Ok(())
    }

    /// Lets connections have the last of the output, for a moment, and closes them.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.has_ended = true;
        state.viewers.clear();
        let waited = self.0.finished.wait_timeout_while(state, LAST_CALL, |state| state.writing > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn write(&self, bytes: &[u8]) {
        let mut state = self.state();
        for byte in bytes {
            if state.recent.len() == RECENT {
                state.recent.pop_front();
            }
            state.recent.push_back(*byte);
            state.viewers.retain(|viewer| viewer.try_send(*byte).is_ok());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what comes, as much at a time as there is.
fn write_all(mut viewer: UnixStream, recent: &[u8], receiver: &Receiver<u8>) -> io::Result<()> {
    viewer.write_all(recent)?;
    while let Ok(first) = receiver.recv() {
        let bytes: Vec<u8> = std::iter::once(first).chain(receiver.try_iter().take(WAITING)).collect();
        viewer.write_all(&bytes)?;
    }
    viewer.shutdown(std::net::Shutdown::Both)
}

struct Tee<W> {
    hub: Hub,
    terminal: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.terminal.write(bytes)?;
        self.hub.write(&bytes[..written.min(bytes.len())]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.terminal.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn who_comes_later_sees_the_last_output_and_all_that_follows() {
        let hub = Hub::default();
        let mut output = hub.output(io::sink());
        output.write_all(&[b'x'; RECENT]).unwrap();
        output.write_all(b"before ").unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        hub.show(ours).unwrap();
        output.write_all(b"after").unwrap();
        hub.end();
        let mut seen = String::new();
        theirs.read_to_string(&mut seen).unwrap();
        assert!(seen.ends_with("xbefore after"));
        assert_eq!(seen.len(), RECENT + 5);
    }

    #[test]
    fn who_reads_nothing_keeps_no_machine_waiting() {
        let hub = Hub::default();
        let mut output = hub.output(io::sink());
        let (ours, theirs) = UnixStream::pair().unwrap();
        hub.show(ours).unwrap();
        output.write_all(&vec![b'y'; 8 * WAITING]).unwrap();
        assert!(hub.state().viewers.is_empty());
        drop(theirs);
        hub.end();
    }
}
