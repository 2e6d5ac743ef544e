//! Instruction bytes to operations.
//!
//! [`BlockDecoder`] walks straight-line code. Bytes are decoded by `iced-x86`; [`lower`] then chooses for each instruction
//! the handler that executes it and resolves its operands into an [`Op`]. Everything is relative to the block's start, so
//! that the same operations serve wherever the code's physical page is mapped.

mod fuse;
mod lower;
mod lower_system;
mod op;

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction};

pub use op::{Op, OpFlags};

use crate::cpu::Mode;
use crate::environment::Environment;
use crate::exec;

/// The longest instruction, in bytes.
pub const MAX_INSTRUCTION_LENGTH: usize = 15;

/// What `iced-x86` must know to decode as the processor does in this mode. All models follow AMD where the vendors differ. On
/// those without TZCNT and LZCNT their opcodes mean BSF and BSR. PAUSE is decoded as the opcode that it is, because with REX.B
/// it is XCHG.
#[must_use]
pub const fn decoder_options(mode: Mode) -> u32 {
    let mut options = DecoderOptions::AMD | DecoderOptions::NO_PAUSE;
    if !mode.contains(Mode::TZCNT) {
        options |= DecoderOptions::NO_MPFX_0FBC;
    }
    if !mode.contains(Mode::LZCNT) {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    options
}

/// Whether it is PAUSE: F3 90, which iced is told ([`decoder_options`]) to call NOP.
#[must_use]
pub fn is_pause(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Nopw | Code::Nopd | Code::Nopq) && instruction.has_rep_prefix()
}

/// Decodes one instruction; `None` if the bytes end before it does. An instruction that does not exist is returned as
/// iced's invalid one, with the length that was looked at.
#[must_use]
pub fn decode(bytes: &[u8], mode: Mode) -> Option<Instruction> {
    let mut decoder = Decoder::new(mode.bitness(), bytes, decoder_options(mode));
    next_instruction(&mut decoder, bytes.len())
}

fn next_instruction(decoder: &mut Decoder<'_>, available: usize) -> Option<Instruction> {
    let left = available - decoder.position();
    let instruction = decoder.decode();
    let short = decoder.last_error() == DecoderError::NoMoreBytes && left < MAX_INSTRUCTION_LENGTH;
    (!short).then_some(instruction)
}

/// Decodes straight-line code from a slice of at most 64 KiB that starts at the block's start.
pub struct BlockDecoder<'a, E> {
    decoder: Decoder<'a>,
    bytes: &'a [u8],
    mode: Mode,
    previous: Option<(Instruction, Op<E>)>,
}

impl<'a, E: Environment> BlockDecoder<'a, E> {
    /// A decoder at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], mode: Mode) -> Self {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        let decoder = Decoder::new(mode.bitness(), bytes, decoder_options(mode));
        Self { decoder, bytes, mode, previous: None }
    }

    /// A decoder that begins `offset` (inside of them) bytes behind the start of `bytes`, to which everything still is
    /// relative.
    #[must_use]
    pub fn starting_at(bytes: &'a [u8], mode: Mode, offset: usize) -> Self {
        let mut decoder = Self::new(bytes, mode);
        if decoder.decoder.set_position(offset).is_ok() {
            decoder.decoder.set_ip(offset as u64);
        }
        decoder
    }

    /// The next instruction as it was decoded, with its operation; as [`BlockDecoder::next_op`].
    pub fn next_instruction(&mut self, env: &mut E) -> Option<(Instruction, Op<E>)> {
        self.next_op(env)?;
        self.previous
    }

    /// The next operation, or `None` if the bytes end before its instruction does.
    ///
    /// Bytes that are no instruction give an operation that raises the right exception.
    pub fn next_op(&mut self, env: &mut E) -> Option<Op<E>> {
        let offset = self.decoder.position();
        if offset >= self.bytes.len() {
            return None;
        }
        let instruction = next_instruction(&mut self.decoder, self.bytes.len())?;
        let mut op = Op::new(exec::undefined);
        op.offset = offset as u16;
        op.length = instruction.len() as u8;
        if instruction.is_invalid() {
            // Fifteen bytes without an end: too long, which is #GP rather than #UD.
            if self.decoder.last_error() == DecoderError::NoMoreBytes {
                op.run = exec::too_long;
            }
            op.flags |= OpFlags::ENDS_BLOCK;
        } else {
            let bytes = &self.bytes[offset..offset + instruction.len()];
            lower::lower(&instruction, bytes, self.mode, env, &mut op);
        }
        self.previous = Some((instruction, op));
        Some(op)
    }

    /// The next operation, preferring to fuse it with the one before: the second value says that the operation stands
    /// for both and replaces the one before.
    pub fn next_fused(&mut self, env: &mut E) -> Option<(Op<E>, bool)> {
        let before = self.previous.take();
        let op = self.next_op(env)?;
        if let (Some((first, first_op)), Some((second, _))) = (before, &self.previous)
            && let Some(fused) = fuse::fuse(&first, &first_op, second, &op)
        {
            return Some((fused, true));
        }
        Some((op, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_is_told_from_what_looks_like_it() {
        let mode = Mode::LONG | Mode::FLAT;
        let pauses = |bytes: &[u8]| decode(bytes, mode).is_some_and(|instruction| is_pause(&instruction));
        assert!(pauses(&[0xf3, 0x90]) && pauses(&[0xf3, 0x66, 0x90]) && pauses(&[0xf3, 0x48, 0x90]));
        assert!(!pauses(&[0x90]), "NOP");
        assert!(!pauses(&[0xf2, 0x90]), "NOP with a prefix");
        assert!(!pauses(&[0xf3, 0x41, 0x90]), "XCHG of R8D");
        assert!(!pauses(&[0xf3, 0x0f, 0x1f, 0x00]), "a long NOP");
    }
}
