//! Loads and stores: the TLB first, then the page walk, then page by page.

use tern_x86::cpu::{Cpu, Word, canonical};
use tern_x86::exception::{Exception, Stop, Vector};
use tern_x86::exec::system::data_breakpoints_hit;
use tern_x86::paging::{self, Access, AccessKind, Rights};
use tern_x86::state::SegmentRegister;

use super::SoftEnvironment;
use crate::host;
use crate::ram::{CodePage, PAGE, code_changes};
use crate::tlb::{Found, Hit, View};
use crate::translator::Place as Site;

/// Where one page's part of an access leads.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// RAM.
    Ram(Hit),
    /// Anything else, by guest-physical address.
    Device(u64),
}

/// What a question of translated code for a page came to.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// RAM, and the table knows it now.
    Hit(Hit),
    /// A device, two pages, or RAM that must be asked about every time: the interpreter's.
    Interpret,
    /// It is not permitted.
    Stop(Stop),
}

/// Makes every processor that decoded these bytes decode them anew.
macro_rules! look_for_code {
    ($self:ident, $hit:ident, $linear:expr, $size:expr) => {
        // SAFETY: TLB entries and `Place`s point into the `Ram` that the environment keeps alive.
        if unsafe { (*$hit.code).has_code() } {
            $self.code_written($hit.code, $linear, $size);
        }
    };
}

impl SoftEnvironment {
    /// [`tern_x86::Environment::load`].
    #[inline(always)]
    pub(super) fn load_word<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
    ) -> Result<W, Stop> {
        match self.tlb.read(self.view, linear, u64::from(W::BYTES)) {
            // SAFETY: a TLB hit lies in one page of RAM.
            Some(at) => Ok(unsafe { host::load::<W>(at) }),
            None => {
                let access = Access::explicit(cpu, AccessKind::Read);
                self.load_slowly(cpu, segment, linear, W::BYTES, access).map(W::truncate)
            }
        }
    }

    /// [`tern_x86::Environment::store`].
    #[inline(always)]
    pub(super) fn store_word<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: W,
    ) -> Result<(), Stop> {
        match self.tlb.write(self.view, linear, u64::from(W::BYTES)) {
            Some(hit) => {
                // SAFETY: a TLB hit lies in one page of RAM.
                unsafe { host::store(hit.host, value) };
                look_for_code!(self, hit, linear, u64::from(W::BYTES));
                Ok(())
            }
            None => {
                let access = Access::explicit(cpu, AccessKind::Write);
                self.store_slowly(cpu, segment, linear, W::BYTES, value.zero_extend(), access)
            }
        }
    }

    /// [`tern_x86::Environment::update`].
    #[inline(always)]
    pub(super) fn update_word<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        locked: bool,
        mut change: impl FnMut(W) -> Option<W>,
    ) -> Result<W, Stop> {
        let size = u64::from(W::BYTES);
        let hit = match self.tlb.write(self.view, linear, size) {
            Some(hit) => hit,
            None => match self.place_for_update(cpu, segment, linear, size)? {
                Some(hit) => hit,
                None => return self.update_slowly(cpu, segment, linear, change),
            },
        };
        // SAFETY: the hit lies in one page of RAM.
        let mut old = unsafe { host::load::<W>(hit.host) };
        loop {
            let Some(new) = change(old) else { return Ok(old) };
            if !locked {
                // SAFETY: as above.
                unsafe { host::store(hit.host, new) };
                break;
            }
            // SAFETY: as above.
            let found = unsafe { host::compare_exchange(hit.host, old, new) };
            if found == old {
                break;
            }
            old = found;
        }
        look_for_code!(self, hit, linear, size);
        Ok(old)
    }

    /// Updates what lies in a device or across two pages; not atomic with respect to other processors, as the manual
    /// allows for devices. A locked access across pages, which hardware would do by stopping the bus, is not either.
    #[cold]
    fn update_slowly<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        mut change: impl FnMut(W) -> Option<W>,
    ) -> Result<W, Stop> {
        let read = Access::explicit(cpu, AccessKind::Read);
        let write = Access::explicit(cpu, AccessKind::Write);
        self.places(cpu, segment, linear, u64::from(W::BYTES), write)?;
        let old = W::truncate(self.load_slowly(cpu, segment, linear, W::BYTES, read)?);
        if let Some(new) = change(old) {
            self.store_slowly(cpu, segment, linear, W::BYTES, new.zero_extend(), write)?;
        }
        Ok(old)
    }

    /// [`tern_x86::Environment::update_16_bytes`].
    pub(super) fn update_pair(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        mut change: impl FnMut(u128) -> Option<u128>,
    ) -> Result<u128, Stop> {
        let hit = match self.tlb.write(self.view, linear, 16) {
            Some(hit) => hit,
            None => match self.place_for_update(cpu, segment, linear, 16)? {
                Some(hit) => hit,
                // No device takes 16 bytes at once.
                None => return Err(cpu.general_protection()),
            },
        };
        let mut old = 0;
        loop {
            let new = change(old).unwrap_or(old);
            // SAFETY: the hit is 16 aligned bytes of one page of RAM, and the probe made sure of CMPXCHG16B.
            let found = unsafe { host::compare_exchange_16_bytes(hit.host, old, new) };
            if found == old {
                break;
            }
            old = found;
        }
        look_for_code!(self, hit, linear, 16);
        Ok(old)
    }

    /// [`tern_x86::Environment::load_16_bytes`]. What the TLB does not know even after it was asked, devices and pages that are
    /// watched, is read by halves.
    #[inline]
    pub(super) fn load_pair(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
    ) -> Result<u128, Stop> {
        if let Some(at) = self.tlb.read(self.view, linear, 16) {
            // SAFETY: a TLB hit lies in one page of RAM, and is as aligned as the linear address.
            return Ok(unsafe { host::load_16_bytes(at) });
        }
        let low = self.load_word::<u64>(cpu, segment, linear)?;
        if let Some(at) = self.tlb.read(self.view, linear, 16) {
            // SAFETY: as above.
            return Ok(unsafe { host::load_16_bytes(at) });
        }
        let high = self.load_word::<u64>(cpu, segment, linear.wrapping_add(8))?;
        Ok(u128::from(low) | u128::from(high) << 64)
    }

    /// [`tern_x86::Environment::store_16_bytes`], likewise.
    #[inline]
    pub(super) fn store_pair(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: u128,
    ) -> Result<(), Stop> {
        if self.tlb.write(self.view, linear, 16).is_none() {
            let write = Access::explicit(cpu, AccessKind::Write);
            self.places(cpu, segment, linear, 16, write)?;
        }
        let Some(hit) = self.tlb.write(self.view, linear, 16) else {
            self.store_word(cpu, segment, linear, value as u64)?;
            return self.store_word(cpu, segment, linear.wrapping_add(8), (value >> 64) as u64);
        };
        // SAFETY: a TLB hit lies in one page of RAM, and is as aligned as the linear address.
        unsafe { host::store_16_bytes(hit.host, value) };
        look_for_code!(self, hit, linear, 16);
        Ok(())
    }

    /// [`tern_x86::Environment::load_system`].
    pub(super) fn load_implicit<W: Word>(&mut self, cpu: &mut Cpu, linear: u64) -> Result<W, Stop> {
        if let Some(at) = self.tlb.read(View::Supervisor, linear, u64::from(W::BYTES)) {
            // SAFETY: a TLB hit lies in one page of RAM.
            return Ok(unsafe { host::load::<W>(at) });
        }
        let access = Access::implicit(AccessKind::Read);
        self.load_slowly(cpu, SegmentRegister::Ds, linear, W::BYTES, access).map(W::truncate)
    }

    /// [`tern_x86::Environment::store_system`].
    pub(super) fn store_implicit<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        linear: u64,
        value: W,
    ) -> Result<(), Stop> {
        let access = Access::implicit(AccessKind::Write);
        self.store_slowly(cpu, SegmentRegister::Ds, linear, W::BYTES, value.zero_extend(), access)
    }

    /// [`tern_x86::Environment::load_bytes`].
    pub(super) fn load_range(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &mut [u8],
    ) -> Result<(), Stop> {
        let access = Access::explicit(cpu, AccessKind::Read);
        for (n, chunk) in (0u64..).zip(bytes.chunks_mut(8)) {
            let at = linear.wrapping_add(8 * n);
            if let Ok(chunk) = <&mut [u8; 8]>::try_from(&mut *chunk) {
                *chunk = self.load_word::<u64>(cpu, segment, at)?.to_le_bytes();
                continue;
            }
            for (n, byte) in (0u64..).zip(chunk) {
                *byte = self.load_slowly(cpu, segment, at.wrapping_add(n), 1, access)? as u8;
            }
        }
        Ok(())
    }

    /// [`tern_x86::Environment::store_bytes`].
    pub(super) fn store_range(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        let access = Access::explicit(cpu, AccessKind::Write);
        self.places(cpu, segment, linear, bytes.len() as u64, access)?;
        for (n, chunk) in (0u64..).zip(bytes.chunks(8)) {
            let at = linear.wrapping_add(8 * n);
            if let Ok(chunk) = <[u8; 8]>::try_from(chunk) {
                self.store_word(cpu, segment, at, u64::from_le_bytes(chunk))?;
                continue;
            }
            for (n, &byte) in (0u64..).zip(chunk) {
                self.store_slowly(cpu, segment, at.wrapping_add(n), 1, u64::from(byte), access)?;
            }
        }
        Ok(())
    }

    /// [`tern_x86::Environment::copy_elements`] of elements of `size` bytes.
    pub(super) fn copy_within_pages(&mut self, from: u64, to: u64, count: u64, size: u64) -> u64 {
        let room = (PAGE - from % PAGE).min(PAGE - to % PAGE) / size;
        let count = count.min(room);
        let bytes = count * size;
        if bytes == 0 {
            return 0;
        }
        let (Some(source), Some(hit)) =
            (self.tlb.read(self.view, from, bytes), self.tlb.write(self.view, to, bytes))
        else {
            return 0;
        };
        // Bytes repeat where wider elements would not if the destination starts inside the first source element.
        if hit.host.wrapping_sub(source).wrapping_sub(1) < size - 1 {
            return 0;
        }
        // SAFETY: both hits cover `bytes` bytes of one page of RAM each.
        unsafe { host::copy(source, hit.host, bytes) };
        look_for_code!(self, hit, to, bytes);
        count
    }

    /// [`tern_x86::Environment::fill_elements`].
    pub(super) fn fill_within_page<W: Word>(&mut self, to: u64, value: W, count: u64) -> u64 {
        let size = u64::from(W::BYTES);
        let count = count.min((PAGE - to % PAGE) / size);
        if count == 0 {
            return 0;
        }
        let Some(hit) = self.tlb.write(self.view, to, count * size) else { return 0 };
        // SAFETY: the hit covers all the elements in one page of RAM.
        unsafe { host::fill(hit.host, value, count) };
        look_for_code!(self, hit, to, count * size);
        count
    }

    /// The host address of an update's operand; `None` if it is not RAM in one page. All permissions are checked.
    #[cold]
    #[inline(never)]
    fn place_for_update(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u64,
    ) -> Result<Option<Hit>, Stop> {
        let write = Access::explicit(cpu, AccessKind::Write);
        Ok(match self.places(cpu, segment, linear, size, write)? {
            (Place::Ram(hit), None) => Some(hit),
            _ => None,
        })
    }

    #[cold]
    #[inline(never)]
    fn load_slowly(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u8,
        access: Access,
    ) -> Result<u64, Stop> {
        let (first, second) = self.places(cpu, segment, linear, u64::from(size), access)?;
        if let (Place::Device(physical), None) = (first, second) {
            return self.device_read(physical, size);
        }
        let mut value = [0; 8];
        for (n, byte) in (0u64..).zip(&mut value[..usize::from(size)]) {
            *byte = match place_of(first, second, linear, n) {
                // SAFETY: the place covers this byte.
                Place::Ram(hit) => unsafe { host::load::<u8>(hit.host) },
                Place::Device(physical) => self.device_read(physical, 1)? as u8,
            };
        }
        if let (Place::Ram(hit), None) = (first, second) {
            // Aligned accesses are to be atomic: the loop above only serves those that cross a page.
            // SAFETY: the place covers the whole access.
            return Ok(unsafe {
                match size {
                    1 => u64::from(host::load::<u8>(hit.host)),
                    2 => u64::from(host::load::<u16>(hit.host)),
                    4 => u64::from(host::load::<u32>(hit.host)),
                    _ => host::load::<u64>(hit.host),
                }
            });
        }
        Ok(u64::from_le_bytes(value))
    }

    #[cold]
    #[inline(never)]
    fn store_slowly(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u8,
        value: u64,
        access: Access,
    ) -> Result<(), Stop> {
        let (first, second) = self.places(cpu, segment, linear, u64::from(size), access)?;
        match (first, second) {
            (Place::Device(physical), None) => return self.device_write(physical, size, value),
            (Place::Ram(hit), None) => {
                // SAFETY: the place covers the whole access.
                unsafe {
                    match size {
                        1 => host::store(hit.host, value as u8),
                        2 => host::store(hit.host, value as u16),
                        4 => host::store(hit.host, value as u32),
                        _ => host::store(hit.host, value),
                    }
                }
                look_for_code!(self, hit, linear, u64::from(size));
                return Ok(());
            }
            _ => {}
        }
        let bytes = value.to_le_bytes();
        let bytes = || (0u64..).zip(&bytes[..usize::from(size)]);
        // Devices first: they may ask, and the instruction then starts over with memory as it was.
        for (n, &byte) in bytes() {
            if let Place::Device(physical) = place_of(first, second, linear, n) {
                self.device_write(physical, 1, u64::from(byte))?;
            }
        }
        for (n, &byte) in bytes() {
            if let Place::Ram(hit) = place_of(first, second, linear, n) {
                // SAFETY: the place covers this byte.
                unsafe { host::store(hit.host, byte) };
                look_for_code!(self, hit, linear.wrapping_add(n), 1);
            }
        }
        Ok(())
    }

    /// Where an access of `size` bytes leads: its first page, and its second if it crosses a boundary.
    fn places(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u64,
        access: Access,
    ) -> Result<(Place, Option<Place>), Stop> {
        if self.watching {
            self.watch_hits |= data_breakpoints_hit(cpu, linear, size, access.kind == AccessKind::Write);
        }
        // Compatibility code's own addresses have 32 bits already; those of its system structures have 64.
        let wrap = if cpu.long_mode() { u64::MAX } else { 0xffff_ffff };
        if self.view == View::AlignedUser
            && access.user
            && matches!(size, 2 | 4 | 8 | 16)
            && !linear.is_multiple_of(size)
        {
            return Err(cpu.raise(Exception::with_code(Vector::Ac, 0)));
        }
        let crosses = linear % PAGE + size > PAGE;
        let next = (linear & !(PAGE - 1)).wrapping_add(PAGE) & wrap;
        // All of an address is judged before any of it is translated.
        if cpu.long_mode() && (!canonical(linear & wrap) || crosses && !canonical(next)) {
            return Err(cpu.raise(match segment {
                SegmentRegister::Ss => Exception::stack(0),
                _ => Exception::general_protection(0),
            }));
        }
        let first = self.place(cpu, linear & wrap, access)?;
        if !crosses {
            return Ok((first, None));
        }
        let second = self.place(cpu, next, access)?;
        Ok((first, Some(second)))
    }

    fn place(&mut self, cpu: &mut Cpu, linear: u64, access: Access) -> Result<Place, Stop> {
        let translation =
            paging::translate(cpu, &mut &*self.ram, linear, access).map_err(|fault| cpu.raise(fault))?;
        let Some(page) = self.ram.page(translation.physical) else {
            return Ok(Place::Device(translation.physical));
        };
        self.large.note(linear, translation.page_bits);
        let code: *const CodePage = page.code;
        let mut host = page.host;
        if let Some(trial) = &mut self.trial {
            host = trial.page(page.host);
        }
        let excluded = !self.ram.has_several_processors() || self.trial.is_some();
        if excluded && access.kind == AccessKind::Write && page.code.has_code() && self.strikes.strike(code) {
            page.code.written(0, PAGE);
            self.block_end = std::ptr::null();
        }
        if !self.watching {
            // With a single processor, pages that code was decoded from are not in the TLB for writing.
            let silent = !excluded || !page.code.has_code();
            let view = if access.user {
                View::User
            } else if access.smap_override {
                View::SupervisorAc
            } else {
                View::Supervisor
            };
            let rights = translation.rights;
            let (read, write) = match view {
                View::User => (rights.contains(Rights::USER_READ), rights.contains(Rights::USER_WRITE)),
                _ => (rights.contains(Rights::SUPERVISOR_READ), rights.contains(Rights::SUPERVISOR_WRITE)),
            };
            // While a log is kept, a page is opened for writing by the write that is noted.
            let write = write && silent && (access.kind == AccessKind::Write || !page.is_logged());
            let global = translation.global;
            self.tlb.insert(view, linear, Found { host, code, read, write, global });
        }
        if access.kind == AccessKind::Write {
            page.note_write();
        }
        Ok(Place::Ram(Hit { host: host + translation.physical % PAGE, code }))
    }

    /// Neither the table nor, if there is one, its site knows the page of a translated instruction's access at `linear`.
    pub fn find_page(&mut self, cpu: &mut Cpu, linear: u64, place: Site, write: bool) -> Answer {
        // What reaches into a second page is not to be asked about there: it may be more than is accessed.
        if linear % PAGE + place.size() > PAGE {
            return Answer::Interpret;
        }
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = Access::explicit(cpu, kind);
        match self.places(cpu, place.segment(), linear, place.size(), access) {
            // The code that runs may just have become stale.
            Ok((Place::Ram(_), None)) if code_changes() == self.code_changes => {
                match self.tlb.find(self.view, linear, place.size(), write) {
                    Some(hit) => Answer::Hit(hit),
                    None => Answer::Interpret,
                }
            }
            Ok(_) => Answer::Interpret,
            Err(stop) => Answer::Stop(stop),
        }
    }

    /// A write hit a page with decoded code. The running block ends after its present operation if it may be concerned.
    #[cold]
    #[inline(never)]
    fn code_written(&mut self, code: *const CodePage, linear: u64, size: u64) {
        // SAFETY: as in `look_for_code`.
        if unsafe { (*code).written(linear % PAGE, size) } {
            self.block_end = std::ptr::null();
        }
    }
}

/// The place of byte `n` of an access at `linear` that leads to `first` and, behind the page boundary, to `second`.
fn place_of(first: Place, second: Option<Place>, linear: u64, n: u64) -> Place {
    let inside = PAGE - linear % PAGE;
    let (place, offset) = match second {
        Some(second) if n >= inside => (second, n - inside),
        _ => (first, n),
    };
    match place {
        Place::Ram(hit) => Place::Ram(Hit { host: hit.host + offset, ..hit }),
        Place::Device(physical) => Place::Device(physical + offset),
    }
}
