//! What is typed, on its way into the guest's serial port.

use std::sync::Arc;
use std::time::Duration;

use crate::device::Serial;

/// The receiving end of the guest's console; clones lead to the same port.
///
/// Nothing that is taken is lost: it waits until the guest listens, also across a reboot.
#[derive(Clone)]
pub struct ConsoleInput(pub(crate) Arc<Serial>);

impl ConsoleInput {
    /// Takes as many of `bytes` as there is room for now, and says how many. Never waits.
    #[must_use]
    pub fn offer(&self, bytes: &[u8]) -> usize {
        self.0.offer(bytes)
    }

    /// Waits until [`ConsoleInput::offer`] takes something, at most for `patience`.
    pub fn wait_for_room(&self, patience: Duration) {
        self.0.wait_for_room(patience);
    }
}
