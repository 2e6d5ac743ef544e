//! What a process writes, kept as it comes.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A stream that a thread reads to its end.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// Starts reading `source`.
    pub(crate) fn read(mut source: impl Read + Send + 'static) -> Self {
        let stream = Self(Arc::default());
        let shared = Arc::clone(&stream.0);
        thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            loop {
                let count = match source.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    // A terminal whose last user is gone says so with an error.
                    Ok(0) | Err(_) => break,
                    Ok(count) => count,
                };
                shared.state().bytes.extend_from_slice(&buffer[..count]);
                shared.changed.notify_all();
            }
            shared.state().ended = true;
            shared.changed.notify_all();
        });
        stream
    }

    /// A stream that nobody writes.
    pub(crate) fn ended() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State { ended: true, ..State::default() }),
            ..Shared::default()
        }))
    }

    /// Looks for `text` from the byte `from` on and returns where it ends; waits for more at most for `patience`.
    pub(crate) fn find(&self, text: &str, from: usize, patience: Duration) -> Option<usize> {
        let find = |state: &State| {
            let bytes = &state.bytes[from..];
            let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
            Some(from + at + text.len())
        };
        let state = self.0.state();
        let waited =
            self.0.changed.wait_timeout_while(state, patience, |state| !state.ended && find(state).is_none());
        find(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Waits for the end of the stream, at most for `patience`.
    pub(crate) fn wait_for_end(&self, patience: Duration) {
        let waited = self.0.changed.wait_timeout_while(self.0.state(), patience, |state| !state.ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// What came from the byte `from` to the byte `to`, or until now.
    pub(crate) fn text(&self, from: usize, to: Option<usize>) -> String {
        let state = self.0.state();
        let to = to.unwrap_or(state.bytes.len());
        String::from_utf8_lossy(&state.bytes[from..to]).into_owned()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
