//! Where indirect jumps, returns and jumps to other pages find translated code: by the linear instruction pointer.
//!
//! An entry is valid as long as no translation of an address has changed and no code was written; then the whole table is
//! forgotten. An empty entry has the instruction pointer 0 and leads to code that gives control back, so that it needs no
//! flag of its own.

/// Entries of a table, as a power of two.
const BITS: u32 = 10;
/// Entries of a table.
pub const ENTRIES: usize = 1 << BITS;

/// What the instruction pointer's low half is multiplied with; the product's upper bits choose the entry.
pub const MULTIPLIER: u32 = 0x9e37_79b1;
/// How far the product is shifted.
pub const SHIFT: u8 = (32 - BITS) as u8;

/// From instruction pointers to translated code.
#[derive(Debug)]
#[repr(C)]
pub struct JumpTable {
    /// The instruction pointers.
    pub rips: [u64; ENTRIES],
    /// The code for them.
    pub code: [*const u8; ENTRIES],
    empty: *const u8,
    is_empty: bool,
}

impl JumpTable {
    /// An empty table, whose entries lead to `empty`.
    pub const fn new(empty: *const u8) -> Self {
        Self { rips: [0; ENTRIES], code: [empty; ENTRIES], empty, is_empty: true }
    }

    /// Remembers where the code for `rip` is.
    pub fn insert(&mut self, rip: u64, code: *const u8) {
        let entry = ((rip as u32).wrapping_mul(MULTIPLIER) >> SHIFT) as usize;
        self.rips[entry] = rip;
        self.code[entry] = code;
        self.is_empty = false;
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        if !std::mem::replace(&mut self.is_empty, true) {
            self.rips.fill(0);
            self.code.fill(self.empty);
        }
    }
}
