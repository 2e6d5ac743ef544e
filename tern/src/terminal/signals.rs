//! Being ended, stopped and continued by others, with the terminal as it should be each time.
//!
//! In raw mode no key makes a signal, so these come from outside. Signals that end a process still do,
//! with the status that whoever sent them expects; only the terminal is restored first.

use std::io;
use std::thread;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tern_engine::THREAD_STACK;

use super::raw;

/// Starts the thread that handles signals.
pub(super) fn watch() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
    thread::Builder::new().name("signals".to_owned()).stack_size(THREAD_STACK).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGCONT {
                // If the terminal is gone, the reader of the input will find out.
                let _ = raw::apply();
            } else {
                // Held until the end, which may come while another thread is about to make the terminal raw.
                let _restored = raw::restore();
                // Ends or stops the process; after a stop, SIGCONT follows.
                let _ = emulate_default_handler(signal);
            }
        }
    })?;
    Ok(())
}
