//! The software TLB: from linear pages to host addresses, one direct-mapped table per kind of access.
//!
//! One subtraction and one comparison answer both "is it this page" and "does it stay inside the page": an access of
//! `size` bytes hits if `linear - tag <= 4096 - size`, unsigned.

use crate::ram::{CodePage, PAGE};

/// Entries of each table.
const ENTRIES: usize = 256;

/// Who accesses memory: each has its own table, so that changes of privilege keep all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum View {
    /// Privilege level 3.
    User = 0,
    /// Levels 0 to 2, user pages closed where SMAP says so.
    Supervisor = 1,
    /// Levels 0 to 2 with RFLAGS.AC set, which opens user pages despite SMAP.
    SupervisorAc = 2,
    /// Privilege level 3 where every access must be aligned. It finds nothing here, so that all take the way that checks.
    AlignedUser = 3,
}

/// The views whose translations are remembered come first.
const REMEMBERED: usize = 3;

/// One translation.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub struct Entry {
    /// The linear page if it may be read.
    read_tag: u64,
    /// The linear page if it may be written and its Dirty bit is set.
    write_tag: u64,
    /// Host address minus linear address.
    addend: u64,
    /// Where writers look for decoded code.
    code: *const CodePage,
}

/// Where an access hits.
#[derive(Debug, Clone, Copy)]
pub struct Hit {
    /// Host address of the first byte.
    pub host: u64,
    /// Where writers look for decoded code.
    pub code: *const CodePage,
}

/// The tables of one processor.
#[derive(Debug)]
pub struct Tlb {
    tables: Box<[[Entry; ENTRIES]; 4]>,
}

// SAFETY: the pointers lead to the machine's `Ram`, which the owning environment keeps alive and which any thread may read.
unsafe impl Send for Tlb {}

/// A tag that no access which looks at entry `index` can match: that of its neighbour.
const fn never(index: usize) -> u64 {
    ((index ^ 1) as u64) * PAGE
}

const fn index(linear: u64) -> usize {
    (linear / PAGE) as usize % ENTRIES
}

fn forget(table: &mut [Entry; ENTRIES]) {
    for (n, entry) in table.iter_mut().enumerate() {
        entry.read_tag = never(n);
        entry.write_tag = never(n);
    }
}

impl Tlb {
    /// Empty tables.
    pub fn new() -> Self {
        let nothing = Entry { read_tag: 0, write_tag: 0, addend: 0, code: std::ptr::null() };
        let mut tlb = Self { tables: Box::new([[nothing; ENTRIES]; 4]) };
        tlb.tables.iter_mut().for_each(forget);
        tlb
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.tables[..REMEMBERED].iter_mut().for_each(forget);
    }

    /// Forgets the page at `linear`.
    pub fn flush_page(&mut self, linear: u64) {
        let n = index(linear);
        for table in &mut self.tables[..REMEMBERED] {
            table[n].read_tag = never(n);
            table[n].write_tag = never(n);
        }
    }

    /// Where a read of `size` bytes hits.
    #[inline(always)]
    pub fn read(&self, view: View, linear: u64, size: u64) -> Option<u64> {
        let entry = &self.tables[view as usize][index(linear)];
        (linear.wrapping_sub(entry.read_tag) <= PAGE - size).then(|| linear.wrapping_add(entry.addend))
    }

    /// Where a write of `size` bytes hits.
    #[inline(always)]
    pub fn write(&self, view: View, linear: u64, size: u64) -> Option<Hit> {
        let entry = &self.tables[view as usize][index(linear)];
        (linear.wrapping_sub(entry.write_tag) <= PAGE - size)
            .then(|| Hit { host: linear.wrapping_add(entry.addend), code: entry.code })
    }

    /// Remembers that the page at `linear` lies at `host`, and what may be done to it.
    pub fn insert(
        &mut self,
        view: View,
        linear: u64,
        host: u64,
        code: *const CodePage,
        read: bool,
        write: bool,
    ) {
        let n = index(linear);
        let page = linear & !(PAGE - 1);
        self.tables[view as usize][n] = Entry {
            read_tag: if read { page } else { never(n) },
            write_tag: if write { page } else { never(n) },
            addend: host.wrapping_sub(page),
            code,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_entry_matches_nothing() {
        let tlb = Tlb::new();
        for page in [0, 1, 2, 255, 256, 257, 1 << 51, (1 << 52) - 1] {
            for offset in [0, 1, 4095] {
                assert_eq!(tlb.read(View::User, page * PAGE + offset, 1), None);
            }
        }
    }

    #[test]
    fn accesses_that_leave_the_page_miss() {
        let mut tlb = Tlb::new();
        tlb.insert(View::User, 0x5000, 0x10_0000, std::ptr::null(), true, false);
        assert_eq!(tlb.read(View::User, 0x5ff8, 8), Some(0x10_0ff8));
        assert_eq!(tlb.read(View::User, 0x5ff9, 8), None);
        assert_eq!(tlb.read(View::Supervisor, 0x5000, 8), None);
        assert!(tlb.write(View::User, 0x5000, 1).is_none());
        tlb.flush_page(0x5123);
        assert_eq!(tlb.read(View::User, 0x5000, 1), None);
    }
}
