//! What `tern` and its agent in a guest say to each other about one command, over a port of the console device.
//!
//! ```text
//!  host                                  guest
//!       ◀── Hello ─────────────────────        the agent is there, and speaks this version
//!        ── Start ────────────────────▶        what is to be run
//!       ◀── Started, or Failed ────────
//!        ── Input, InputEnd ──────────▶
//!       ◀── Output ────────────────────        standard output and standard error
//!       ◀── Credit,  Credit ──────────▶        so much of a stream was passed on: as much more may come
//!        ── Signal, Resize, Gone ─────▶
//!       ◀── Exited, or Killed ─────────        nothing comes after that
//! ```
//!
//! A message is a frame ([`frame`]): a kind, a length, and as many bytes. No sender waits for the other's reader of one stream:
//! of each stream at most [`WINDOW`] bytes are on their way, which the receiver keeps. What comes from a guest is hostile: a frame that
//! is too long or makes no sense ends the conversation, before anything is kept for it.

#![forbid(unsafe_code)]

pub mod frame;
pub mod from_guest;
mod text;
pub mod to_guest;

pub use frame::{Broken, Decoder, Message};
pub use from_guest::FromGuest;
pub use to_guest::{Start, ToGuest};

/// The version that both ends must speak.
pub const VERSION: u16 = 1;

/// The port's name, under which the guest finds it.
pub const PORT: &str = "org.tern.command";

/// The most bytes of a stream that are on their way at once.
pub const WINDOW: u32 = 256 << 10;

/// The most bytes of a stream in one frame.
pub const MOST_DATA: usize = 16 << 10;

/// A stream from the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; with a terminal, all that it shows.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Output, Self::Error];

    const fn number(self) -> u8 {
        match self {
            Self::Output => 1,
            Self::Error => 2,
        }
    }

    const fn numbered(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Output),
            2 => Some(Self::Error),
            _ => None,
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

/// For the fuzz target and its corpus: takes `input` as what comes from a guest, in pieces, and from a host. Returns how many messages
/// it was.
#[must_use]
pub fn exercise(input: &[u8]) -> usize {
    let Some((step, rest)) = input.split_first() else { return 0 };
    let step = usize::from(*step).max(1);
    exercise_as::<FromGuest>(step, rest) + exercise_as::<ToGuest>(step, rest)
}

fn exercise_as<M: Message>(step: usize, input: &[u8]) -> usize {
    let mut decoder = Decoder::<M>::default();
    let mut messages = 0;
    for piece in input.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => {
                    // What is understood can be said again.
                    let mut again = Decoder::<M>::default();
                    again.push(&message.bytes());
                    assert!(matches!(again.next(), Ok(Some(same)) if same == message), "{message:?}");
                    messages += 1;
                }
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
        assert!(decoder.kept() <= frame::HEADER + M::MOST + step, "more is kept than the longest frame");
    }
    messages
}
