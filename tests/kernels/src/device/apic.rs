//! The local APIC and the IO-APIC (SDM volume 3, chapter 11; 82093AA data sheet).

use iced_x86::code_asm::*;

use crate::guest::Emit;
use crate::long::Long;
use tern_chipset::layout::{IO_APIC, LOCAL_APIC};

/// Register: task priority.
pub const TPR: u16 = 0x80;
/// Register: processor priority.
pub const PPR: u16 = 0xa0;
/// Register: end of interrupt.
pub const EOI: u16 = 0xb0;
/// Register: spurious-interrupt vector and enabling.
pub const SVR: u16 = 0xf0;
/// Register: interrupt command, low half.
pub const ICR: u16 = 0x300;
/// Register: interrupt command, high half.
pub const ICR_HIGH: u16 = 0x310;
/// Register: LVT entry of the timer.
pub const LVT_TIMER: u16 = 0x320;
/// Register: the timer's initial count.
pub const INITIAL_COUNT: u16 = 0x380;
/// Register: the timer's current count.
pub const CURRENT_COUNT: u16 = 0x390;
/// Register: the timer's divider.
pub const DIVIDE: u16 = 0x3e0;
/// x2APIC register: interrupt to oneself.
pub const SELF_IPI: u16 = 0x3f0;

/// LVT and IO-APIC entries: masked.
pub const MASKED: u32 = 1 << 16;
/// LVT entry of the timer: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// LVT entry of the timer: TSC deadline.
pub const TSC_DEADLINE: u32 = 1 << 18;
/// ICR: asserted, to oneself, with fixed delivery.
pub const TO_SELF: u32 = 1 << 14 | 1 << 18;
/// ICR: asserted, to all but oneself, with fixed delivery.
pub const TO_OTHERS: u32 = 1 << 14 | 3 << 18;
/// ICR: the delivery mode is NMI.
pub const NMI: u32 = 4 << 8;
/// IO-APIC entry: level-triggered.
pub const LEVEL: u32 = 1 << 15;

/// IA32_APIC_BASE.
pub const BASE_MSR: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE_MSR: u32 = 0x6e0;

/// The vector of spurious interrupts.
const SPURIOUS: u32 = 0xff;

/// Enables it by software.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn enable(g: &mut Long) -> Emit {
    write(g, SVR, 1 << 8 | SPURIOUS)
}

/// Writes a register in xAPIC mode. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write(g: &mut Long, register: u16, value: u32) -> Emit {
    g.mov(eax, LOCAL_APIC as u32 + u32::from(register))?;
    g.mov(dword_ptr(rax), value)
}

/// Reads a register in xAPIC mode into EAX.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn read(g: &mut Long, register: u16) -> Emit {
    g.mov(eax, LOCAL_APIC as u32 + u32::from(register))?;
    g.mov(eax, dword_ptr(rax))
}

/// Switches to x2APIC mode. RAX, RCX and RDX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn enter_x2apic(g: &mut Long) -> Emit {
    g.mov(ecx, BASE_MSR)?;
    g.rdmsr()?;
    g.or(eax, 1 << 10)?;
    g.wrmsr()
}

/// Writes a register in x2APIC mode. RAX, RCX and RDX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write_x2(g: &mut Long, register: u16, value: u32) -> Emit {
    g.mov(ecx, 0x800 + u32::from(register >> 4))?;
    g.mov(eax, value)?;
    g.xor(edx, edx)?;
    g.wrmsr()
}

/// Ends an interrupt in xAPIC mode, leaving all registers as they are.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn end_of_interrupt(g: &mut Long) -> Emit {
    g.push(rax)?;
    write(g, EOI, 0)?;
    g.pop(rax)
}

/// Writes the redirection of an IO-APIC pin: `low` has vector, modes and mask; it goes to the processor with APIC ID
/// `target`. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn redirect(g: &mut Long, pin: u8, low: u32, target: u8) -> Emit {
    const REDIRECTION: u32 = 0x10;
    let first = REDIRECTION + 2 * u32::from(pin);
    for (register, value) in [(first + 1, u32::from(target) << 24), (first, low)] {
        g.mov(eax, IO_APIC.start as u32)?;
        g.mov(dword_ptr(rax), register)?;
        g.mov(dword_ptr(rax + 0x10), value)?;
    }
    Ok(())
}
