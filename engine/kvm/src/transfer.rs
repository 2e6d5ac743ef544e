//! Port and memory accesses on their way: what KVM asks at once is answered by the machine piece by piece.
//!
//! INS and OUTS with REP ask for many elements in one exit, and an access that crosses a page may have any length from 1
//! to 8 bytes; the machine is asked for 1, 2, 4 or 8 bytes at a time.

use tern_engine::{VmEntry, VmExit};

use crate::run_page::RunPage;

/// An exit that is being answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// `left` elements of `size` bytes at `port`; the present one is at `offset` in the page.
    Port { is_read: bool, port: u16, size: u8, left: u32, offset: u64 },
    /// `length` bytes at `address`, of which `done` are.
    Memory { is_write: bool, address: u64, length: u8, done: u8, data: [u8; 8] },
}

impl Transfer {
    /// What to ask next; none if all is answered.
    pub fn question(&self, page: &RunPage) -> Option<VmExit> {
        match *self {
            Self::Port { left: 0, .. } => None,
            Self::Port { is_read: true, port, size, .. } => Some(VmExit::PortIn { port, size }),
            Self::Port { is_read: false, port, size, offset, .. } => {
                let mut bytes = [0; 4];
                page.read(offset, &mut bytes[..element(size)]);
                Some(VmExit::PortOut { port, size, data: u32::from_le_bytes(bytes) })
            }
            Self::Memory { is_write, address, length, done, data } => {
                let size = piece(length.saturating_sub(done))?;
                let address = address.wrapping_add(u64::from(done));
                if !is_write {
                    return Some(VmExit::MmioRead { address, size });
                }
                let mut bytes = [0; 8];
                let from = usize::from(done);
                bytes[..usize::from(size)].copy_from_slice(&data[from..from + usize::from(size)]);
                Some(VmExit::MmioWrite { address, size, data: u64::from_le_bytes(bytes) })
            }
        }
    }

    /// Takes the answer to the present question, and gives KVM what it waits for.
    pub fn answer(&mut self, entry: VmEntry, page: &mut RunPage) {
        let value = match entry {
            VmEntry::Resume => 0,
            VmEntry::Value(value) => value,
        };
        let bytes = value.to_le_bytes();
        match self {
            Self::Port { is_read, size, left, offset, .. } => {
                if *is_read {
                    page.write(*offset, &bytes[..element(*size)]);
                }
                *left = left.saturating_sub(1);
                *offset = offset.wrapping_add(u64::from(*size));
            }
            Self::Memory { is_write, length, done, data, .. } => {
                let Some(size) = piece(length.saturating_sub(*done)) else { return };
                if !*is_write {
                    let from = usize::from(*done);
                    data[from..from + usize::from(size)].copy_from_slice(&bytes[..usize::from(size)]);
                    page.answer_memory(*data);
                }
                *done += size;
            }
        }
    }
}

/// Bytes of a port access: 1, 2 or 4.
fn element(size: u8) -> usize {
    usize::from(size.min(4))
}

/// The largest piece of at most `left` bytes that can be asked for.
fn piece(left: u8) -> Option<u8> {
    [8, 4, 2, 1].into_iter().find(|size| *size <= left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_accesses_of_odd_length_are_asked_in_powers_of_two() {
        let pieces = |length: u8| {
            let mut left = length;
            std::iter::from_fn(|| {
                let size = piece(left)?;
                left -= size;
                Some(size)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(pieces(8), [8]);
        assert_eq!(pieces(7), [4, 2, 1]);
        assert_eq!(pieces(3), [2, 1]);
        assert_eq!(pieces(0), []);
    }
}
