//! Reporting in protected mode; see [`crate::long`] for what is reported.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::*;
use super::{Protected, variable};
use crate::expect::vector;
use crate::guest::{COM1, DEBUG_EXIT, Emit};
use crate::run::UNEXPECTED;
use crate::text::Mark;

/// The words of a handler's frame that are kept for tests.
const FRAME_WORDS: u32 = 9;

/// The subroutine that transmits EAX. It leaves all registers and flags as they are.
pub(super) fn record(g: &mut Protected) -> Emit {
    let (record, again) = (g.record, g.mark());
    g.place(record)?;
    g.pushfd()?;
    for register in [eax, ecx, edx] {
        g.push(register)?;
    }
    g.mov(edx, u32::from(COM1))?;
    g.mov(ecx, 4)?;
    g.place(again)?;
    g.out(dx, al)?;
    g.shr(eax, 8)?;
    g.dec(ecx)?;
    g.jnz(again.label)?;
    for register in [edx, ecx, eax] {
        g.pop(register)?;
    }
    g.popfd()?;
    g.ret()
}

/// Says that instructions ended which should have met an exception: three words that no exception has.
pub(super) fn no_exception(g: &mut Protected) -> Emit {
    let record = g.record.label;
    g.mov(dword_ptr(variable::CATCH_EIP), 0)?;
    g.push(eax)?;
    g.mov(eax, u32::MAX)?;
    for _ in 0..6 {
        g.call(record)?;
    }
    g.pop(eax)
}

/// Handlers for all vectors; their marks in order.
pub(super) fn reporting(g: &mut Protected) -> Result<Vec<Mark>, IcedError> {
    let common = g.mark();
    let mut marks = Vec::new();
    for vector in 0..=u8::MAX {
        let mark = g.mark();
        g.place(mark)?;
        if !vector::has_error_code(vector) {
            g.push(0)?;
        }
        g.push(i32::from(vector))?;
        g.jmp(common.label)?;
        marks.push(mark);
    }
    g.place(common)?;
    report_exception(g)?;
    Ok(marks)
}

/// From here on the stack holds vector, error code and the frame.
fn report_exception(g: &mut Protected) -> Emit {
    let record = g.record.label;
    let (no_address, go_on) = (g.mark(), g.mark());
    g.cld()?;
    g.push(eax)?;
    g.mov(eax, u32::from(DATA_SELECTOR))?;
    g.mov(ds, eax)?;
    // Above EAX: vector, error code, EIP, CS, EFLAGS, and from elsewhere ESP, SS and more.
    for offset in [4, 8] {
        g.mov(eax, dword_ptr(esp + offset))?;
        g.call(record)?;
    }
    g.xor(eax, eax)?;
    g.cmp(dword_ptr(esp + 4), i32::from(vector::PF))?;
    g.jne(no_address.label)?;
    g.mov(eax, cr2)?;
    g.place(no_address)?;
    g.call(record)?;
    g.xor(eax, eax)?;
    g.call(record)?;
    g.mov(eax, dword_ptr(esp + 12))?;
    g.cmp(dword_ptr(variable::CATCH_EIP), 0)?;
    g.jne(go_on.label)?;
    g.call(record)?;
    g.xor(eax, eax)?;
    g.call(record)?;
    g.mov(eax, u32::from(UNEXPECTED))?;
    g.mov(edx, u32::from(DEBUG_EXIT))?;
    g.out(dx, eax)?;
    g.hlt()?;

    g.place(go_on)?;
    g.sub(eax, dword_ptr(variable::CATCH_START))?;
    g.call(record)?;
    g.xor(eax, eax)?;
    g.call(record)?;
    for n in 0..FRAME_WORDS {
        g.mov(eax, dword_ptr(esp + (12 + 4 * n)))?;
        g.mov(dword_ptr(variable::FRAME + 4 * n), eax)?;
    }
    g.pop(dword_ptr(variable::SAVED_EAX))?;
    g.mov(eax, u32::from(DATA_SELECTOR))?;
    for register in [es, ss] {
        g.mov(register, eax)?;
    }
    g.mov(esp, dword_ptr(variable::CATCH_ESP))?;
    g.push(dword_ptr(variable::CATCH_EIP))?;
    g.mov(dword_ptr(variable::CATCH_EIP), 0)?;
    g.push(2)?;
    g.popfd()?;
    g.mov(eax, dword_ptr(variable::SAVED_EAX))?;
    g.ret()
}
