//! The agent: a program that `tern` brings into a guest, which runs one command there and passes on its streams, signals and end.
//!
//! ```text
//! tern-agent            runs the command that the host names (run.rs), over a port of the console device (port.rs)
//! tern-agent place      in an initramfs: puts itself and its unit where a systemd finds them (place.rs)
//! tern-agent terminal   makes standard input the terminal of a session, and becomes the words that follow (terminal.rs)
//! ```
//!
//! It trusts the host, and does not outlive the command: whoever started it ends the machine then.

#![forbid(unsafe_code)]

mod place;
mod port;
mod run;
mod streams;
mod terminal;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let mode = words.next();
    let done = match mode.as_deref().and_then(|mode| mode.to_str()) {
        None => run::run(),
        Some("place") => place::place(),
        Some("terminal") => return terminal::become_command(words),
        Some(_) => Err(std::io::Error::other("it takes nothing, 'place' or 'terminal'")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The guest's console, whose end the host shows.
            eprintln!("tern's agent: {error}");
            ExitCode::FAILURE
        }
    }
}
