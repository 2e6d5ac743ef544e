//! Further processors: how they start, and what they do.
//!
//! INIT and start-up interrupts (SDM volume 3, section 9.4.4) wake them in real mode at [`TRAMPOLINE`]; from there they
//! take the first processor's way, with a stack of their own and without a TSS.

use iced_x86::code_asm::*;

use super::layout::*;
use super::{Long, variable};
use crate::device::apic;
use crate::guest::{Emit, place};

/// INIT, asserted, to all but the sender.
const INIT: u32 = 0x000c_4500;
/// Start-up at the trampoline's page, to all but the sender.
const STARTUP: u32 = 0x000c_4600 | (TRAMPOLINE >> 12) as u32;

/// The real-mode instructions at [`TRAMPOLINE`]: to protected mode and the common start.
pub(super) fn trampoline() -> Vec<u8> {
    const GDT_POINTER: u16 = 0x80;
    let write = || {
        let mut a = CodeAssembler::new(16)?;
        a.cli()?;
        a.mov(ax, cs)?;
        a.mov(ds, ax)?;
        // LGDT with a 32-bit base.
        a.db(&[0x66, 0x0f, 0x01, 0x16])?;
        a.db(&GDT_POINTER.to_le_bytes())?;
        a.mov(eax, 0x11)?;
        a.mov(cr0, eax)?;
        a.mov(ax, i32::from(DATA_SELECTOR))?;
        a.mov(ds, ax)?;
        // JMP ptr16:32.
        a.db(&[0x66, 0xea])?;
        a.db(&(START as u32).to_le_bytes())?;
        a.db(&CODE_32_SELECTOR.to_le_bytes())?;
        a.assemble(0)
    };
    let mut bytes = write().expect("the instructions can be encoded");
    bytes.resize(GDT_POINTER.into(), 0);
    bytes.extend(GDT_LIMIT.to_le_bytes());
    bytes.extend((GDT as u32).to_le_bytes());
    bytes
}

/// What other processors do: EDI is the APIC ID.
pub(super) fn other_processor(g: &mut Long) -> Emit {
    let mut idle = g.create_label();
    g.mov(eax, edi)?;
    g.shl(eax, 12)?;
    g.lea(rsp, ptr(rax + PROCESSOR_STACKS))?;
    g.lock().inc(qword_ptr(variable::STARTED))?;
    if let Some(others) = g.others {
        g.call(others)?;
    }
    place(g, &mut idle)?;
    g.hlt()?;
    g.jmp(idle)
}

impl Long {
    /// What every processor but the first does once it is started, as a subroutine with its APIC ID in EDI. Interrupts are
    /// off. Afterwards it halts.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn on_others(&mut self, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        let label = self.out_of_line(|g| {
            body(g)?;
            g.ret()
        })?;
        self.others = Some(label);
        Ok(())
    }

    /// Enables the local APIC and starts the other processors, `count` in number; waits until all run.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn start_others(&mut self, count: u32) -> Emit {
        apic::enable(self)?;
        let mut wait = self.create_label();
        for command in [INIT, STARTUP, STARTUP] {
            apic::write(self, apic::ICR, command)?;
        }
        self.place(&mut wait)?;
        self.pause()?;
        self.cmp(qword_ptr(variable::STARTED), i32::try_from(count).expect("processors are few"))?;
        self.jne(wait)
    }

    /// Waits until the eight bytes at `address`, below 2 GiB, are `value`.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn wait_for(&mut self, address: u64, value: i32) -> Emit {
        let mut wait = self.create_label();
        self.place(&mut wait)?;
        self.pause()?;
        self.cmp(qword_ptr(address), value)?;
        self.jne(wait)
    }

    /// Waits until the eight bytes at `address`, below 2 GiB, are at least `value`.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn wait_for_at_least(&mut self, address: u64, value: i32) -> Emit {
        let mut wait = self.create_label();
        self.place(&mut wait)?;
        self.pause()?;
        self.cmp(qword_ptr(address), value)?;
        self.jb(wait)
    }
}
