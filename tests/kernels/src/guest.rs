//! What all environments share: the assembler with labels that may lie anywhere, and bytes in memory.

use std::ops::Range;

use iced_x86::code_asm::{CodeAssembler, CodeAssemblerResult, CodeLabel};
use iced_x86::{BlockEncoderOptions, IcedError};

/// What writing instructions gives.
pub type Emit = Result<(), IcedError>;

/// What COM1 transmits.
pub const COM1: u16 = 0x3f8;
/// The debug-exit port.
pub const DEBUG_EXIT: u16 = 0xf4;

/// Gives a label the next instruction's address, also where another label has it already.
///
/// # Errors
/// The label has a place.
pub fn place(code: &mut CodeAssembler, label: &mut CodeLabel) -> Emit {
    code.set_label(label)?;
    code.zero_bytes()
}

/// Assembles `code` for `address` so that labels can be asked for their addresses.
///
/// # Panics
/// The instructions cannot be encoded.
#[must_use]
pub fn assemble(code: &mut CodeAssembler, address: u64) -> CodeAssemblerResult {
    let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    code.assemble_options(address, options).expect("the instructions can be encoded")
}

/// Bytes that a guest finds in memory, by physical address; whatever lies between them is zero.
#[derive(Debug, Clone, Default)]
pub struct Memory(Vec<(u64, Vec<u8>)>);

impl Memory {
    /// Puts bytes at an address. What is put later lies over what was put before.
    pub fn put(&mut self, address: u64, bytes: impl Into<Vec<u8>>) {
        self.0.push((address, bytes.into()));
    }

    /// Puts words of eight bytes at an address.
    pub fn put_words(&mut self, address: u64, words: &[u64]) {
        self.put(address, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
    }

    /// Puts everything of `other` over this.
    pub fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// The bytes of a range.
    ///
    /// # Panics
    /// A piece reaches out of the range.
    #[must_use]
    pub fn range(&self, range: Range<u64>) -> Vec<u8> {
        let offset = |address: u64| usize::try_from(address - range.start).expect("images are small");
        let mut bytes = vec![0; offset(range.end)];
        for (address, piece) in self.0.iter().filter(|(address, _)| range.contains(address)) {
            let at = offset(*address);
            bytes[at..at + piece.len()].copy_from_slice(piece);
        }
        bytes
    }
}
