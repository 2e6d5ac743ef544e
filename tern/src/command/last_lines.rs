//! The end of what a guest showed on its console, which is told only if something went wrong.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How much is kept, in bytes, and how many lines are told.
const KEPT: usize = 8 << 10;
const LINES: usize = 20;

/// The guest's console; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastLines(Arc<Mutex<VecDeque<u8>>>);

impl LastLines {
    /// The last lines, each with a margin; nothing if there were none. What would move a terminal's cursor is left out.
    pub(crate) fn told(&self) -> String {
        let bytes: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let plain = text.replace('\r', "");
        let lines: Vec<_> = plain.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        let shown = |line: &&str| {
            let letters =
                line.chars().map(|letter| if letter.is_control() && letter != '\t' { '.' } else { letter });
            format!("  | {}\n", letters.collect::<String>())
        };
        last.iter().map(shown).collect()
    }
}

impl Write for LastLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_cannot_move_the_cursor() {
        let mut lines = LastLines::default();
        for number in 0..10_000 {
            write!(lines, "line {number}\r\n").unwrap();
        }
        write!(lines, "\x1b[2Jend").unwrap();
        let told = lines.told();
        assert!(told.ends_with("  | line 9999\n  | .[2Jend\n"), "{told}");
        assert_eq!(told.lines().count(), LINES);
        assert_eq!(LastLines::default().told(), "");
    }
}
