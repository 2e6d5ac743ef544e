//! Signals are for the command, once it runs; before and after that, and if somebody insists, they end the machine and this process.

use std::io;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;
use tern_command_protocol::Size;

use super::talk::Shared;
use crate::terminal;
use tern_engine::start_thread;

/// Who sends so many does not want to wait for what the command makes of them.
const INSISTS: u32 = 3;

/// Starts the thread that passes signals on.
pub(super) fn start(shared: std::sync::Arc<Shared>, has_terminal: bool) -> io::Result<()> {
    let ignored = terminal::ignored();
    let passed_on =
        [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2].into_iter().filter(|signal| !ignored(*signal));
    let signals = passed_on.chain([SIGWINCH, SIGCONT].into_iter().filter(|_| has_terminal));
    let mut signals = Signals::new(signals.collect::<Vec<_>>())?;
    let pass_on = move || {
        let mut urgent = 0;
        for signal in signals.forever() {
            match signal {
                SIGCONT => terminal::take_again(),
                SIGWINCH => {
                    if let Some((columns, rows)) = terminal::size() {
                        shared.outbox.resize(Size { columns, rows });
                    }
                }
                _ => {
                    urgent += u32::from(matches!(signal, SIGINT | SIGTERM | SIGQUIT));
                    match u8::try_from(signal) {
                        Ok(number) if shared.is_running() && urgent < INSISTS => shared.outbox.signal(number),
                        _ => shared.leave(terminal::Leaving::Signal(signal)),
                    }
                }
            }
        }
    };
    start_thread("command-signals", pass_on)?;
    Ok(())
}
