//! What a kernel finds when it is entered, by protocol.

mod linux;
mod multiboot;
mod pvh;
mod sector;

use iced_x86::code_asm::*;
use tern_test_kernels::guest::{COM1, DEBUG_EXIT, Emit};
use tern_test_kernels::run::DONE;

/// Where kernels note what they find.
const FOUND: u32 = 0x30_0000;

/// Transmits `count` words of four bytes from [`FOUND`] on, each with four bytes of zero, and ends. For 32- and 64-bit
/// code.
fn transmit(a: &mut CodeAssembler, count: u32) -> Emit {
    let (mut word, mut byte) = (a.create_label(), a.create_label());
    a.mov(esp, FOUND - 0x1000)?;
    a.mov(edi, count)?;
    a.mov(esi, FOUND)?;
    a.mov(edx, u32::from(COM1))?;
    a.set_label(&mut word)?;
    if a.bitness() == 64 {
        a.mov(eax, dword_ptr(rsi))?;
    } else {
        a.mov(eax, dword_ptr(esi))?;
    }
    a.mov(ecx, 8)?;
    a.set_label(&mut byte)?;
    a.out(dx, al)?;
    a.shr(eax, 8)?;
    a.dec(ecx)?;
    a.jnz(byte)?;
    a.add(esi, 4)?;
    a.dec(edi)?;
    a.jnz(word)?;
    a.mov(eax, u32::from(DONE))?;
    a.mov(edx, u32::from(DEBUG_EXIT))?;
    a.out(dx, eax)?;
    a.hlt()
}
