//! Where indirect jumps, returns and jumps to other pages find translated code: by the linear instruction pointer.
//!
//! An entry is valid as long as no translation of an address has changed and no code was written; then the whole table is
//! forgotten.

/// What the instruction pointer's low half is multiplied with; the product's upper bits choose the entry.
pub const MULTIPLIER: u32 = 0x9e37_79b1;

/// From instruction pointers to translated code.
#[derive(Debug)]
#[repr(C)]
pub struct JumpTable<const ENTRIES: usize> {
    /// The instruction pointers.
    pub rips: [u64; ENTRIES],
    /// The code for them.
    pub code: [*const u8; ENTRIES],
    /// The entries that are in use, if there are not too many.
    used: [u32; LISTED],
    count: usize,
}

/// So many entries in use are forgotten one by one.
const LISTED: usize = 256;

/// A table of any size.
pub trait Jumps {
    /// Where the code for `rip` is, if that is known.
    fn find(&self, rip: u64) -> Option<*const u8>;
    /// Remembers where the code for `rip` is.
    fn insert(&mut self, rip: u64, code: *const u8);
    /// Forgets everything.
    fn forget(&mut self);
}

impl<const ENTRIES: usize> JumpTable<ENTRIES> {
    /// How far an instruction pointer's product is shifted.
    pub const SHIFT: u8 = 32 - ENTRIES.trailing_zeros() as u8;

    const fn index(rip: u64) -> usize {
        ((rip as u32).wrapping_mul(MULTIPLIER) >> Self::SHIFT) as usize
    }

    /// An instruction pointer that no jump that looks at the first entry can have. Zero is one for all other entries.
    const NEVER: u64 = {
        assert!(ENTRIES.is_power_of_two() && Self::index(0) == 0 && Self::index(1) != 0);
        1
    };

    /// Makes a table of zeroes an empty one.
    pub const fn make_empty(&mut self) {
        self.rips[0] = Self::NEVER;
    }
}

impl<const ENTRIES: usize> Jumps for JumpTable<ENTRIES> {
    #[inline]
    fn find(&self, rip: u64) -> Option<*const u8> {
        let entry = Self::index(rip);
        (self.rips[entry] == rip).then(|| self.code[entry])
    }

    fn insert(&mut self, rip: u64, code: *const u8) {
        let entry = Self::index(rip);
        self.rips[entry] = rip;
        self.code[entry] = code;
        if let Some(used) = self.used.get_mut(self.count) {
            *used = entry as u32;
        }
        self.count += 1;
    }

    fn forget(&mut self) {
        match self.used.get(..std::mem::take(&mut self.count)) {
            Some(used) => used.iter().for_each(|entry| self.rips[*entry as usize] = 0),
            None => self.rips.fill(0),
        }
        self.rips[0] = Self::NEVER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_entry_matches_no_jump_that_looks_there() {
        type Table = JumpTable<1024>;
        let mut table =
            Box::new(Table { rips: [0; 1024], code: [std::ptr::null(); 1024], used: [0; LISTED], count: 0 });
        table.make_empty();
        table.insert(0x1234, std::ptr::null());
        assert!(table.find(0x1234).is_some());
        table.forget();
        assert!((0..1024).all(|entry| Table::index(table.rips[entry]) != entry));
        (0..5000).for_each(|n| table.insert(16 * n, std::ptr::null()));
        table.forget();
        assert!((0..1024).all(|entry| Table::index(table.rips[entry]) != entry));
    }
}
