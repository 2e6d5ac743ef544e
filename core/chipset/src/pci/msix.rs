//! MSI-X: a table of messages, one for each of a function's interrupts.
//!
//! Follows the PCI Local Bus Specification 3.0, § 6.8.2 and § 6.8.3.
//!
//! ```text
//!                                    masked, or MSI-X disabled
//!   signal(vector) ──▶ message        signal ──▶ pending
//!                                                   │ unmasked
//!                                                   ▼
//!                                                message
//! ```
//!
//! An entry of the table is 16 bytes: address, data, and a control word whose lowest bit masks the vector.

use core::ops::Range;

use crate::InvalidState;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How many vectors a function can have.
pub const MOST_VECTORS: u16 = 2048;

/// Bytes of an entry of the table.
pub const ENTRY_SIZE: u64 = 16;

/// Message control: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Message control: MSI-X is used, and INTx is not.
const ENABLE: u16 = 1 << 15;

/// Vector control: the vector is masked.
const MASK_BIT: u32 = 1 << 0;

/// A message-signalled interrupt: a write of `data` to `address`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiMessage {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A vector's message is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// The vector.
    pub vector: u16,
    /// Its message.
    pub message: MsiMessage,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What is sent.
    pub message: MsiMessage,
    /// Whether it must not be sent.
    pub is_masked: bool,
    /// Whether it was to be sent while it must not.
    pub is_pending: bool,
}

impl Entry {
    /// After reset.
    const RESET: Self =
        Self { message: MsiMessage { address: 0, data: 0 }, is_masked: true, is_pending: false };

    /// The entry's 32-bit word `index`, 0 to 3.
    const fn word(&self, index: u64) -> u32 {
        match index {
            0 => self.message.address as u32,
            1 => (self.message.address >> 32) as u32,
            2 => self.message.data,
            _ => self.is_masked as u32,
        }
    }

    fn set_word(&mut self, index: u64, value: u32) {
        let address = &mut self.message.address;
        match index {
            // The lowest two bits are always zero.
            0 => *address = *address & !0xffff_ffff | u64::from(value & !3),
            1 => *address = *address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.message.data = value,
            _ => self.is_masked = value & MASK_BIT != 0,
        }
    }
}

/// What the registers hold. Message control is the configuration space's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The table, with the pending bits.
    pub entries: Vec<Entry>,
}

/// A function's MSI-X.
#[derive(Clone, Debug)]
pub struct MsiX {
    entries: Vec<Entry>,
    is_enabled: bool,
    is_function_masked: bool,
}

impl MsiX {
    /// MSI-X for `vectors` interrupts, at most [`MOST_VECTORS`], after reset: disabled, all masked.
    pub fn new(vectors: u16) -> Self {
        let count = usize::from(vectors.min(MOST_VECTORS));
        Self { entries: vec![Entry::RESET; count], is_enabled: false, is_function_masked: false }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        // There are no more than can be counted so.
        self.entries.len() as u16
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        u64::from(self.vectors()) * ENTRY_SIZE
    }

    /// Bytes of the pending bits.
    pub fn pending_size(&self) -> u64 {
        u64::from(self.vectors()).div_ceil(64) * 8
    }

    /// Whether interrupts are messages, and not a line.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// The function wants to interrupt: gives what is to be sent, or keeps it pending. Without MSI-X, and for a vector
    /// that does not exist, nothing happens.
    pub fn signal(&mut self, vector: u16) -> Option<MsiMessage> {
        if !self.is_enabled {
            return None;
        }
        let is_function_masked = self.is_function_masked;
        let entry = self.entries.get_mut(usize::from(vector))?;
        if entry.is_masked || is_function_masked {
            entry.is_pending = true;
            return None;
        }
        Some(entry.message)
    }

    /// Takes the message control register, and gives what was pending and is to be sent now.
    pub fn set_control(&mut self, control: u16) -> Vec<Send> {
        self.is_enabled = control & ENABLE != 0;
        self.is_function_masked = control & FUNCTION_MASK != 0;
        self.send_pending(0..self.entries.len())
    }

    /// Answers a read at `offset` in the table. Software reads aligned groups of four or eight bytes.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in (0..).zip(data) {
            let offset = offset.wrapping_add(index);
            let entry = usize::try_from(offset / ENTRY_SIZE).ok().and_then(|index| self.entries.get(index));
            let word = entry.map_or(0, |entry| entry.word(offset % ENTRY_SIZE / 4));
            *byte = word.to_le_bytes()[(offset % 4) as usize];
        }
    }

    /// Takes a write at `offset` in the table, and gives what was pending and is to be sent now. Writes other than of aligned
    /// groups of four or eight bytes have no defined effect, and none here.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Vec<Send> {
        let (words, []) = data.as_chunks::<4>() else { return Vec::new() };
        if !offset.is_multiple_of(data.len().max(4) as u64) || words.len() > 2 {
            return Vec::new();
        }
        let Ok(index) = usize::try_from(offset / ENTRY_SIZE) else { return Vec::new() };
        let Some(entry) = self.entries.get_mut(index) else { return Vec::new() };
        for (word, value) in (offset % ENTRY_SIZE / 4..).zip(words) {
            entry.set_word(word, u32::from_le_bytes(*value));
        }
        self.send_pending(index..index + 1)
    }

    /// Answers a read at `offset` in the pending bits, which software cannot write.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in (0..).zip(data) {
            let offset = offset.wrapping_add(index);
            let first = usize::try_from(offset).ok().and_then(|offset| offset.checked_mul(8));
            let entries = first.and_then(|first| self.entries.get(first..)).unwrap_or(&[]);
            let bits = entries.iter().take(8).enumerate();
            *byte = bits.fold(0, |byte, (bit, entry)| byte | u8::from(entry.is_pending) << bit);
        }
    }

    fn send_pending(&mut self, range: Range<usize>) -> Vec<Send> {
        if !self.is_enabled || self.is_function_masked {
            return Vec::new();
        }
        let mut sent = Vec::new();
        for (vector, entry) in (0u16..).zip(&mut self.entries).take(range.end).skip(range.start) {
            if entry.is_pending && !entry.is_masked {
                entry.is_pending = false;
                sent.push(Send { vector, message: entry.message });
            }
        }
        sent
    }

    /// What the table holds.
    pub fn save(&self) -> State {
        State { entries: self.entries.clone() }
    }

    /// Puts back what [`MsiX::save`] gave, with the message control register that belongs to it. What is pending and may be
    /// sent is sent with the next change.
    ///
    /// # Errors
    ///
    /// If it is another function's; nothing is changed then.
    pub fn restore(&mut self, state: &State, control: u16) -> Result<(), InvalidState> {
        if state.entries.len() != self.entries.len() {
            return Err(InvalidState { device: "MSI-X table", reason: "it has another number of vectors" });
        }
        self.entries.clone_from(&state.entries);
        self.is_enabled = control & ENABLE != 0;
        self.is_function_masked = control & FUNCTION_MASK != 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: MsiMessage = MsiMessage { address: 0x1_fee0_1000, data: 0x41 };

    /// Vector 2 of three has a message; MSI-X is enabled.
    fn msix() -> MsiX {
        let mut msix = MsiX::new(3);
        msix.set_control(ENABLE);
        msix.write_table(32, &MESSAGE.address.to_le_bytes());
        msix.write_table(40, &MESSAGE.data.to_le_bytes());
        msix
    }

    fn mask(msix: &mut MsiX, is_masked: bool) -> Vec<Send> {
        msix.write_table(44, &u32::from(is_masked).to_le_bytes())
    }

    fn pending(msix: &MsiX) -> u64 {
        let mut data = [0; 8];
        msix.read_pending(0, &mut data);
        u64::from_le_bytes(data)
    }

    #[test]
    fn an_unmasked_vector_sends_its_message() {
        let mut msix = msix();
        assert_eq!(mask(&mut msix, false), []);
        assert_eq!(msix.signal(2), Some(MESSAGE));
        assert_eq!(pending(&msix), 0);
        assert_eq!(msix.signal(3), None, "there is no such vector");
    }

    #[test]
    fn a_masked_vector_is_pending_and_sends_once_when_it_is_unmasked() {
        let mut msix = msix();
        assert_eq!((msix.signal(2), msix.signal(2)), (None, None));
        assert_eq!(pending(&msix), 0b100);
        assert_eq!(mask(&mut msix, false), [Send { vector: 2, message: MESSAGE }]);
        assert_eq!(pending(&msix), 0);
        assert_eq!(mask(&mut msix, false), []);
    }

    #[test]
    fn the_function_mask_holds_for_all_vectors() {
        let mut msix = msix();
        mask(&mut msix, false);
        msix.set_control(ENABLE | FUNCTION_MASK);
        assert_eq!(msix.signal(2), None);
        assert_eq!(msix.signal(0), None);
        assert_eq!(pending(&msix), 0b101);
        let sent = msix.set_control(ENABLE);
        assert_eq!(sent, [Send { vector: 2, message: MESSAGE }]);
        assert_eq!(pending(&msix), 0b001, "vector 0 is masked by itself");
    }

    #[test]
    fn nothing_is_sent_or_kept_while_msix_is_disabled() {
        let mut msix = msix();
        mask(&mut msix, false);
        msix.set_control(0);
        assert!(!msix.is_enabled());
        assert_eq!(msix.signal(2), None);
        assert_eq!(msix.set_control(ENABLE), []);
    }

    #[test]
    fn a_message_changed_while_it_is_masked_is_sent_as_it_is_then() {
        let mut msix = msix();
        msix.signal(2);
        msix.write_table(40, &0x55_u32.to_le_bytes());
        let message = MsiMessage { data: 0x55, ..MESSAGE };
        assert_eq!(mask(&mut msix, false), [Send { vector: 2, message }]);
    }

    #[test]
    fn the_table_reads_as_written_and_is_written_in_whole_words() {
        let mut msix = msix();
        let mut entry = [0; 16];
        msix.read_table(32, &mut entry);
        assert_eq!(entry[..8], MESSAGE.address.to_le_bytes());
        assert_eq!(entry[8..], [0x41, 0, 0, 0, 1, 0, 0, 0]);
        for (offset, data) in [(40, &[9_u8][..]), (42, &[9; 4]), (36, &[9; 8]), (40, &[9; 3]), (32, &[9; 16])]
        {
            msix.write_table(offset, data);
        }
        let mut after = [0; 16];
        msix.read_table(32, &mut after);
        assert_eq!(after, entry);
        msix.write_table(40, &[7, 0, 0, 0, 0, 0, 0, 0]);
        msix.read_table(40, &mut after[..8]);
        assert_eq!(after[..8], [7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn beyond_the_table_there_is_nothing() {
        let mut msix = msix();
        let mut data = [0xff; 8];
        for offset in [48, 0xffff_fff0, u64::MAX - 7] {
            assert_eq!(msix.write_table(offset, &[0; 4]), []);
            msix.read_table(offset, &mut data);
            assert_eq!(data, [0; 8]);
            msix.read_pending(offset, &mut data);
            assert_eq!(data, [0; 8]);
        }
        assert_eq!((msix.table_size(), msix.pending_size()), (48, 8));
        assert_eq!(MsiX::new(65).pending_size(), 16);
    }

    #[test]
    fn a_saved_table_keeps_what_is_pending_and_another_size_is_refused() {
        let mut msix = msix();
        msix.signal(2);
        let state = msix.save();
        let mut copy = MsiX::new(3);
        copy.restore(&state, ENABLE).unwrap();
        assert_eq!(pending(&copy), 0b100);
        assert_eq!(mask(&mut copy, false), [Send { vector: 2, message: MESSAGE }]);
        assert!(MsiX::new(4).restore(&state, ENABLE).is_err());
    }
}
