//! How a device interrupts its driver (virtio 1.2, section 4.1.5.3 and 4.1.5.4).
//!
//! ```text
//!  a queue's buffers were used ─┐             ┌ MSI-X: the vector that the driver chose ──▶ message
//!  the configuration changed  ──┴─▶ which way ┤
//!                                             └ none: a bit of the ISR status ──▶ the INTx line, until it is read
//! ```
//!
//! Everything here is behind one lock, so that after a vector was masked nothing is sent any more.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitflags::bitflags;
use serde::{Deserialize, Serialize};
use tern_chipset::InvalidState;
use tern_chipset::pci::msix::{self, Send as Sent};
use tern_chipset::pci::{MsiMessage, MsiX};

/// "No vector" (VIRTIO_MSI_NO_VECTOR): such an event does not interrupt.
pub const NO_VECTOR: u16 = 0xffff;

/// Where a function's interrupts go.
pub trait InterruptSink: Send {
    /// Sends the message of this vector.
    fn send(&mut self, vector: u16, message: MsiMessage);

    /// Drives the INTx line. Called with the same level again and again.
    fn set_line(&mut self, level: bool);
}

bitflags! {
    /// The ISR status: what has happened since it was read.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Isr: u8 {
        /// A queue's buffers were used.
        const QUEUE = 1 << 0;
        /// The device's configuration, or its status, has changed.
        const CONFIG = 1 << 1;
    }
}

/// What a device's interrupts hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// MSI-X's table.
    pub msix: msix::State,
    /// ISR status.
    pub isr: Isr,
    /// The vector for changes of the configuration.
    pub config_vector: u16,
    /// The queues' vectors.
    pub queue_vectors: Vec<u16>,
}

/// A device's interrupts.
pub struct Interrupts(Mutex<Inner>);

struct Inner {
    msix: MsiX,
    isr: Isr,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    is_line_disabled: bool,
    sink: Box<dyn InterruptSink>,
}

impl Interrupts {
    /// For a device with this many queues: a vector for each, and one for the configuration.
    #[must_use]
    pub fn new(queues: u16, sink: Box<dyn InterruptSink>) -> Self {
        Self(Mutex::new(Inner {
            msix: MsiX::new(queues.saturating_add(1)),
            isr: Isr::empty(),
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; usize::from(queues)],
            is_line_disabled: false,
            sink,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the driver that buffers of a queue were used.
    pub fn queue(&self, index: u16) {
        let mut inner = self.lock();
        let vector = inner.queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR);
        inner.interrupt(vector, Isr::QUEUE);
    }

    /// Tells the driver that the configuration, or the status, has changed.
    pub fn config(&self) {
        let mut inner = self.lock();
        let vector = inner.config_vector;
        inner.interrupt(vector, Isr::CONFIG);
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        self.lock().msix.vectors()
    }

    /// The vector for changes of the configuration.
    pub fn config_vector(&self) -> u16 {
        self.lock().config_vector
    }

    /// Chooses it; one that does not exist becomes [`NO_VECTOR`], by which the driver sees that it cannot have it.
    pub fn set_config_vector(&self, vector: u16) {
        let mut inner = self.lock();
        inner.config_vector = inner.existing(vector);
    }

    /// A queue's vector; of a queue that does not exist, none.
    pub fn queue_vector(&self, index: u16) -> u16 {
        self.lock().queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR)
    }

    /// Chooses it, as for the configuration.
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        let mut inner = self.lock();
        let vector = inner.existing(vector);
        if let Some(place) = inner.queue_vectors.get_mut(usize::from(index)) {
            *place = vector;
        }
    }

    /// Reads the ISR status, which clears it and releases the line.
    pub fn read_isr(&self) -> u8 {
        let mut inner = self.lock();
        let isr = std::mem::take(&mut inner.isr);
        inner.settle_line();
        isr.bits()
    }

    /// Whether the function wants to interrupt by its line.
    pub fn wants_line(&self) -> bool {
        let inner = self.lock();
        !inner.isr.is_empty() && !inner.msix.is_enabled()
    }

    /// Takes the configuration space's message control register, and whether it forbids the line.
    pub fn set_control(&self, msix_control: u16, is_line_disabled: bool) {
        let mut inner = self.lock();
        inner.is_line_disabled = is_line_disabled;
        let sent = inner.msix.set_control(msix_control);
        inner.send(sent);
        inner.settle_line();
    }

    /// Answers a read in MSI-X's table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.lock().msix.read_table(offset, data);
    }

    /// Takes a write in MSI-X's table.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut inner = self.lock();
        let sent = inner.msix.write_table(offset, data);
        inner.send(sent);
    }

    /// Answers a read of MSI-X's pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        self.lock().msix.read_pending(offset, data);
    }

    /// What a reset of the device (and not of its PCI function) forgets: who is to be told, and what has happened.
    pub fn reset_device(&self) {
        let mut inner = self.lock();
        inner.isr = Isr::empty();
        inner.config_vector = NO_VECTOR;
        inner.queue_vectors.fill(NO_VECTOR);
        inner.settle_line();
    }

    /// Puts everything into its reset state.
    pub fn reset(&self) {
        self.reset_device();
        let mut inner = self.lock();
        inner.msix = MsiX::new(inner.msix.vectors());
        inner.is_line_disabled = false;
    }

    /// What is held.
    pub fn save(&self) -> State {
        let inner = self.lock();
        State {
            msix: inner.msix.save(),
            isr: inner.isr,
            config_vector: inner.config_vector,
            queue_vectors: inner.queue_vectors.clone(),
        }
    }

    /// Puts back what [`Interrupts::save`] gave, with the registers of [`Interrupts::set_control`].
    ///
    /// # Errors
    /// It is another device's.
    pub fn restore(
        &self,
        state: &State,
        msix_control: u16,
        is_line_disabled: bool,
    ) -> Result<(), InvalidState> {
        let mut inner = self.lock();
        let is_ours = |vector: &u16| *vector == NO_VECTOR || *vector < inner.msix.vectors();
        let has_our_vectors = is_ours(&state.config_vector) && state.queue_vectors.iter().all(is_ours);
        if state.queue_vectors.len() != inner.queue_vectors.len() || !has_our_vectors {
            return Err(InvalidState {
                device: "virtio device",
                reason: "its interrupt vectors are another device's",
            });
        }
        inner.msix.restore(&state.msix, msix_control)?;
        inner.isr = state.isr;
        inner.config_vector = state.config_vector;
        inner.queue_vectors.clone_from(&state.queue_vectors);
        inner.is_line_disabled = is_line_disabled;
        inner.settle_line();
        Ok(())
    }
}

impl Inner {
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    fn interrupt(&mut self, vector: u16, reason: Isr) {
        if !self.msix.is_enabled() {
            self.isr |= reason;
            self.settle_line();
        } else if let Some(message) = self.msix.signal(vector) {
            self.sink.send(vector, message);
        }
    }

    fn send(&mut self, sent: Vec<Sent>) {
        for Sent { vector, message } in sent {
            self.sink.send(vector, message);
        }
    }

    fn settle_line(&mut self) {
        let level = !self.isr.is_empty() && !self.is_line_disabled && !self.msix.is_enabled();
        self.sink.set_line(level);
    }
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Interrupts")
            .field("isr", &inner.isr)
            .field("msix", &inner.msix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A vector and its message's data.
    type Sent = (u16, u32);

    /// What was sent, and the line's state.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<(Vec<Sent>, bool)>>);

    impl InterruptSink for Log {
        fn send(&mut self, vector: u16, message: MsiMessage) {
            self.0.lock().unwrap().0.push((vector, message.data));
        }

        fn set_line(&mut self, level: bool) {
            self.0.lock().unwrap().1 = level;
        }
    }

    impl Log {
        fn sent(&self) -> Vec<Sent> {
            std::mem::take(&mut self.0.lock().unwrap().0)
        }

        fn line(&self) -> bool {
            self.0.lock().unwrap().1
        }
    }

    const ENABLE: u16 = 1 << 15;

    fn interrupts() -> (Interrupts, Log) {
        let log = Log::default();
        (Interrupts::new(2, Box::new(log.clone())), log)
    }

    /// MSI-X is enabled; vector `n` sends `0x40 + n`, unmasked.
    fn with_messages() -> (Interrupts, Log) {
        let (interrupts, log) = interrupts();
        interrupts.set_control(ENABLE, false);
        for vector in 0..3_u32 {
            let entry = u64::from(vector) * 16;
            interrupts.write_table(entry + 8, &(0x40 + vector).to_le_bytes());
            interrupts.write_table(entry + 12, &[0; 4]);
        }
        (interrupts, log)
    }

    #[test]
    fn without_msix_the_line_is_high_until_the_status_is_read() {
        let (interrupts, log) = interrupts();
        interrupts.queue(1);
        interrupts.config();
        assert!(log.line() && interrupts.wants_line());
        assert_eq!(interrupts.read_isr(), 3);
        assert!(!log.line());
        assert_eq!(interrupts.read_isr(), 0);
    }

    #[test]
    fn a_line_that_is_disabled_stays_low_until_it_is_enabled() {
        let (interrupts, log) = interrupts();
        interrupts.set_control(0, true);
        interrupts.queue(0);
        assert!(!log.line() && interrupts.wants_line());
        interrupts.set_control(0, false);
        assert!(log.line());
        interrupts.set_control(ENABLE, false);
        assert!(!log.line() && !interrupts.wants_line());
    }

    #[test]
    fn each_event_sends_the_vector_that_was_chosen_for_it() {
        let (interrupts, log) = with_messages();
        interrupts.queue(0);
        assert_eq!(log.sent(), [], "none was chosen");
        interrupts.set_queue_vector(0, 2);
        interrupts.set_queue_vector(1, 0);
        interrupts.set_config_vector(0);
        interrupts.queue(0);
        interrupts.queue(1);
        interrupts.config();
        interrupts.queue(2);
        assert_eq!(log.sent(), [(2, 0x42), (0, 0x40), (0, 0x40)]);
        assert_eq!((interrupts.read_isr(), log.line()), (0, false));
    }

    #[test]
    fn a_vector_that_does_not_exist_reads_back_as_none() {
        let (interrupts, _) = with_messages();
        interrupts.set_queue_vector(0, 3);
        interrupts.set_config_vector(3);
        interrupts.set_queue_vector(9, 0);
        assert_eq!((interrupts.queue_vector(0), interrupts.config_vector()), (NO_VECTOR, NO_VECTOR));
        assert_eq!((interrupts.queue_vector(9), interrupts.vectors()), (NO_VECTOR, 3));
    }

    #[test]
    fn a_masked_vector_is_sent_when_it_is_unmasked() {
        let (interrupts, log) = with_messages();
        interrupts.set_queue_vector(0, 1);
        interrupts.write_table(16 + 12, &[1, 0, 0, 0]);
        interrupts.queue(0);
        let mut pending = [0];
        interrupts.read_pending(0, &mut pending);
        assert_eq!((log.sent(), pending), (vec![], [0b10]));
        interrupts.write_table(16 + 12, &[0; 4]);
        assert_eq!(log.sent(), [(1, 0x41)]);
    }

    #[test]
    fn a_saved_state_drives_the_line_again_and_another_devices_is_refused() {
        let (interrupts, _) = interrupts();
        interrupts.set_queue_vector(1, 2);
        interrupts.queue(1);
        let state = interrupts.save();
        let (copy, log) = self::interrupts();
        copy.restore(&state, 0, false).unwrap();
        assert!(log.line());
        assert_eq!(copy.save(), state);
        for damage in [
            |state: &mut State| state.config_vector = 3,
            |state: &mut State| state.queue_vectors[0] = 3,
            |state: &mut State| state.queue_vectors.push(0),
            |state: &mut State| state.msix.entries.truncate(1),
        ] {
            let mut state = state.clone();
            damage(&mut state);
            assert!(copy.restore(&state, 0, false).is_err());
        }
        copy.reset();
        assert_eq!((copy.queue_vector(1), log.line()), (NO_VECTOR, false));
    }
}
