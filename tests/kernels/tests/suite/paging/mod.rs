//! Translation in long mode (APM volume 2, chapter 5).

mod accessed_dirty;
mod hot_addresses;
mod many_pages;
mod rights;
mod sizes;
mod stale;

use iced_x86::code_asm::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::Long;

/// CR0: supervisor writes honour read-only pages.
const WP: u32 = 1 << 16;
/// CR4: global pages.
const PGE: u32 = 1 << 7;
/// CR4: process-context identifiers.
const PCIDE: u32 = 1 << 17;
/// CR4: supervisor-mode execution prevention.
const SMEP: u32 = 1 << 20;
/// CR4: supervisor-mode access prevention.
const SMAP: u32 = 1 << 21;

/// Sets bits of CR4. RAX is lost.
fn set_cr4(g: &mut Long, bits: u32) -> Emit {
    g.mov(rax, cr4)?;
    g.or(eax, bits)?;
    g.mov(cr4, rax)
}

/// Clears bits of CR4. RAX is lost.
fn clear_cr4(g: &mut Long, bits: u32) -> Emit {
    g.mov(rax, cr4)?;
    g.and(eax, !bits)?;
    g.mov(cr4, rax)
}

/// Writes CR3 as it is. RAX is lost.
fn reload_cr3(g: &mut Long) -> Emit {
    g.mov(rax, cr3)?;
    g.mov(cr3, rax)
}

/// Changes eight bytes of memory below 2 GiB. RAX is lost.
fn store(g: &mut Long, address: u64, value: u64) -> Emit {
    g.mov(rax, value)?;
    g.mov(qword_ptr(address), rax)
}
