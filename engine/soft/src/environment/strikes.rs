//! When a page stops being one of code.
//!
//! With a single processor, writes to a page that code was decoded from take the slow way, so that they need not look for
//! code after each store. Systems use such a page for data later. Then, after a few writes, its code is forgotten, and the
//! page is one of data again; code that still is used there is decoded anew.

use crate::code_page::CodePage;

/// How many accesses that may write make a page one of data. A write that translated code asks about is two.
const LIMIT: u32 = 4;

/// How many pages are counted at a time.
const PAGES: usize = 16;

/// Accesses that may write to pages with code, since the page was last forgotten.
#[derive(Debug)]
pub struct Strikes {
    counts: [(*const CodePage, u32); PAGES],
}

// SAFETY: the pointers are only compared.
unsafe impl Send for Strikes {}

impl Default for Strikes {
    fn default() -> Self {
        Self { counts: [(std::ptr::null(), 0); PAGES] }
    }
}

impl Strikes {
    /// Counts an access. Says whether the page's code is to be forgotten now.
    pub fn strike(&mut self, page: *const CodePage) -> bool {
        let (known, count) = &mut self.counts[page as usize / size_of::<CodePage>() % PAGES];
        if *known != page {
            (*known, *count) = (page, 0);
        }
        *count = (*count + 1) % LIMIT;
        *count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_forgotten_after_some_writes_and_counted_anew() {
        let (page, other) = (CodePage::new(), CodePage::new());
        let mut strikes = Strikes::default();
        let mut forgotten = |page: &CodePage| strikes.strike(page);
        assert!((1..LIMIT).all(|_| !forgotten(&page)));
        assert!(forgotten(&page));
        assert!(!forgotten(&page) && !forgotten(&other));
    }
}
