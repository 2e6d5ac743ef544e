//! Paging of 32-bit code: two levels with 4 KiB and 4 MiB pages, and three with 8-byte entries.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::page_fault;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::protected::{DATA, Protected, protected};

pub const P: u32 = 1;
pub const RW: u32 = 2;
const US: u32 = 4;
const A: u32 = 0x20;
const D: u32 = 0x40;
pub const PS: u32 = 0x80;
/// CR4.
pub const PSE: u32 = 1 << 4;
const PAE: u32 = 1 << 5;
/// CR0.
const PG: u32 = 1 << 31;
const WP: u32 = 1 << 16;
/// What the tests map.
const WINDOW: u32 = 0x4000_0000;
/// Tables and frames, in the test's memory.
const ROOT: u32 = DATA;
const DIRECTORY: u32 = DATA + 0x1000;
const TABLE: u32 = DATA + 0x2000;
const FRAME: u32 = DATA + 0x8000;

/// Enables paging by the tables at `root`, with these features in CR4.
pub fn enable(g: &mut Protected, root: u32, features: u32) -> Emit {
    g.mov(eax, features)?;
    g.mov(cr4, eax)?;
    g.mov(eax, root)?;
    g.mov(cr3, eax)?;
    g.mov(eax, cr0)?;
    g.or(eax, PG | WP)?;
    g.mov(cr0, eax)
}

#[test]
fn two_levels_lead_to_pages_of_4_kib_and_4_mib() {
    protected(|g| {
        // The first 8 MiB are mapped to themselves; the window has one small and one large page.
        for (index, entry) in [
            (0, P | RW | US | PS),
            (1, 0x40_0000 | P | RW | PS),
            (WINDOW >> 22, TABLE | P | RW | US),
            ((WINDOW >> 22) + 1, P | RW | PS),
        ] {
            g.put(ROOT + 4 * index, entry.to_le_bytes());
        }
        g.put(TABLE + 4, (FRAME | P | RW).to_le_bytes());
        g.put(TABLE + 8, (FRAME | P | US).to_le_bytes());
        enable(g, ROOT, PSE)?;
        g.mov(dword_ptr(WINDOW + 0x1010), 5)?;
        g.expect_memory(FRAME + 0x10, 5)?;
        g.expect_memory(WINDOW + 0x40_0000 + FRAME + 0x10, 5)?;
        g.expect_memory(TABLE + 4, FRAME | P | RW | A | D)?;
        g.expect_memory(ROOT + (WINDOW >> 22) * 4, TABLE | P | RW | US | A)?;
        g.expect_fault(page_fault(0, u64::from(WINDOW)), |g| g.mov(eax, dword_ptr(WINDOW)))?;
        g.expect_fault(page_fault(3, u64::from(WINDOW) + 0x2000), |g| {
            g.mov(dword_ptr(WINDOW + 0x2000), eax)
        })?;
        g.expect_user_fault(page_fault(5, u64::from(WINDOW) + 0x1000), 2, |g| {
            g.mov(eax, dword_ptr(WINDOW + 0x1000))
        })?;
        g.expect_user_fault(page_fault(7, u64::from(WINDOW) + 0x2000), 2, |g| {
            g.mov(dword_ptr(WINDOW + 0x2000), eax)
        })?;
        // Paging off again.
        g.mov(eax, cr0)?;
        g.and(eax, !PG)?;
        g.mov(cr0, eax)?;
        g.expect_memory(FRAME + 0x10, 5)
    });
}

#[test]
fn three_levels_lead_to_pages_of_4_kib_and_2_mib() {
    protected(|g| {
        let put =
            |g: &mut Protected, address: u32, entry: u32| g.put(address, u64::from(entry).to_le_bytes());
        put(g, ROOT, DIRECTORY | P);
        put(g, ROOT + 8, (DATA + 0x3000) | P);
        for n in 0..4 {
            put(g, DIRECTORY + 8 * n, n << 21 | P | RW | US | PS);
        }
        put(g, DATA + 0x3000, TABLE | P | RW | US);
        put(g, TABLE + 8, FRAME | P | RW);
        enable(g, ROOT, PAE)?;
        g.mov(dword_ptr(WINDOW + 0x1010), 5)?;
        g.expect_memory(FRAME + 0x10, 5)?;
        g.expect_memory(TABLE + 8, FRAME | P | RW | A | D)?;
        g.expect_fault(page_fault(0, u64::from(WINDOW)), |g| g.mov(eax, dword_ptr(WINDOW)))?;
        // Above the four GiB's second there is nothing.
        g.expect_fault(page_fault(0, 0x8000_0000), |g| g.mov(eax, dword_ptr(0x8000_0000_u32)))
    });
}
