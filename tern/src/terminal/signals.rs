//! Being ended, stopped and continued by others, with the terminal and the machine's disks as they should be each time.
//!
//! In raw mode no key makes a signal, so these come from outside. Signals that end a process still do, with the status that whoever
//! sent them expects; but first the terminal is restored and the machine ended, so that its disks have all that its guest
//! wrote. Whoever sends a second one does not want to wait, and neither does anybody for a machine that does not end.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::raw;
use tern_engine::start_thread;

/// How long a machine that is to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the machine because of this signal.
type Leave = Box<dyn FnOnce(i32) + Send>;

/// What is done about signals that end a process.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Option<Leave>>>);

impl Watch {
    /// Starts the thread that handles signals; those that stop and continue a process only concern a terminal.
    pub(super) fn start(has_terminal: bool) -> io::Result<Self> {
        let ignored = ignored();
        let fatal = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|signal| !ignored(*signal));
        let signals = fatal.chain([SIGTSTP, SIGCONT].into_iter().filter(|_| has_terminal));
        let mut signals = Signals::new(signals.collect::<Vec<_>>())?;
        let watch = Self::default();
        let leave = Arc::clone(&watch.0);
        start_thread("signals", move || {
            for signal in signals.forever() {
                match signal {
                    // If the terminal is gone, the reader of the input will find out.
                    SIGCONT => drop(raw::apply()),
                    SIGTSTP => end_by(signal),
                    _ => match leave.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        Some(leave) => {
                            end_later(signal);
                            leave(signal);
                        }
                        // There is no machine yet, or it is ending already.
                        None => end_by(signal),
                    },
                }
            }
        })?;
        Ok(watch)
    }

    /// From now on the first signal that would end the process calls `leave`, which is to see to it.
    pub(super) fn on_signal(&self, leave: impl FnOnce(i32) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(leave));
    }
}

/// Does what the signal does by default, with the terminal restored: ends the process, or stops it until it is continued.
pub(super) fn end_by(signal: i32) {
    // Held until the end, which may come while another thread is about to make the terminal raw.
    let _restored = raw::restore();
    let _ = emulate_default_handler(signal);
}

/// Ends the process if it is still there after a while.
pub(crate) fn end_later(signal: i32) {
    let wait = move || {
        thread::sleep(PATIENCE);
        end_by(signal);
    };
    if start_thread("patience", wait).is_err() {
        end_by(signal);
    }
}

/// Which signals whoever started this process wants ignored, as nohup(1) does.
pub(crate) fn ignored() -> impl Fn(i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    move |signal| mask.checked_shr(signal.unsigned_abs().saturating_sub(1)).is_some_and(|bits| bits & 1 == 1)
}
