//! Standard input, on its way to the command.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use super::outbox::Outbox;
use crate::terminal::{read_input, split};
use tern_engine::start_thread;

/// Starts the thread that reads. It ends with the input or with the process: a read cannot be called off. On the command's terminal
/// Ctrl-] leaves, whatever the guest does.
pub(super) fn start(
    outbox: Arc<Outbox>,
    has_terminal: bool,
    leave: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let is_typed = has_terminal && io::stdin().is_terminal();
    start_thread("command-input", move || {
        if read(&outbox, is_typed) == End::Escape {
            leave();
        }
    })?;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Input,
    Escape,
}

fn read(outbox: &Outbox, is_typed: bool) -> End {
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; 16 << 10];
    // What is typed is always read, so that Ctrl-] gets through.
    while is_typed || outbox.wait_for_room() {
        let Some(count) = read_input(&stdin, &mut buffer) else { break };
        if is_typed {
            let (guest, leaves) = split(&buffer[..count]);
            // More than that nobody types ahead.
            let _ = outbox.offer(guest);
            if leaves {
                return End::Escape;
            }
            continue;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() && outbox.wait_for_room() {
            rest = &rest[outbox.offer(rest)..];
        }
    }
    outbox.end_input();
    End::Input
}
