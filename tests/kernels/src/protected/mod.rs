//! 32-bit protected mode: an environment in which a test's instructions run at level 0 and, on request, at level 3.
//!
//! As [`crate::long`], with the same report of exceptions; see there. Code is written twice (see [`crate::text`]).

mod handlers;
pub mod layout;

use std::ops::{Deref, DerefMut};

use iced_x86::code_asm::*;
use tern_vmm::boot::KernelKind;

use crate::expect::{Expectations, Fault};
use crate::guest::{DEBUG_EXIT, Emit, Memory};
use crate::image::{Piece, pvh};
use crate::run::{DONE, Setup, check};
use crate::text::{Mark, Text};
use layout::{DATA_END, IMAGE_END, variable};

pub use layout::*;

/// The vector by which user code comes back.
const BACK: u8 = 0x80;
/// Access bytes of descriptors.
const CODE_ACCESS: u8 = 0x9b;
const DATA_ACCESS: u8 = 0x93;
const TSS_ACCESS: u8 = 0x89;
const INTERRUPT_GATE_ACCESS: u8 = 0x8e;
const DPL_3: u8 = 0x60;
/// Descriptor flags: limit in pages, 32-bit.
pub const FLAT: u8 = 0xc;

/// A segment descriptor: the access byte has type, privilege level and presence, `flags` the upper four attributes.
#[must_use]
pub fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 0xf) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// A gate descriptor; `parameters` are those of call gates.
#[must_use]
pub fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    let offset = u64::from(offset);
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(parameters) << 32
        | u64::from(access) << 40
        | (offset >> 16) << 48
}

/// A guest in protected mode, being written. It is an assembler with further methods.
pub struct Protected {
    text: Text,
    expectations: Expectations,
    memory: Memory,
    gates: Vec<(u8, u64)>,
    record: Mark,
}

impl Deref for Protected {
    type Target = Text;

    fn deref(&self) -> &Text {
        &self.text
    }
}

impl DerefMut for Protected {
    fn deref_mut(&mut self) -> &mut Text {
        &mut self.text
    }
}

/// Writes a guest with `write` (twice), runs it on every engine and demands that it reports what it is said to.
///
/// # Panics
/// It does not, or its instructions cannot be encoded.
pub fn protected(write: impl Fn(&mut Protected) -> Emit) {
    let (code, _, (expectations, memory)) = Text::write(32, CODE, |mut text| {
        let record = text.mark();
        let (expectations, memory) = Default::default();
        let mut guest = Protected { text, expectations, memory, gates: Vec::new(), record };
        guest.put_tables();
        guest.first_instructions()?;
        write(&mut guest)?;
        guest.done()?;
        handlers::record(&mut guest)?;
        let reporting = handlers::reporting(&mut guest)?;
        let mut gates: Vec<u64> = (0..=u8::MAX)
            .zip(reporting)
            .map(|(vector, mark)| {
                let dpl = if matches!(vector, 3 | 4 | BACK) { DPL_3 } else { 0 };
                gate(CODE_SELECTOR, guest.address(mark), INTERRUPT_GATE_ACCESS | dpl, 0)
            })
            .collect();
        guest.gates.iter().for_each(|&(vector, gate)| gates[usize::from(vector)] = gate);
        guest.memory.put_words(IDT.into(), &gates);
        Ok((guest.text, (guest.expectations, guest.memory)))
    });
    assert!(code.len() < (GDT - CODE) as usize, "the guest is too long");
    let mut all = memory;
    all.put(CODE.into(), code);
    let pieces = [CODE..IMAGE_END, DATA..DATA_END].map(|range| {
        let range = u64::from(range.start)..u64::from(range.end);
        Piece { address: range.start, bytes: all.range(range) }
    });
    check(&Setup::new(pvh(CODE, &pieces), KernelKind::Elf), &expectations);
}

impl Protected {
    fn put_tables(&mut self) {
        let flat = |access| descriptor(0, 0xf_ffff, access, FLAT);
        let descriptors = [
            0,
            flat(CODE_ACCESS),
            flat(DATA_ACCESS),
            flat(CODE_ACCESS | DPL_3),
            flat(DATA_ACCESS | DPL_3),
            descriptor(TSS, 0x67, TSS_ACCESS, 0),
        ];
        self.memory.put_words(GDT.into(), &descriptors);
        let pointer = |limit: u16, base: u32| [&limit.to_le_bytes()[..], &base.to_le_bytes()].concat();
        self.memory.put(variable::GDT_POINTER.into(), pointer(GDT_LIMIT, GDT));
        self.memory.put(variable::IDT_POINTER.into(), pointer(0x7ff, IDT));
        // ESP0 and SS0; no I/O permission map.
        self.memory.put(u64::from(TSS) + 4, [STACK_0, DATA_SELECTOR.into()].map(u32::to_le_bytes).concat());
        self.memory.put(u64::from(TSS) + 0x66, 0x68_u16.to_le_bytes());
    }

    fn first_instructions(&mut self) -> Emit {
        let flat = self.mark();
        self.lgdt(ptr(variable::GDT_POINTER))?;
        self.lidt(ptr(variable::IDT_POINTER))?;
        let address = self.address(flat);
        self.jmp_far(CODE_SELECTOR, address)?;
        self.place(flat)?;
        self.mov(eax, u32::from(DATA_SELECTOR))?;
        for register in [ds, es, fs, gs, ss] {
            self.mov(register, eax)?;
        }
        self.mov(esp, STACK)?;
        self.mov(eax, u32::from(TSS_SELECTOR))?;
        self.ltr(ax)
    }

    fn done(&mut self) -> Emit {
        self.mov(eax, u32::from(DONE))?;
        self.mov(edx, u32::from(DEBUG_EXIT))?;
        self.out(dx, eax)?;
        self.hlt()
    }

    /// Puts bytes into memory before the guest starts: over the environment's tables, or from [`DATA`] on.
    pub fn put(&mut self, address: u32, bytes: impl Into<Vec<u8>>) {
        self.memory.put(address.into(), bytes);
    }

    /// Puts a descriptor behind `selector`.
    pub fn put_descriptor(&mut self, selector: u16, descriptor: u64) {
        self.memory.put_words(u64::from(GDT) + u64::from(selector & !7), &[descriptor]);
    }

    /// Replaces the gate of an interrupt vector.
    pub fn put_gate(&mut self, vector: u8, gate: u64) {
        self.gates.push((vector, gate));
    }

    /// Reports `register`, which must be `value`. All registers and flags stay as they are.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect(&mut self, register: AsmRegister32, value: u32) -> Emit {
        assert_ne!(register, esp, "the stack pointer moves while it is reported");
        self.expectations.exactly(value.into());
        self.push(eax)?;
        if register != eax {
            self.mov(eax, register)?;
        }
        self.report_eax()?;
        self.pop(eax)
    }

    /// Reports the four bytes at `address`, which must be `value`.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_memory(&mut self, address: u32, value: u32) -> Emit {
        self.expectations.exactly(value.into());
        self.push(eax)?;
        self.mov(eax, dword_ptr(address))?;
        self.report_eax()?;
        self.pop(eax)
    }

    /// Reports the frame that the handler of the last exception found, word `n`: 0 EIP, 1 CS, 2 EFLAGS, 3 ESP, 4 SS (from
    /// other levels), 5 to 8 ES, DS, FS, GS (from virtual-8086 mode).
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_frame(&mut self, n: u32, value: u32) -> Emit {
        self.expect_memory(variable::FRAME + 4 * n, value)
    }

    fn report_eax(&mut self) -> Emit {
        let record = self.record.label;
        self.call(record)?;
        self.push(eax)?;
        self.mov(eax, 0)?;
        self.call(record)?;
        self.pop(eax)
    }

    /// Demands that `body` ends by `fault` and goes on behind it, at level 0 with flags clear, the stack pointer as before,
    /// flat segments but for FS and GS, which are with the general registers as the exception found them.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_fault(&mut self, fault: Fault, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        self.expectations.fault(fault);
        let (start, after) = (self.mark(), self.mark());
        self.catch(start, after)?;
        self.place(start)?;
        body(self)?;
        handlers::no_exception(self)?;
        self.place(after)
    }

    /// As [`Protected::expect_fault`] for a `body` that runs at level 3, with flat data segments and these flags.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_user_fault(
        &mut self,
        fault: Fault,
        flags: u32,
        body: impl FnOnce(&mut Self) -> Emit,
    ) -> Emit {
        self.expectations.fault(fault);
        self.enter_user(flags, body)
    }

    /// Runs `body` at level 3 and comes back with its registers.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn user(&mut self, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        self.expectations.exactly(BACK.into());
        self.expectations.exactly(0);
        self.expectations.such(|_| true);
        self.enter_user(2, body)
    }

    fn enter_user(&mut self, flags: u32, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        let (start, after) = (self.mark(), self.mark());
        self.catch(start, after)?;
        self.push(eax)?;
        self.mov(eax, u32::from(USER_DATA_SELECTOR))?;
        for register in [ds, es, fs, gs] {
            self.mov(register, eax)?;
        }
        self.pop(eax)?;
        self.push(i32::from(USER_DATA_SELECTOR))?;
        self.push(USER_STACK as i32)?;
        self.push(flags as i32)?;
        self.push(i32::from(USER_CODE_SELECTOR))?;
        let address = self.address(start);
        self.push(address as i32)?;
        self.iretd()?;
        self.place(start)?;
        body(self)?;
        self.int(i32::from(BACK))?;
        self.place(after)
    }

    /// The next exception is reported, and execution goes on at `after`.
    fn catch(&mut self, start: Mark, after: Mark) -> Emit {
        let [start, after] = [start, after].map(|mark| self.address(mark));
        self.mov(dword_ptr(variable::CATCH_EIP), after)?;
        self.mov(dword_ptr(variable::CATCH_START), start)?;
        self.mov(dword_ptr(variable::CATCH_ESP), esp)
    }

    /// As [`Protected::expect_fault`] where the way into `body` is the test's own: it is at `start`.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_fault_elsewhere(
        &mut self,
        fault: Fault,
        start: Mark,
        enter: impl FnOnce(&mut Self) -> Emit,
    ) -> Emit {
        self.expectations.fault(fault);
        let after = self.mark();
        self.catch(start, after)?;
        enter(self)?;
        self.place(after)
    }

    /// Writes instructions that are not run here, and returns where they are.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn out_of_line(&mut self, body: impl FnOnce(&mut Self) -> Emit) -> Result<Mark, iced_x86::IcedError> {
        let (here, over) = (self.mark(), self.mark());
        self.jmp(over.label)?;
        self.place(here)?;
        body(self)?;
        self.place(over)?;
        Ok(here)
    }
}
