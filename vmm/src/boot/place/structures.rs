//! The boot structures, packed in low memory and written at once.

use super::PlaceError;
use super::layout::STRUCTURES;

/// Structures under construction. Addresses are physical.
pub(super) struct Structures {
    bytes: Vec<u8>,
}

impl Structures {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Appends `structure` at a multiple of `align` (a power of two of at most a page) and returns its address.
    pub(super) fn put(&mut self, structure: &[u8], align: usize) -> Result<u32, PlaceError> {
        let start = self.bytes.len().next_multiple_of(align);
        if structure.len() > STRUCTURES.len().saturating_sub(start) {
            return Err(PlaceError::StructuresFull { room: STRUCTURES.len() });
        }
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(structure);
        // The room's size was checked, and it lies in the first MiB.
        Ok(STRUCTURES.start + start as u32)
    }

    /// Appends a string and its terminator.
    pub(super) fn put_string(&mut self, string: &str) -> Result<u32, PlaceError> {
        self.put(&[string.as_bytes(), &[0]].concat(), 1)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes a little-endian number into a structure at a fixed `offset` of it.
pub(super) fn set<const N: usize>(structure: &mut [u8], offset: usize, value: [u8; N]) {
    structure[offset..offset + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_aligned_and_apart() {
        let mut structures = Structures::new();
        assert_eq!(structures.put_string("ab").unwrap(), STRUCTURES.start);
        assert_eq!(structures.put(&[1; 8], 8).unwrap(), STRUCTURES.start + 8);
        assert_eq!(structures.bytes(), b"ab\0\0\0\0\0\0\x01\x01\x01\x01\x01\x01\x01\x01");
    }

    #[test]
    fn the_room_is_never_exceeded() {
        let mut structures = Structures::new();
        structures.put(&vec![0; STRUCTURES.len() - 1], 4096).unwrap();
        structures.put(&[0], 1).unwrap();
        for align in [1, 4096] {
            assert!(matches!(structures.put(&[0], align), Err(PlaceError::StructuresFull { .. })));
        }
    }
}
