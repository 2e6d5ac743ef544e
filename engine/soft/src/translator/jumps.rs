//! Where indirect jumps, returns and jumps to other pages find translated code: by the linear instruction pointer.
//!
//! Each instruction pointer has its entry, and another beside that for what it drives out: two that are used in turn, and share the
//! entry by chance, would else be looked for every time. Code looks at the entry, and what it then calls at the other one.
//!
//! An entry is valid as long as no translation of an address has changed and no code was written; then the whole table is
//! forgotten.

use super::returns::ReturnCache;

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
    /// Where returns look first.
    pub returns: ReturnCache,
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

    /// What the first two entries hold when they are empty, as all others hold zero: an instruction pointer that no jump that looks
    /// there can have.
    const NEVER: u64 = {
        assert!(ENTRIES.is_power_of_two() && Self::index(0) == 0 && Self::index(1) > 1);
        1
    };

    /// Makes a table of zeroes an empty one.
    pub const fn make_empty(&mut self) {
        self.rips[0] = Self::NEVER;
        self.rips[beside(0)] = Self::NEVER;
    }

    fn put(&mut self, entry: usize, rip: u64, code: *const u8) {
        self.rips[entry] = rip;
        self.code[entry] = code;
        if let Some(used) = self.used.get_mut(self.count) {
            *used = entry as u32;
        }
        self.count += 1;
    }
}

/// What makes an entry's number that of the one beside it.
pub const BESIDE: usize = 1;

const fn beside(entry: usize) -> usize {
    entry ^ BESIDE
}

impl<const ENTRIES: usize> Jumps for JumpTable<ENTRIES> {
    #[inline]
    fn find(&self, rip: u64) -> Option<*const u8> {
        let entry = Self::index(rip);
        [entry, beside(entry)]
            .into_iter()
            .find(|&entry| self.rips[entry] == rip)
            .map(|entry| self.code[entry])
    }

    fn insert(&mut self, rip: u64, code: *const u8) {
        let entry = Self::index(rip);
        let (other, its_code) = (self.rips[entry], self.code[entry]);
        if other != rip && Self::index(other) == entry {
            self.put(beside(entry), other, its_code);
        } else if self.rips[beside(entry)] == rip {
            self.code[beside(entry)] = code;
        }
        self.put(entry, rip, code);
    }

    fn forget(&mut self) {
        match self.used.get(..std::mem::take(&mut self.count)) {
            Some(used) => used.iter().for_each(|entry| self.rips[*entry as usize] = 0),
            None => self.rips.fill(0),
        }
        self.make_empty();
        self.returns.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = JumpTable<1024>;

    fn empty() -> Box<Table> {
        // SAFETY: all-zero bytes are a table of zeroes.
        let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
        table.make_empty();
        table
    }

    #[test]
    fn an_empty_entry_matches_no_jump_that_looks_there() {
        let mut table = empty();
        table.insert(0x1234, std::ptr::null());
        assert!(table.find(0x1234).is_some());
        table.forget();
        let is_empty = |table: &Table| {
            (0..1024).all(|entry| {
                let looks_at = Table::index(table.rips[entry]);
                looks_at != entry && looks_at != beside(entry)
            })
        };
        assert!(is_empty(&table));
        assert!(table.find(0).is_none() && table.find(1).is_none());
        (0..5000).for_each(|n| table.insert(16 * n, std::ptr::null()));
        table.forget();
        assert!(is_empty(&table));
        // Instruction pointers that look at the first two entries.
        (0..1 << 20).filter(|&rip| Table::index(rip) < 2).for_each(|rip| table.insert(rip, std::ptr::null()));
        table.forget();
        assert!(is_empty(&table));
    }

    #[test]
    fn two_that_share_an_entry_are_both_known() {
        let mut table = empty();
        let mut of_entry = (0..).filter(|&rip| Table::index(rip) == 77);
        let rips: [u64; 3] = std::array::from_fn(|_| of_entry.next().unwrap());
        let code = rips.map(|rip| rip as *const u8);
        for n in [0, 1] {
            table.insert(rips[n], code[n]);
        }
        assert_eq!([0, 1].map(|n| table.find(rips[n])), [Some(code[0]), Some(code[1])]);
        // The same again drives nothing out; a third one does.
        table.insert(rips[1], code[1]);
        assert_eq!(table.find(rips[0]), Some(code[0]));
        table.insert(rips[2], code[2]);
        assert_eq!([0, 1, 2].map(|n| table.find(rips[n])), [None, Some(code[1]), Some(code[2])]);
        table.forget();
        assert!(rips.iter().all(|&rip| table.find(rip).is_none()));
    }
}
