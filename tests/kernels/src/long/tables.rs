//! The tables of the 64-bit environment: descriptors, interrupt gates, TSS, page tables.

use super::layout::*;
use crate::guest::Memory;

/// Page-table entry: present.
pub const P: u64 = 1 << 0;
/// Page-table entry: writable.
pub const RW: u64 = 1 << 1;
/// Page-table entry: for user mode.
pub const US: u64 = 1 << 2;
/// Page-table entry: accessed.
pub const A: u64 = 1 << 5;
/// Page-table entry: dirty.
pub const D: u64 = 1 << 6;
/// Page-table entry: a large page.
pub const PS: u64 = 1 << 7;
/// Page-table entry: global.
pub const G: u64 = 1 << 8;
/// Page-table entry: no execution.
pub const NX: u64 = 1 << 63;

/// An interrupt gate.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// The handler's address.
    pub offset: u64,
    /// Entry of the interrupt stack table, or 0.
    pub ist: u8,
    /// The level that may use it by INT.
    pub dpl: u8,
    /// Interrupts stay as they are.
    pub trap: bool,
}

impl Gate {
    /// The descriptor's two words.
    fn words(self) -> [u64; 2] {
        let kind = if self.trap { 0xf } else { 0xe };
        let attributes = u64::from(self.ist) | (0x80 | u64::from(self.dpl) << 5 | kind) << 8;
        let low = self.offset & 0xffff | (self.offset >> 16 & 0xffff) << 48;
        [low | u64::from(CODE_SELECTOR) << 16 | attributes << 32, self.offset >> 32]
    }
}

pub(super) fn put_descriptors(memory: &mut Memory) {
    let tss_low = u64::from(TSS_LIMIT) | (TSS & 0xff_ffff) << 16 | 0x89 << 40 | (TSS >> 24) << 56;
    let code_64 = |access: u64| 0x0020_0000_0000_0000 | access << 40;
    let code_32 = |access: u64| 0x00cf_0000_0000_ffff | access << 40;
    memory.put_words(
        GDT,
        &[
            0,
            code_64(0x9b),
            code_32(0x93),
            code_32(0xfb),
            code_32(0xf3),
            code_64(0xfb),
            tss_low,
            0,
            code_32(0x9b),
        ],
    );
    let pointer = |limit: u16, base: u64| {
        let mut bytes = limit.to_le_bytes().to_vec();
        bytes.extend(base.to_le_bytes());
        bytes
    };
    memory.put(variable::GDT_POINTER, pointer(GDT_LIMIT, GDT));
    memory.put(variable::IDT_POINTER, pointer(0xfff, IDT));

    let mut tss = vec![0; usize::from(TSS_LIMIT) + 1];
    tss[4..12].copy_from_slice(&RSP0.to_le_bytes());
    for (n, top) in IST.iter().enumerate() {
        tss[36 + 8 * n..44 + 8 * n].copy_from_slice(&top.to_le_bytes());
    }
    tss[102..104].copy_from_slice(&(TSS_LIMIT + 1).to_le_bytes());
    memory.put(TSS, tss);
    memory.put_words(variable::USER_STACK, &[USER_STACK, USER]);
}

pub(super) fn put_gates(memory: &mut Memory, gates: &[Gate]) {
    memory.put_words(IDT, &gates.iter().flat_map(|gate| gate.words()).collect::<Vec<_>>());
}

pub(super) fn put_page_tables(memory: &mut Memory) {
    let table = P | RW | US;
    let top = |linear: u64| PML4 + (linear >> 39) * 8;
    memory.put_words(top(0), &[IDENTITY_POINTERS | table]);
    memory.put_words(top(WINDOW), &[WINDOW_POINTERS | table]);
    memory.put_words(top(USER), &[USER_POINTERS | table]);
    let directories: Vec<u64> = (0..4).map(|n| (IDENTITY_DIRECTORIES + n * 0x1000) | table).collect();
    memory.put_words(IDENTITY_POINTERS, &directories);
    let large = |rights: u64, count: u64| (0..count).map(|n| n << 21 | PS | rights).collect::<Vec<_>>();
    memory.put_words(IDENTITY_DIRECTORIES, &large(P | RW, 4 * 512));
    memory.put_words(WINDOW_POINTERS, &[WINDOW_DIRECTORY | table]);
    memory.put_words(WINDOW_DIRECTORY, &[WINDOW_TABLE | table]);
    memory.put_words(USER_POINTERS, &[USER_DIRECTORY | table]);
    memory.put_words(USER_DIRECTORY, &large(P | RW | US, 512));
}
