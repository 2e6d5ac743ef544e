//! Where x87 registers are needed, and the control words that unmask exceptions.

use tern_x86::state::Mxcsr;
use tern_x86::vector::X87_EXCEPTIONS;

use super::cold::Cold;
use super::memory::Access;
use super::{Emitter, Guest};
use crate::translator::assembler::*;
use crate::translator::frame;
use crate::translator::kinds::Control;
use crate::translator::operands::by_stack;

impl Emitter<'_> {
    /// The unit's first instruction on x87 registers finds them loaded, and with it the others: operations between leave them so.
    pub fn need_x87(&mut self, guest: &Guest) {
        if self.has_x87 || !guest.kind.uses_x87() {
            return;
        }
        self.has_x87 = true;
        self.spare_flags(guest.live_before());
        self.scratch.forget();
        let (load, back) = (self.a.label(), self.a.label());
        self.a.cmp_byte_zero(frame::X87_LOADED);
        self.a.jcc(EQUAL, load);
        self.a.place(back);
        self.cold.push(Cold::LoadX87 { at: load, back, offset: guest.offset(), count: self.count });
    }

    /// FLDCW and LDMXCSR. A word that would unmask an exception, or raise one, is the interpreter's to load.
    pub fn load_control(&mut self, guest: &Guest, control: Control) {
        let instruction = &guest.instruction;
        let live = guest.live_before();
        self.spare_flags(live);
        let size = instruction.memory_size().size();
        let access = Access { size, write: false, alignment: 1, stack: by_stack(instruction) };
        let (memory, _) = self.operand(guest, access, live);
        // What is looked at, and what it must be.
        let (bits, expected) = match control {
            Control::X87 => {
                self.a.load_guest_word(R11, memory);
                (u32::from(X87_EXCEPTIONS), u32::from(X87_EXCEPTIONS))
            }
            Control::Mxcsr => {
                self.a.load_guest(R11, memory, false);
                (Mxcsr::MASKS.bits() | !Mxcsr::all().bits(), Mxcsr::MASKS.bits())
            }
        };
        let word = frame::scratch(0);
        self.a.store(word, R11);
        let refused = self.a.label();
        self.a.and_immediate32(R11, bits as i32);
        self.a.cmp_immediate(R11, expected as i32);
        self.a.jcc(NOT_EQUAL, refused);
        self.cold.push(Cold::Interpret { at: refused, offset: guest.offset(), count: self.count });
        match control {
            Control::X87 => self.a.load_x87_control(word),
            Control::Mxcsr => self.a.load_mxcsr(word),
        }
    }
}
