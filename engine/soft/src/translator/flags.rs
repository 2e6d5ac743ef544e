//! Which arithmetic flags an instruction needs and which it surely replaces.
//!
//! Translated code keeps the guest's flags in the host's. What it does around a memory access overwrites them; so before
//! it they are saved, if anybody may still read them. *Live* is what may still be read.

use bitflags::bitflags;
use iced_x86::{Decoder, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};
use tern_x86::cpu::Mode;
use tern_x86::decode::decoder_options;

bitflags! {
    /// The arithmetic flags, numbered as `iced-x86` does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct FlagSet: u32 {
        /// Overflow.
        const OF = RflagsBits::OF;
        /// Sign.
        const SF = RflagsBits::SF;
        /// Zero.
        const ZF = RflagsBits::ZF;
        /// Auxiliary carry.
        const AF = RflagsBits::AF;
        /// Carry.
        const CF = RflagsBits::CF;
        /// Parity.
        const PF = RflagsBits::PF;
    }
}

/// What one instruction does with the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlagUse {
    /// Flags that its result depends on.
    pub reads: FlagSet,
    /// Flags that it replaces whatever its operands are, undefined ones included.
    pub replaces: FlagSet,
    /// It may change any of them.
    pub changes: bool,
}

impl FlagUse {
    /// Of an instruction.
    pub fn of(instruction: &Instruction) -> Self {
        let set = FlagSet::from_bits_truncate;
        let changed = set(instruction.rflags_modified());
        let replaces = if may_keep_flags(instruction) { FlagSet::empty() } else { changed };
        Self { reads: set(instruction.rflags_read()), replaces, changes: !changed.is_empty() }
    }

    /// What is live before the instruction if `after` is live behind it.
    pub fn live_before(self, after: FlagSet) -> FlagSet {
        after.difference(self.replaces).union(self.reads)
    }
}

/// Shifts and rotations by a count of zero change no flag.
fn may_keep_flags(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let count = match instruction.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => 1,
        M::Shld | M::Shrd => 2,
        _ => return instruction.has_rep_prefix() || instruction.has_repne_prefix(),
    };
    match instruction.op_kind(count) {
        OpKind::Immediate8 => instruction.immediate8() & 0x1f == 0,
        _ => true,
    }
}

/// How many instructions of a successor are looked at.
const DEPTH: usize = 12;

/// What may be read of the flags at `offset` of a page of code of this mode, and the end of the bytes that this was learned from.
/// Exceptions and interrupts do not count: what no instruction reads before it is replaced is not kept for their handlers.
pub fn live_at(page: &[u8], mode: Mode, offset: usize) -> (FlagSet, usize) {
    let mut decoder = Decoder::with_ip(mode.bitness(), page, 0, decoder_options(mode));
    let (mut live, mut unknown) = (FlagSet::empty(), FlagSet::all());
    if decoder.set_position(offset).is_err() {
        return (unknown, offset);
    }
    for _ in 0..DEPTH {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        let flags = FlagUse::of(&instruction);
        live |= flags.reads & unknown;
        unknown = unknown.difference(flags.replaces);
        if unknown.is_empty() || instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    (live | unknown, decoder.position())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_live_until_they_are_replaced() {
        // mov eax, [rdi]; test eax, eax
        assert_eq!(live_at(&[0x8b, 0x07, 0x85, 0xc0], Mode::LONG, 0), (FlagSet::empty(), 4));
        // jc
        assert_eq!(live_at(&[0x72, 0x00], Mode::LONG, 0).0, FlagSet::all());
        // adc eax, eax
        assert_eq!(live_at(&[0x11, 0xc0], Mode::LONG, 0).0, FlagSet::CF);
        // inc eax leaves CF; sub eax, eax
        assert_eq!(live_at(&[0xff, 0xc0, 0x29, 0xc0], Mode::LONG, 0).0, FlagSet::empty());
        // ret
        assert_eq!(live_at(&[0xc3], Mode::LONG, 0).0, FlagSet::all());
    }

    #[test]
    fn a_shift_by_cl_may_keep_them() {
        // shl eax, cl; xor eax, eax
        assert_eq!(live_at(&[0xd3, 0xe0, 0x31, 0xc0], Mode::LONG, 0).0, FlagSet::empty());
        // shl eax, cl; ret
        let mut decoder = Decoder::new(64, &[0xd3, 0xe0], decoder_options(Mode::LONG));
        let flags = FlagUse::of(&decoder.decode());
        assert!(flags.changes && flags.replaces.is_empty());
    }
}
