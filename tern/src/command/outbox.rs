//! What is to be said to the agent, and is not yet on its way.
//!
//! Whoever has something to say never waits, and what a guest does not hear costs no more memory than this: numbers add up, input has a
//! bound, and of signals the first few count.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tern_command_protocol::{MOST_DATA, Size, Start, Stream, ToGuest, WINDOW};

/// Input that is kept for a command that takes none, in bytes.
const MOST_INPUT: usize = 64 << 10;

/// Signals that are kept for a guest that hears none.
const MOST_SIGNALS: usize = 64;

/// The outbox.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// There is something to say, or the end has come.
    work: Condvar,
    /// There is room for input.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    start: Option<Start>,
    /// The command was sent; the agent has no use for anything before that.
    is_open: bool,
    signals: VecDeque<u8>,
    size: Option<Size>,
    /// By stream.
    credits: [u32; 2],
    gone: [bool; 2],
    input: VecDeque<u8>,
    /// How much input the agent has room for.
    allowed: u32,
    input_ends: bool,
    /// The command takes no more input.
    input_gone: bool,
    has_ended: bool,
}

impl Default for Outbox {
    fn default() -> Self {
        let state = State { allowed: WINDOW, ..State::default() };
        Self { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new() }
    }
}

const fn index(stream: Stream) -> usize {
    match stream {
        Stream::Output => 0,
        Stream::Error => 1,
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.work.notify_one();
    }

    pub(super) fn start(&self, start: Start) {
        self.change(|state| state.start = Some(start));
    }

    pub(super) fn signal(&self, signal: u8) {
        self.change(|state| {
            if state.signals.len() < MOST_SIGNALS {
                state.signals.push_back(signal);
            }
        });
    }

    pub(super) fn resize(&self, size: Size) {
        self.change(|state| state.size = Some(size));
    }

    /// So much of a stream was written.
    pub(super) fn credit(&self, stream: Stream, count: u32) {
        self.change(|state| {
            let credit = &mut state.credits[index(stream)];
            *credit = credit.saturating_add(count);
        });
    }

    /// Nobody takes any more of a stream.
    pub(super) fn gone(&self, stream: Stream) {
        self.change(|state| state.gone[index(stream)] = true);
    }

    /// The agent has room for so much more input.
    pub(super) fn allow(&self, count: u32) {
        self.change(|state| state.allowed = state.allowed.saturating_add(count).min(WINDOW));
    }

    pub(super) fn input_gone(&self) {
        self.change(|state| {
            state.input_gone = true;
            state.input.clear();
        });
        self.room.notify_all();
    }

    /// Takes as much of the input as there is room for, and says how much.
    pub(super) fn offer(&self, input: &[u8]) -> usize {
        let mut taken = 0;
        self.change(|state| {
            taken =
                if state.input_gone { input.len() } else { input.len().min(MOST_INPUT - state.input.len()) };
            if !state.input_gone {
                state.input.extend(&input[..taken]);
            }
        });
        taken
    }

    /// Waits for room for input; `false` if the command takes none any more.
    pub(super) fn wait_for_room(&self) -> bool {
        let state = self.lock();
        let is_full =
            |state: &mut State| state.input.len() >= MOST_INPUT && !state.input_gone && !state.has_ended;
        let state = self.room.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner);
        !state.input_gone && !state.has_ended
    }

    pub(super) fn end_input(&self) {
        self.change(|state| state.input_ends = true);
    }

    /// Nothing more is to be said.
    pub(super) fn end(&self) {
        self.change(|state| state.has_ended = true);
        self.room.notify_all();
    }

    /// Waits for the next message; `None` at the end.
    pub(super) fn next(&self) -> Option<ToGuest> {
        let mut state = self.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if let Some(message) = state.take() {
                self.room.notify_all();
                return Some(message);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn take(&mut self) -> Option<ToGuest> {
        if let Some(start) = self.start.take() {
            self.is_open = true;
            return Some(ToGuest::Start(start));
        }
        if !self.is_open {
            return None;
        }
        if let Some(signal) = self.signals.pop_front() {
            return Some(ToGuest::Signal(signal));
        }
        if let Some(size) = self.size.take() {
            return Some(ToGuest::Resize(size));
        }
        for stream in Stream::ALL {
            let index = index(stream);
            if std::mem::take(&mut self.gone[index]) {
                return Some(ToGuest::Gone(stream));
            }
            let credit = std::mem::take(&mut self.credits[index]);
            if credit > 0 {
                return Some(ToGuest::Credit(stream, credit));
            }
        }
        let allowed = usize::try_from(self.allowed).unwrap_or(MOST_DATA).min(MOST_DATA);
        let count = self.input.len().min(allowed);
        if count > 0 {
            self.allowed = self.allowed.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            return Some(ToGuest::Input(self.input.drain(..count).collect()));
        }
        if self.input_ends && self.input.is_empty() {
            self.input_ends = false;
            return Some(ToGuest::InputEnd);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Outbox {
        let outbox = Outbox::default();
        outbox.start(Start::default());
        assert_eq!(outbox.next(), Some(ToGuest::Start(Start::default())));
        outbox
    }

    #[test]
    fn what_comes_before_the_command_waits_for_it() {
        let outbox = Outbox::default();
        assert_eq!(outbox.offer(b"early"), 5);
        outbox.end_input();
        assert_eq!(outbox.lock().take(), None);
        outbox.start(Start::default());
        assert!(matches!(outbox.next(), Some(ToGuest::Start(_))));
        assert_eq!(outbox.next(), Some(ToGuest::Input(b"early".to_vec())));
        assert_eq!(outbox.next(), Some(ToGuest::InputEnd));
    }

    #[test]
    fn input_waits_for_the_agent_and_ends_after_its_last_byte() {
        let outbox = open();
        let mut sent = 0;
        let mut offered = 0;
        while sent < WINDOW as usize {
            offered += outbox.offer(&[7; MOST_DATA]);
            match outbox.next() {
                Some(ToGuest::Input(data)) => sent += data.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sent, WINDOW as usize);
        offered += outbox.offer(&[7; 5]);
        outbox.end_input();
        outbox.signal(2);
        assert_eq!(outbox.next(), Some(ToGuest::Signal(2)));
        outbox.allow(3);
        outbox.allow(2);
        let mut rest = 0;
        while let Some(ToGuest::Input(data)) = outbox.next() {
            rest += data.len();
            outbox.allow(u32::try_from(data.len()).unwrap());
        }
        assert_eq!(sent + rest, offered);
    }

    #[test]
    fn a_guest_that_hears_nothing_costs_little() {
        let outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.signal(1);
            outbox.credit(Stream::Error, 7);
            let _ = outbox.offer(&[1; 100]);
        }
        assert!(outbox.lock().signals.len() <= MOST_SIGNALS);
        assert!(outbox.lock().input.len() <= MOST_INPUT);
        assert_eq!(outbox.lock().credits, [0, 70_000]);
    }
}
