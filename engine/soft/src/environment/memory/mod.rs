//! Loads and stores: the TLB first, then the page walk, then page by page.
//!
//! | file | what it is |
//! |---|---|
//! | this one | accesses that the TLB knows |
//! | `slow` | those that it does not: devices, and two pages |
//! | `place` | where an access leads: the page walk |
//! | `find` | the same, asked by translated code |

mod find;
mod place;
mod slow;

pub use find::Answer;
use place::judge_canonical;

use tern_x86::cpu::{Cpu, Word};
use tern_x86::exception::Stop;
use tern_x86::paging::{Access, AccessKind};
use tern_x86::state::SegmentRegister;

use super::SoftEnvironment;
use crate::code_page::CodePage;
use crate::host;
use crate::ram::PAGE;
use crate::tlb::{Hit, View};

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
                self.look_for_code(hit, linear, u64::from(W::BYTES));
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
                None => return self.update_slowly(cpu, segment, linear, locked, change),
            },
        };
        // SAFETY: the hit lies in one page of RAM.
        let mut old = unsafe { host::load::<W>(hit.host) };
        loop {
            let new = change(old);
            if !locked {
                let Some(new) = new else { return Ok(old) };
                // SAFETY: as above.
                unsafe { host::store(hit.host, new) };
                break;
            }
            // What writes nothing new orders other accesses, too.
            // SAFETY: as above.
            let found = unsafe { host::compare_exchange(hit.host, old, new.unwrap_or(old)) };
            if found == old {
                break;
            }
            old = found;
        }
        self.look_for_code(hit, linear, size);
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
        self.look_for_code(hit, linear, 16);
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
        self.look_for_code(hit, linear, 16);
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
        // All of it is judged before any of it is read.
        judge_canonical(cpu, segment, linear, bytes.len() as u64)?;
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

    /// [`tern_x86::Environment::copy_elements`].
    pub(super) fn copy_within_pages<W: Word>(&mut self, from: u64, to: u64, count: u64) -> u64 {
        let size = u64::from(W::BYTES);
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
        unsafe { host::copy::<W>(source, hit.host, count) };
        self.look_for_code(hit, to, bytes);
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
        self.look_for_code(hit, to, count * size);
        count
    }

    /// A write of `size` bytes at `linear` hit this. Makes every processor that decoded these bytes decode them anew.
    #[inline(always)]
    fn look_for_code(&mut self, hit: Hit, linear: u64, size: u64) {
        // SAFETY: TLB entries and `Place`s point into the `Ram` that the environment keeps alive.
        if unsafe { (*hit.code).has_code() } {
            self.code_written(hit.code, linear, size);
        }
    }

    /// A write hit a page with decoded code. The running block ends after its present operation if it may be concerned.
    #[cold]
    #[inline(never)]
    fn code_written(&mut self, code: *const CodePage, linear: u64, size: u64) {
        // SAFETY: as in `look_for_code`.
        let code = unsafe { &*code };
        if self.note_code_write(code, linear % PAGE, size) {
            self.block_end = std::ptr::null();
        }
    }
}
