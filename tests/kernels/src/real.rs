//! Real mode: an environment for 16-bit code in a boot sector.
//!
//! The image is loaded at 0x7c00 and entered there; all segments are 0. Interrupt vectors are empty: a test fills those
//! that it uses.

use std::ops::{Deref, DerefMut};

use iced_x86::code_asm::*;
use tern_vmm::boot::KernelKind;

use crate::expect::Expectations;
use crate::guest::{COM1, DEBUG_EXIT, Emit};
use crate::run::{DONE, Setup, check};
use crate::text::{Mark, Text};

/// Where the image is loaded; the stack lies below.
pub const BASE: u32 = 0x7c00;
/// Memory that belongs to the test.
pub const DATA: u16 = 0x2000;

/// A guest in real mode, being written. It is an assembler with further methods.
pub struct Real {
    text: Text,
    expectations: Expectations,
    record: Mark,
}

impl Deref for Real {
    type Target = Text;

    fn deref(&self) -> &Text {
        &self.text
    }
}

impl DerefMut for Real {
    fn deref_mut(&mut self) -> &mut Text {
        &mut self.text
    }
}

/// Writes a guest with `write` (twice), runs it on every engine and demands that it reports what it is said to.
///
/// # Panics
/// It does not, or its instructions cannot be encoded.
pub fn real(write: impl Fn(&mut Real) -> Emit) {
    let (mut image, _, expectations) = Text::write(16, BASE, |mut text| {
        let record = text.mark();
        let mut guest = Real { text, expectations: Expectations::default(), record };
        write(&mut guest)?;
        guest.done()?;
        guest.write_record()?;
        Ok((guest.text, guest.expectations))
    });
    image.resize(image.len().next_multiple_of(512), 0);
    check(&Setup::new(image, KernelKind::BootSector), &expectations);
}

impl Real {
    /// Reports `register`, which must be `value`. All registers and flags stay as they are.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect(&mut self, register: AsmRegister32, value: u32) -> Emit {
        self.expectations.exactly(value.into());
        let record = self.record.label;
        self.push(eax)?;
        if register != eax {
            self.mov(eax, register)?;
        }
        self.call(record)?;
        self.pop(eax)
    }

    /// Writes instructions that are not run here and makes them the handler of `vector`. AX is lost.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn handler(&mut self, vector: u8, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        let (here, over) = (self.mark(), self.mark());
        self.jmp(over.label)?;
        self.place(here)?;
        body(self)?;
        self.place(over)?;
        let entry = 4 * u32::from(vector);
        let address = self.address(here);
        self.xor(ax, ax)?;
        self.mov(word_ptr(entry + 2).es(), ax)?;
        self.mov(ax, address as i32)?;
        self.mov(word_ptr(entry).es(), ax)
    }

    /// Sends the low half of a word of the report, EAX, and zeros.
    fn write_record(&mut self) -> Emit {
        let (record, again) = (self.record, self.mark());
        self.place(record)?;
        self.pushf()?;
        for register in [eax, ecx, edx] {
            self.push(register)?;
        }
        self.mov(dx, i32::from(COM1))?;
        self.mov(cx, 8)?;
        self.place(again)?;
        self.out(dx, al)?;
        self.shr(eax, 8)?;
        self.dec(cx)?;
        self.jnz(again.label)?;
        for register in [edx, ecx, eax] {
            self.pop(register)?;
        }
        self.popf()?;
        self.ret()
    }

    fn done(&mut self) -> Emit {
        self.mov(eax, u32::from(DONE))?;
        self.mov(dx, i32::from(DEBUG_EXIT))?;
        self.out(dx, eax)?;
        self.hlt()
    }
}
