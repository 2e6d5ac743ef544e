//! Where indirect jumps, returns and jumps to other pages find translated code: by the linear instruction pointer.
//!
//! An entry is valid as long as no translation of an address has changed and no code was written; then the whole table is
//! forgotten.

/// Entries of a table, as a power of two.
const BITS: u32 = 12;
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
    is_empty: bool,
}

const fn index(rip: u64) -> usize {
    ((rip as u32).wrapping_mul(MULTIPLIER) >> SHIFT) as usize
}

/// An instruction pointer that no jump that looks at entry `index` can have: it has another entry.
const fn never(entry: usize) -> u64 {
    (entry == index(0)) as u64
}

const _: () = assert!(index(0) != index(1));

impl JumpTable {
    /// An empty table.
    pub const fn new() -> Self {
        let mut rips = [0; ENTRIES];
        rips[index(0)] = never(index(0));
        Self { rips, code: [std::ptr::null(); ENTRIES], is_empty: true }
    }

    /// Where the code for `rip` is, if that is known.
    #[inline]
    pub fn find(&self, rip: u64) -> Option<*const u8> {
        let entry = index(rip);
        (self.rips[entry] == rip).then(|| self.code[entry])
    }

    /// Remembers where the code for `rip` is.
    pub fn insert(&mut self, rip: u64, code: *const u8) {
        let entry = index(rip);
        self.rips[entry] = rip;
        self.code[entry] = code;
        self.is_empty = false;
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        if !std::mem::replace(&mut self.is_empty, true) {
            self.rips.fill(0);
            self.rips[index(0)] = never(index(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_entry_matches_no_jump_that_looks_there() {
        let mut table = JumpTable::new();
        table.insert(0x1234, std::ptr::null());
        assert_eq!(table.rips[index(0x1234)], 0x1234);
        table.forget();
        assert!((0..ENTRIES).all(|entry| index(table.rips[entry]) != entry));
    }
}
