//! Where translated code is, by the physical address of the guest's code.
//!
//! Jump tables are by linear address and forgotten whenever translations change; then programs jump anew to where others have
//! jumped before, most often in the same libraries. All that must be known for that lies here in half a line of the host's cache,
//! where the way by block takes three lines that are seldom there.

use tern_x86::cpu::Mode;

use crate::blocks::Origin;
use crate::tlb::View;

/// Entries of a cache: two megabytes of host memory, once they are used. A compiler and the kernel below it have some hundred thousand
/// units, of which jumps by table lead to a part.
const ENTRIES: usize = 1 << 16;

/// What a unit was translated from, and for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitKey(u64);

impl UnitKey {
    /// Code at `physical` in this mode, for a view of memory.
    pub fn new(physical: u64, mode: Mode, view: View) -> Self {
        Self(physical << 10 | (view as u64) << 8 | u64::from(mode.bits()))
    }

    const fn index(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ENTRIES.trailing_zeros())) as usize
    }
}

#[repr(align(32))]
struct Entry {
    /// Of translatable code, which never runs in a mode of all zeroes: zero is no key.
    key: UnitKey,
    code: *const u8,
    origin: Origin,
}

/// Units that were asked for.
pub struct UnitCache {
    entries: Box<[Entry; ENTRIES]>,
}

// SAFETY: the code belongs to the same processor's translator, the origins point into `Ram`, which any thread may read.
unsafe impl Send for UnitCache {}

impl UnitCache {
    /// An empty cache.
    pub fn new() -> Self {
        // SAFETY: zeroes are entries without a key, whose pointers nobody follows.
        Self { entries: unsafe { Box::new_zeroed().assume_init() } }
    }

    /// Where the unit begins, if the code is still what it was translated from.
    #[inline]
    pub fn find(&self, key: UnitKey) -> Option<*const u8> {
        let entry = &self.entries[key.index()];
        (entry.key == key && entry.origin.is_current()).then_some(entry.code)
    }

    /// Remembers that the unit of `key`, of code from `origin` alone, begins at `code`.
    pub fn insert(&mut self, key: UnitKey, code: *const u8, origin: Origin) {
        self.entries[key.index()] = Entry { key, code, origin };
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code_page::CodePage;

    #[test]
    fn a_unit_is_found_for_what_it_was_made_for_until_its_page_changes() {
        let page = CodePage::new();
        let origin = |version| Origin::new(&raw const page, version);
        let key = |physical| UnitKey::new(physical, Mode::LONG, View::User);
        let code = std::ptr::without_provenance(0x1000);
        let mut cache = UnitCache::new();
        assert_eq!(cache.find(key(0)), None);
        cache.insert(key(0), code, origin(page.version()));
        assert_eq!(cache.find(key(0)), Some(code));
        assert_eq!(cache.find(UnitKey::new(0, Mode::LONG, View::Supervisor)), None);
        assert_eq!(cache.find(UnitKey::new(0, Mode::LONG | Mode::FLAT, View::User)), None);
        cache.insert(key(0), code, origin(page.version().wrapping_sub(1)));
        assert_eq!(cache.find(key(0)), None, "the page has changed");
        cache.insert(key(1), code, origin(page.version()));
        cache.clear();
        assert_eq!(cache.find(key(1)), None);
    }
}
