//! The software TLB: from linear pages to host pages.
//!
//! One subtraction and one comparison answer both "is it this page" and "does it stay inside the page": an access of
//! `size` bytes hits if `linear - tag <= 4096 - size`, unsigned.
//!
//! There are two levels. The *tables*, one for each kind of access, are indexed by the linear address. A *site* is an entry
//! of its own that an instruction has in code that most of the time is spent in: it remembers the page that the instruction
//! accessed last, so that its address need not be known before the entry can be read. Translated code looks at its site, if
//! it has one, then at the table, and then asks.

use std::mem::offset_of;
use std::ptr::NonNull;

use crate::code_page::CodePage;
use crate::ram::PAGE;

/// Entries of each table, a power of two: 8 MiB. With half of them, loads all over so much take 1.6 times as long.
pub const ENTRIES: usize = 2048;

/// How many sites each view has; translated instructions share them in turn. Level 3's are forgotten at every switch of
/// address spaces.
pub const SITES: [usize; REMEMBERED] = [1024, 4096, 256];

/// The first site of each view.
pub const FIRST_SITE: [usize; REMEMBERED] = [0, SITES[0], SITES[0] + SITES[1]];

/// All sites.
pub const ALL_SITES: usize = SITES[0] + SITES[1] + SITES[2];

/// How many of a view's entries, and of its sites, are forgotten one by one: some dozens are filled between two switches of address
/// spaces as a rule, and to forget all would drive everything else out of the host's first cache.
pub const LISTED: usize = 128;

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
pub const REMEMBERED: usize = 3;

/// Those, by their numbers.
pub const VIEWS: [View; REMEMBERED] = [View::User, View::Supervisor, View::SupervisorAc];

/// The translations of one view, by linear page.
#[derive(Debug, Clone)]
#[repr(C)]
struct Table {
    /// The linear page if it may be read.
    read_tags: [u64; ENTRIES],
    /// The linear page if it may be written and its Dirty bit is set.
    write_tags: [u64; ENTRIES],
    /// The host's page.
    hosts: [u64; ENTRIES],
    /// Where writers look for decoded code.
    code: [*const CodePage; ENTRIES],
    /// The entries that were filled since all was forgotten, if there are not too many.
    filled: [u16; LISTED],
    /// How often entries were filled since.
    fills: usize,
    /// Pages are remembered that are not global.
    has_local: bool,
    /// Pages of the lower half are remembered.
    has_lower: bool,
}

/// What one translated instruction remembers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub struct Site {
    /// The linear page.
    pub tag: u64,
    /// The first offset in the page at which the instruction's access would leave it; 0 if nothing is remembered.
    pub limit: u64,
    /// How far the host's page is from the linear page.
    pub delta: u64,
    /// Where writers look for decoded code.
    pub code: *const CodePage,
}

/// What a linear page is.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The host's page.
    pub host: u64,
    /// Where writers look for decoded code.
    pub code: *const CodePage,
    /// It may be read.
    pub read: bool,
    /// It may be written, and its Dirty bit is set.
    pub write: bool,
    /// It stays when the address space changes.
    pub global: bool,
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
#[repr(C)]
pub struct Tlb {
    tables: [Table; REMEMBERED + 1],
    sites: [Site; ALL_SITES],
    filled_sites: [FilledSites; REMEMBERED],
}

/// The sites of a view that were filled since all were forgotten.
#[derive(Debug)]
#[repr(C)]
pub struct FilledSites {
    /// How often they were.
    pub fills: u64,
    /// Where they are, in bytes from the first site of all views, if there are not too many.
    pub places: [u64; LISTED],
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

impl Table {
    #[cfg(test)]
    fn new() -> Self {
        let mut table = Self {
            read_tags: [0; ENTRIES],
            write_tags: [0; ENTRIES],
            hosts: [0; ENTRIES],
            code: [std::ptr::null(); ENTRIES],
            filled: [0; LISTED],
            fills: LISTED + 1,
            has_local: false,
            has_lower: false,
        };
        table.forget();
        table
    }

    fn forget(&mut self) {
        if self.fills > LISTED {
            (0..ENTRIES).for_each(|n| self.forget_entry(n));
        } else {
            (0..self.fills).for_each(|n| self.forget_entry(self.filled[n].into()));
        }
        self.fills = 0;
        self.has_local = false;
        self.has_lower = false;
    }

    const fn forget_entry(&mut self, n: usize) {
        self.read_tags[n] = never(n);
        self.write_tags[n] = never(n);
    }
}

/// Where translated code finds the parts of a [`Tlb`], in bytes from its start.
pub mod place {
    use super::{FilledSites, Site, Table, Tlb, View, offset_of};

    /// The tags of reads, or of writes, of a view.
    pub const fn tags(view: View, write: bool) -> usize {
        table(view) + if write { offset_of!(Table, write_tags) } else { offset_of!(Table, read_tags) }
    }

    /// The host's pages of a view.
    pub const fn hosts(view: View) -> usize {
        table(view) + offset_of!(Table, hosts)
    }

    /// What writers of a view look at.
    pub const fn code(view: View) -> usize {
        table(view) + offset_of!(Table, code)
    }

    /// A part of what is noted of a view's filled sites; `field` is its distance from the start.
    pub const fn filled_sites(view: View, field: usize) -> usize {
        offset_of!(Tlb, filled_sites) + view as usize * size_of::<FilledSites>() + field
    }

    /// A site.
    pub const fn site(number: usize) -> usize {
        offset_of!(Tlb, sites) + number * size_of::<Site>()
    }

    const fn table(view: View) -> usize {
        offset_of!(Tlb, tables) + view as usize * size_of::<Table>()
    }
}

impl Tlb {
    /// Empty tables, in zeroed memory at `place`.
    ///
    /// # Safety
    /// There is room for them, zeroed, aligned and nobody else's.
    pub unsafe fn make_at(place: NonNull<Self>) {
        // SAFETY: all-zero bytes are sites that remember nothing and tables without pages, whose tags are set here.
        let tlb = unsafe { &mut *place.as_ptr() };
        for table in &mut tlb.tables {
            (0..ENTRIES).for_each(|n| table.forget_entry(n));
        }
    }

    /// Empty tables.
    #[cfg(test)]
    pub fn new() -> Self {
        let nothing = Site { tag: 0, limit: 0, delta: 0, code: std::ptr::null() };
        Self {
            tables: [Table::new(), Table::new(), Table::new(), Table::new()],
            sites: [nothing; ALL_SITES],
            filled_sites: [const { FilledSites { fills: 0, places: [0; LISTED] } }; REMEMBERED],
        }
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.tables[..REMEMBERED].iter_mut().for_each(Table::forget);
        VIEWS.into_iter().for_each(|view| self.forget_sites(view));
    }

    /// Forgets all pages but those that are global.
    pub fn flush_local(&mut self) {
        for view in VIEWS {
            let table = &mut self.tables[view as usize];
            if view == View::User || table.has_local {
                table.forget();
                self.forget_sites(view);
            }
        }
    }

    fn forget_sites(&mut self, view: View) {
        let FilledSites { fills, places } = &mut self.filled_sites[view as usize];
        match places.get(..std::mem::take(fills) as usize) {
            Some(places) => {
                for place in places {
                    self.sites[*place as usize / size_of::<Site>() % ALL_SITES].limit = 0;
                }
            }
            None => self.sites_of(view).iter_mut().for_each(|site| site.limit = 0),
        }
    }

    fn sites_of(&mut self, view: View) -> &mut [Site] {
        let (first, count) = (FIRST_SITE[view as usize], SITES[view as usize]);
        &mut self.sites[first..first + count]
    }

    /// Forgets the page at `linear`.
    pub fn flush_page(&mut self, linear: u64) {
        let n = index(linear);
        for table in &mut self.tables[..REMEMBERED] {
            table.forget_entry(n);
        }
        let page = linear & !(PAGE - 1);
        for view in VIEWS {
            // Systems most often have the supervisor's own pages in the upper half, and invalidate those of level 3 in the lower.
            if linear >> 63 == 0 && !self.tables[view as usize].has_lower {
                continue;
            }
            for site in self.sites_of(view).iter_mut().filter(|site| site.tag == page) {
                site.limit = 0;
            }
        }
    }

    /// Has writes to the page at `host` asked about from now on.
    pub fn forbid_writes(&mut self, host: u64) {
        for table in &mut self.tables[..REMEMBERED] {
            for n in 0..ENTRIES {
                if table.hosts[n] == host {
                    table.write_tags[n] = never(n);
                }
            }
        }
        let leads_there = |site: &&mut Site| site.tag.wrapping_add(site.delta) == host;
        for site in self.sites.iter_mut().filter(leads_there) {
            site.limit = 0;
        }
    }

    /// Where a read of `size` bytes hits.
    #[inline(always)]
    pub fn read(&self, view: View, linear: u64, size: u64) -> Option<u64> {
        let (table, n) = (&self.tables[view as usize], index(linear));
        let offset = linear.wrapping_sub(table.read_tags[n]);
        (offset <= PAGE - size).then(|| table.hosts[n].wrapping_add(offset))
    }

    /// Where a write of `size` bytes hits.
    #[inline(always)]
    pub fn write(&self, view: View, linear: u64, size: u64) -> Option<Hit> {
        let (table, n) = (&self.tables[view as usize], index(linear));
        let offset = linear.wrapping_sub(table.write_tags[n]);
        (offset <= PAGE - size)
            .then(|| Hit { host: table.hosts[n].wrapping_add(offset), code: table.code[n] })
    }

    /// Remembers what the linear page at `linear` is.
    pub fn insert(&mut self, view: View, linear: u64, found: Found) {
        let n = index(linear);
        let page = linear & !(PAGE - 1);
        let table = &mut self.tables[view as usize];
        if let Some(filled) = table.filled.get_mut(table.fills) {
            *filled = n as u16;
        }
        table.fills += 1;
        table.has_local |= !found.global;
        table.has_lower |= linear >> 63 == 0;
        table.read_tags[n] = if found.read { page } else { never(n) };
        table.write_tags[n] = if found.write { page } else { never(n) };
        table.hosts[n] = found.host;
        table.code[n] = found.code;
    }

    /// Where an access of `size` bytes hits.
    pub fn find(&self, view: View, linear: u64, size: u64, write: bool) -> Option<Hit> {
        let (table, n) = (&self.tables[view as usize], index(linear));
        match write {
            true => self.write(view, linear, size),
            false => self.read(view, linear, size).map(|host| Hit { host, code: table.code[n] }),
        }
    }

    /// Has site `number`, below [`ALL_SITES`], remember the page of its access of `size` bytes at `linear`, which hits.
    pub fn fill_site(&mut self, number: usize, size: u64, linear: u64, hit: Hit) {
        let (tag, host) = (linear & !(PAGE - 1), hit.host & !(PAGE - 1));
        let (limit, delta) = (PAGE + 1 - size, host.wrapping_sub(tag));
        self.sites[number] = Site { tag, limit, delta, code: hit.code };
        let view = FIRST_SITE.partition_point(|&first| first <= number) - 1;
        let FilledSites { fills, places } = &mut self.filled_sites[view];
        if let Some(place) = places.get_mut(*fills as usize) {
            *place = (number * size_of::<Site>()) as u64;
        }
        *fills += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(host: u64, read: bool, write: bool, global: bool) -> Found {
        Found { host, code: std::ptr::null(), read, write, global }
    }

    fn fill(tlb: &mut Tlb, site: usize, size: u64, view: View, linear: u64) {
        let hit = tlb.find(view, linear, size, true).expect("the table knows it");
        tlb.fill_site(site, size, linear, hit);
    }

    #[test]
    fn an_empty_entry_matches_nothing() {
        const LAST: u64 = ENTRIES as u64;
        let tlb = Tlb::new();
        for page in [0, 1, 2, LAST - 1, LAST, LAST + 1, 1 << 51, (1 << 52) - 1] {
            for offset in [0, 1, 4095] {
                assert_eq!(tlb.read(View::User, page * PAGE + offset, 1), None);
            }
        }
    }

    #[test]
    fn accesses_that_leave_the_page_miss() {
        let mut tlb = Tlb::new();
        tlb.insert(View::User, 0x5000, found(0x10_0000, true, false, false));
        assert_eq!(tlb.read(View::User, 0x5ff8, 8), Some(0x10_0ff8));
        assert_eq!(tlb.read(View::User, 0x5ff9, 8), None);
        assert_eq!(tlb.read(View::Supervisor, 0x5000, 8), None);
        assert!(tlb.write(View::User, 0x5000, 1).is_none());
        tlb.flush_page(0x5123);
        assert_eq!(tlb.read(View::User, 0x5000, 1), None);
    }

    #[test]
    fn a_site_remembers_what_the_table_knows_until_the_page_is_forgotten() {
        let mut tlb = Tlb::new();
        assert!(tlb.find(View::User, 0x5010, 4, true).is_none());
        tlb.insert(View::User, 0x5000, found(0x10_0000, true, true, false));
        let hit = tlb.find(View::User, 0x5010, 4, true).expect("the table knows it");
        assert_eq!(hit.host, 0x10_0010);
        tlb.fill_site(3, 4, 0x5010, hit);
        assert_eq!((tlb.sites[3].tag, tlb.sites[3].limit), (0x5000, 4093));
        tlb.flush_page(0x5fff);
        assert_eq!(tlb.sites[3].limit, 0);
    }

    #[test]
    fn a_site_of_the_supervisor_forgets_a_page_of_the_lower_half_too() {
        for global in [false, true] {
            let mut tlb = Tlb::new();
            tlb.insert(View::Supervisor, 0x5000, found(0x10_0000, true, true, global));
            fill(&mut tlb, FIRST_SITE[1], 8, View::Supervisor, 0x5000);
            tlb.flush_page(0x5000);
            assert_eq!(tlb.sites[FIRST_SITE[1]].limit, 0);
        }
    }

    #[test]
    fn global_pages_of_the_supervisor_outlive_others_unless_it_has_local_ones() {
        let mut tlb = Tlb::new();
        let kernel = 0xffff_8000_0000_5000;
        tlb.insert(View::Supervisor, kernel, found(0x10_0000, true, true, true));
        tlb.insert(View::User, 0x5000, found(0x20_0000, true, true, true));
        fill(&mut tlb, FIRST_SITE[1], 8, View::Supervisor, kernel);
        fill(&mut tlb, 2, 8, View::User, 0x5000);
        tlb.flush_local();
        assert!(tlb.read(View::Supervisor, kernel, 8).is_some() && tlb.read(View::User, 0x5000, 8).is_none());
        assert!(tlb.sites[FIRST_SITE[1]].limit != 0 && tlb.sites[2].limit == 0);
        tlb.insert(View::Supervisor, 0x7000, found(0x30_0000, true, true, false));
        tlb.flush_local();
        assert!(tlb.read(View::Supervisor, kernel, 8).is_none());
        assert_eq!(tlb.sites[FIRST_SITE[1]].limit, 0);
    }

    #[test]
    fn everything_is_forgotten_however_much_there_was() {
        for pages in [1, LISTED, LISTED + 1, ENTRIES, 3 * ENTRIES] {
            let mut tlb = Tlb::new();
            for round in 0..3 {
                for view in VIEWS {
                    let first = FIRST_SITE[view as usize];
                    for n in 0..pages as u64 {
                        let linear = n * PAGE;
                        tlb.insert(view, linear, found(0x10_0000 + n * PAGE, true, true, false));
                        let site = first + n as usize % SITES[view as usize];
                        fill(&mut tlb, site, 8, view, linear);
                    }
                }
                if round == 1 {
                    tlb.flush()
                } else {
                    tlb.flush_local()
                }
                for view in VIEWS {
                    for n in 0..pages as u64 {
                        assert_eq!(tlb.read(view, n * PAGE, 1), None, "page {n} of {pages}");
                    }
                }
                assert!(tlb.sites.iter().all(|site| site.limit == 0), "{pages}");
            }
        }
    }

    #[test]
    fn forbidden_writes_miss_by_whatever_linear_address_and_reads_still_hit() {
        let mut tlb = Tlb::new();
        tlb.insert(View::User, 0x5000, found(0x10_0000, true, true, false));
        tlb.insert(View::Supervisor, 0x9000, found(0x10_0000, true, true, false));
        fill(&mut tlb, 0, 8, View::User, 0x5000);
        fill(&mut tlb, 1, 64, View::User, 0x5000);
        tlb.forbid_writes(0x10_0000);
        assert!(
            tlb.write(View::User, 0x5000, 1).is_none() && tlb.write(View::Supervisor, 0x9000, 1).is_none()
        );
        assert!(tlb.read(View::User, 0x5000, 1).is_some());
        assert_eq!((tlb.sites[0].limit, tlb.sites[1].limit), (0, 0));
    }
}
