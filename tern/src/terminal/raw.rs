//! Raw mode: every key goes to the guest, and the terminal is always given back as it was.
//!
//! What the terminal was is kept in one place for the whole process, because more than one way leads
//! out of it: the guard's end, a panic (which aborts a release build without running destructors) and
//! signals.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// How the terminal was before, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal raw until dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes standard input raw if it is a terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Self(());
        apply()?;
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_in_panic();
            report(info);
        }));
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore().0.take();
    }
}

/// Makes the terminal raw, unless it is not ours to change: a process in the background that tries is
/// stopped by the system.
pub(super) fn apply() -> io::Result<()> {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(before) = &*before else { return Ok(()) };
    let in_foreground = tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp());
    if in_foreground {
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
    }
    Ok(())
}

/// The terminal as it was before, and nobody changes it for as long as this lives.
pub(super) struct Restored(MutexGuard<'static, Option<Termios>>);

/// Gives the terminal back, once nobody is changing it any more. Does nothing if it is not raw, and nothing but try.
pub(super) fn restore() -> Restored {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    put_back(&before);
    Restored(before)
}

/// As [`restore`], for a thread that may be the one that is changing the terminal just now: it must not wait for itself.
fn restore_in_panic() {
    match BEFORE.try_lock() {
        Ok(before) => put_back(&before),
        Err(TryLockError::Poisoned(poisoned)) => put_back(&poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {}
    }
}

fn put_back(before: &Option<Termios>) {
    if let Some(before) = before {
        // There is no one left to tell of a failure.
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}
