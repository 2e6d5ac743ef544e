//! Reporting: words through COM1, and the handlers that tell of exceptions.
//!
//! A caught exception is three words: vector and error code, CR2 of a page fault, distance of RIP from the instructions
//! that were watched. Then the guest goes on where the test said (`variable::CATCH_RIP`).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::*;
use super::{Long, variable};
use crate::expect::vector;
use crate::guest::{COM1, DEBUG_EXIT, Emit, place};
use crate::run::UNEXPECTED;

/// The words of a handler's frame that are kept for tests.
const FRAME_WORDS: u64 = 5;

/// The subroutine that transmits RAX. It leaves all registers and flags as they are.
pub(super) fn record(g: &mut Long) -> Emit {
    let mut label = g.record;
    place(g, &mut label)?;
    g.record = label;
    let mut next = g.create_label();
    g.pushfq()?;
    for register in [rax, rcx, rdx] {
        g.push(register)?;
    }
    g.mov(edx, u32::from(COM1))?;
    g.mov(ecx, 8)?;
    place(g, &mut next)?;
    g.out(dx, al)?;
    g.shr(rax, 8)?;
    g.dec(ecx)?;
    g.jnz(next)?;
    for register in [rdx, rcx, rax] {
        g.pop(register)?;
    }
    g.popfq()?;
    g.ret()
}

/// Says that instructions ended which should have met an exception: three words that no exception has.
pub(super) fn no_exception(g: &mut Long) -> Emit {
    let record = g.record;
    g.mov(qword_ptr(variable::CATCH_RIP), 0)?;
    g.push(rax)?;
    g.mov(rax, u64::MAX)?;
    for _ in 0..3 {
        g.call(record)?;
    }
    g.pop(rax)
}

/// Handlers for all vectors; their labels in order.
pub(super) fn reporting(g: &mut Long) -> Result<Vec<CodeLabel>, IcedError> {
    let mut common = g.create_label();
    let mut labels = Vec::new();
    for vector in 0..=u8::MAX {
        let mut label = g.create_label();
        place(g, &mut label)?;
        if !vector::has_error_code(vector) {
            g.push(0)?;
        }
        g.push(i32::from(vector))?;
        g.jmp(common)?;
        labels.push(label);
    }
    place(g, &mut common)?;
    report_exception(g)?;
    Ok(labels)
}

/// From here on the stack holds vector, error code and the frame.
fn report_exception(g: &mut Long) -> Emit {
    let record = g.record;
    let (mut go_on, mut no_address) = (g.create_label(), g.create_label());
    g.cld()?;
    g.push(rax)?;
    // Above RAX: vector, error code, RIP, CS, RFLAGS, RSP, SS.
    g.mov(rax, qword_ptr(rsp + 16))?;
    g.shl(rax, 32)?;
    g.or(rax, qword_ptr(rsp + 8))?;
    g.call(record)?;
    g.xor(eax, eax)?;
    g.cmp(qword_ptr(rsp + 8), i32::from(vector::PF))?;
    g.jne(no_address)?;
    g.mov(rax, cr2)?;
    place(g, &mut no_address)?;
    g.call(record)?;
    g.mov(rax, qword_ptr(rsp + 24))?;
    g.cmp(qword_ptr(variable::CATCH_RIP), 0)?;
    g.jne(go_on)?;
    g.call(record)?;
    g.mov(eax, u32::from(UNEXPECTED))?;
    g.mov(edx, u32::from(DEBUG_EXIT))?;
    g.out(dx, eax)?;
    g.hlt()?;

    place(g, &mut go_on)?;
    // User code has the same low half of its address.
    g.sub(eax, dword_ptr(variable::CATCH_START))?;
    g.call(record)?;
    for n in 0..FRAME_WORDS {
        g.mov(rax, qword_ptr(rsp + (24 + 8 * n)))?;
        g.mov(qword_ptr(variable::FRAME + 8 * n), rax)?;
    }
    g.lea(rax, ptr(rsp + 24))?;
    g.mov(qword_ptr(variable::FRAME + 8 * FRAME_WORDS), rax)?;
    g.mov(rax, qword_ptr(variable::CATCH_RIP))?;
    g.mov(qword_ptr(rsp + 24), rax)?;
    g.mov(qword_ptr(rsp + 32), i32::from(CODE_SELECTOR))?;
    g.mov(qword_ptr(rsp + 40), 2)?;
    g.mov(rax, qword_ptr(variable::CATCH_RSP))?;
    g.mov(qword_ptr(rsp + 48), rax)?;
    g.mov(qword_ptr(rsp + 56), i32::from(DATA_SELECTOR))?;
    g.mov(qword_ptr(variable::CATCH_RIP), 0)?;
    g.pop(rax)?;
    g.add(rsp, 16)?;
    g.iretq()
}
