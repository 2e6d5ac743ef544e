//! From the PVH entry to the test's first instruction, and the end behind its last.

use iced_x86::code_asm::*;

use super::layout::*;
use super::{Long, variable};
use crate::guest::{DEBUG_EXIT, Emit};
use crate::run::DONE;

/// CR0: PG, WP, NE, MP, PE. ET is always set.
const CR0: u32 = 0x8001_0033;
/// CR4: OSXMMEXCPT, OSFXSR, PAE.
const CR4: u32 = 0x620;
/// EFER: NXE, LME, SCE.
const EFER: u32 = 0x901;
const EFER_MSR: u32 = 0xc000_0080;

/// The 32-bit instructions at [`START`], for the first processor and for further ones.
pub(super) fn switch_to_long_mode() -> Vec<u8> {
    let write = || {
        let mut a = CodeAssembler::new(32)?;
        a.mov(eax, CR4)?;
        a.mov(cr4, eax)?;
        a.mov(eax, PML4 as u32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, EFER_MSR)?;
        a.mov(eax, EFER)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, CR0)?;
        a.mov(cr0, eax)?;
        a.lgdt(ptr(variable::GDT_POINTER as u32))?;
        a.jmp_far(CODE_SELECTOR, CODE as u32)?;
        a.assemble(START)
    };
    write().expect("the instructions can be encoded")
}

/// The 64-bit instructions before the test's. Processors other than the first go to `others`.
pub(super) fn first_instructions(g: &mut Long, others: CodeLabel) -> Emit {
    g.mov(eax, u32::from(DATA_SELECTOR))?;
    for register in [ds, es, ss, fs, gs] {
        g.mov(register, eax)?;
    }
    g.lidt(ptr(variable::IDT_POINTER))?;
    g.mov(eax, 1)?;
    g.cpuid()?;
    g.shr(ebx, 24)?;
    g.mov(edi, ebx)?;
    g.jnz(others)?;
    g.mov(esp, STACK as u32)?;
    g.mov(eax, u32::from(TSS_SELECTOR))?;
    g.ltr(ax)?;
    g.fninit()
}

/// The end of a guest that did what it should.
pub(super) fn done(g: &mut Long) -> Emit {
    g.mov(eax, u32::from(DONE))?;
    g.mov(edx, u32::from(DEBUG_EXIT))?;
    g.out(dx, eax)?;
    g.hlt()
}
