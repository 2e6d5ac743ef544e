//! Reads standard input and passes it on to the guest.
//!
//! A guest takes a few bytes at a time. What comes through a pipe or from a file is read only when the
//! guest has taken what came before, so nothing is lost. A terminal is always read, because Ctrl-] must
//! get through even if the guest takes nothing; what a user types ahead is kept up to a bound.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::ConsoleInput;
use super::escape;
use tern_engine::start_thread;

/// How much typed-ahead input is kept for a guest that takes none, in bytes.
const TYPED_AHEAD: usize = 64 << 10;

/// How long a guest without room is waited for before the terminal is looked at again.
const PATIENCE: Duration = Duration::from_millis(20);

/// Starts the thread that reads. It ends with the input or with the process; nobody waits for it, because
/// a read cannot be called off.
pub(super) fn start(input: Arc<dyn ConsoleInput>, leave: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let reader = Reader { input, pending: Vec::new(), terminal: io::stdin().is_terminal() };
    start_thread("console-input", move || {
        if reader.run(&rustix::stdio::stdin()) == End::Escape {
            leave();
        }
    })?;
    Ok(())
}

/// Why nothing more is read.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The input ended, or cannot be read; the guest goes on without.
    Input,
    /// The user typed Ctrl-].
    Escape,
}

struct Reader {
    input: Arc<dyn ConsoleInput>,
    /// Read, but not yet taken by the guest.
    pending: Vec<u8>,
    terminal: bool,
}

impl Reader {
    fn run(mut self, source: &impl AsFd) -> End {
        let mut buffer = [0; 4096];
        loop {
            self.hand_over();
            if !self.pending.is_empty() {
                self.input.wait_for_room(PATIENCE);
                if !self.terminal || !is_ready(source, Some(Duration::ZERO)) {
                    continue;
                }
            }
            let Some(count) = read(source, &mut buffer) else { return self.finish() };
            if self.terminal {
                let typed = escape::split(&buffer[..count]);
                let room = TYPED_AHEAD.saturating_sub(self.pending.len());
                self.pending.extend(typed.guest.iter().take(room));
                if typed.leave {
                    self.hand_over();
                    return End::Escape;
                }
            } else {
                self.pending.extend_from_slice(&buffer[..count]);
            }
        }
    }

    fn hand_over(&mut self) {
        while !self.pending.is_empty() {
            let taken = self.input.offer(&self.pending).min(self.pending.len());
            if taken == 0 {
                break;
            }
            self.pending.drain(..taken);
        }
    }

    fn finish(mut self) -> End {
        while !self.pending.is_empty() {
            self.input.wait_for_room(PATIENCE);
            self.hand_over();
        }
        End::Input
    }
}

/// Waits for what comes next, and says how much of `buffer` it takes; `None` if there is no more.
pub(crate) fn read(source: &impl AsFd, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(source, &mut *buffer) {
            Ok(count) => return (count > 0).then_some(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                is_ready(source, None);
            }
            // A terminal that hung up; a directory as standard input.
            Err(_) => return None,
        }
    }
}

/// Waits until something can be read; without a bound if `patience` is `None`.
pub(super) fn is_ready(source: &impl AsFd, patience: Option<Duration>) -> bool {
    let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
    let mut descriptors = [PollFd::new(source, PollFlags::IN)];
    // An error is for the read that follows to meet.
    !matches!(poll(&mut descriptors, timeout.as_ref()), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::sync::Mutex;

    use super::*;

    /// A guest that takes at most `step` bytes at a time, and every other time none.
    struct Slow {
        step: usize,
        taken: Mutex<(Vec<u8>, bool)>,
    }

    impl Slow {
        fn new(step: usize) -> Arc<Self> {
            Arc::new(Self { step, taken: Mutex::default() })
        }

        fn taken(&self) -> Vec<u8> {
            self.taken.lock().unwrap().0.clone()
        }
    }

    impl ConsoleInput for Slow {
        fn offer(&self, bytes: &[u8]) -> usize {
            let (taken, busy) = &mut *self.taken.lock().unwrap();
            *busy = !*busy;
            if *busy {
                return 0;
            }
            let count = bytes.len().min(self.step);
            taken.extend_from_slice(&bytes[..count]);
            count
        }

        fn wait_for_room(&self, _patience: Duration) {}
    }

    fn file_with(content: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn read(content: &[u8], terminal: bool, guest: &Arc<Slow>) -> End {
        let input: Arc<dyn ConsoleInput> = Arc::<Slow>::clone(guest);
        Reader { input, pending: Vec::new(), terminal }.run(&file_with(content))
    }

    #[test]
    fn a_slow_guest_gets_every_byte_in_order() {
        let content: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let guest = Slow::new(16);
        assert_eq!(read(&content, false, &guest), End::Input);
        assert!(guest.taken() == content, "bytes were lost or changed");
    }

    #[test]
    fn the_escape_key_in_a_pipe_is_a_byte_like_others() {
        let guest = Slow::new(16);
        assert_eq!(read(b"a\x1db", false, &guest), End::Input);
        assert_eq!(guest.taken(), b"a\x1db");
    }

    #[test]
    fn the_escape_key_gets_through_to_a_guest_that_takes_nothing() {
        let guest = Slow::new(0);
        let mut typed = vec![b'x'; 3 * TYPED_AHEAD];
        typed.push(0x1d);
        assert_eq!(read(&typed, true, &guest), End::Escape);
    }

    #[test]
    fn unreadable_input_is_the_end_of_input() {
        let directory = std::fs::File::open("/").unwrap();
        let input: Arc<dyn ConsoleInput> = Slow::new(1);
        let end = Reader { input, pending: Vec::new(), terminal: false }.run(&directory);
        assert_eq!(end, End::Input);
    }
}
