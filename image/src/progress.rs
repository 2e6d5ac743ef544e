//! How long steps are shown to whoever waits for them.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Receives what is being done. One step at a time: `begin`, any number of `advance`, `end`.
pub trait Progress {
    /// A step begins: what is being done, and how many bytes it will take if that is known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// So many bytes of the step are done (not an increment).
    fn advance(&self, done: u64);
    /// The step is over, well or not.
    fn end(&self);
    /// Something to know, in one line, between two steps.
    fn note(&self, _text: &str) {}
}

/// Shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _done: u64) {}
    fn end(&self) {}
}

/// Shows steps on standard error: a bar that goes away on a terminal, a line per step elsewhere.
#[derive(Debug)]
pub struct OnStderr {
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl OnStderr {
    /// Looks at standard error and decides between bar and lines.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), bar: Mutex::new(None) }
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Default for OnStderr {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for OnStderr {
    fn begin(&self, what: &str, total: Option<u64>) {
        if !self.terminal {
            match total {
                Some(total) => eprintln!("tern: {what} ({})", HumanBytes(total)),
                None => eprintln!("tern: {what}"),
            }
            return;
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{msg} [{bar:24}] {bytes}/{total_bytes}"),
            None => (ProgressBar::new_spinner(), "{msg} {spinner}"),
        };
        let style = ProgressStyle::with_template(template)
            .expect("the templates above are well-formed")
            .progress_chars("=> ");
        bar.set_style(style);
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.with_bar(|slot| *slot = Some(bar));
    }

    fn note(&self, text: &str) {
        eprintln!("tern: {text}");
    }

    fn advance(&self, done: u64) {
        self.with_bar(|slot| {
            if let Some(bar) = slot {
                bar.set_position(done);
            }
        });
    }

    fn end(&self) {
        self.with_bar(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish_and_clear();
            }
        });
    }
}
