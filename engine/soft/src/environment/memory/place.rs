//! Where an access leads: the page walk, of which the TLB keeps what it finds.

use tern_x86::cpu::{Cpu, canonical};
use tern_x86::exception::{Exception, Stop, Vector};
use tern_x86::exec::system::data_breakpoints_hit;
use tern_x86::paging::{self, Access, AccessKind, Rights};
use tern_x86::state::SegmentRegister;

use super::SoftEnvironment;
use crate::code_page::CodePage;
use crate::ram::PAGE;
use crate::tlb::{Found, Hit, View};

/// Where one page's part of an access leads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// RAM.
    Ram(Hit),
    /// Anything else, by guest-physical address.
    Device(u64),
}

/// Where an access of `size` bytes begins, and where its second page does if it crosses a boundary; or an exception if not all of that
/// is canonical.
pub(super) fn judge_canonical(
    cpu: &mut Cpu,
    segment: SegmentRegister,
    linear: u64,
    size: u64,
) -> Result<(u64, Option<u64>), Stop> {
    // Compatibility code's own addresses have 32 bits already; those of its system structures have 64.
    let wrap = if cpu.long_mode() { u64::MAX } else { 0xffff_ffff };
    let first = linear & wrap;
    let crosses = linear % PAGE + size > PAGE;
    let second = crosses.then(|| (linear & !(PAGE - 1)).wrapping_add(PAGE) & wrap);
    if cpu.long_mode() && !(canonical(first) && second.is_none_or(canonical)) {
        return Err(cpu.raise(match segment {
            SegmentRegister::Ss => Exception::stack(0),
            _ => Exception::general_protection(0),
        }));
    }
    Ok((first, second))
}

impl SoftEnvironment {
    /// Where an access of `size` bytes leads: its first page, and its second if it crosses a boundary.
    pub(super) fn places(
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
        if self.view == View::AlignedUser
            && access.user
            && matches!(size, 2 | 4 | 8 | 16)
            && !linear.is_multiple_of(size)
        {
            return Err(cpu.raise(Exception::with_code(Vector::Ac, 0)));
        }
        // All of an address is judged before any of it is translated.
        let (first, second) = judge_canonical(cpu, segment, linear, size)?;
        let first = self.place(cpu, first, access)?;
        let second = second.map(|second| self.place(cpu, second, access)).transpose()?;
        Ok((first, second))
    }

    fn place(&mut self, cpu: &mut Cpu, linear: u64, access: Access) -> Result<Place, Stop> {
        let translation = match &mut self.trial {
            None => paging::translate(cpu, &mut &*self.ram, linear, access),
            Some(trial) => paging::translate(cpu, &mut trial.tables(&self.ram), linear, access),
        }
        .map_err(|fault| cpu.raise(fault))?;
        let Some(page) = self.ram.page(translation.physical) else {
            return Ok(Place::Device(translation.physical));
        };
        self.large.note(linear, translation.page_bits);
        let code: *const CodePage = page.code;
        let mut host = page.host;
        if let Some(trial) = &mut self.trial {
            host = trial.page(page.host);
        }
        let excluded = self.ram.readers().is_one() || self.trial.is_some();
        if excluded && access.kind == AccessKind::Write && page.code.has_code() && self.strikes.strike(code) {
            self.note_code_write(page.code, 0, PAGE);
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
}

/// The place of byte `n` of an access at `linear` that leads to `first` and, behind the page boundary, to `second`.
pub(super) fn place_of(first: Place, second: Option<Place>, linear: u64, n: u64) -> Place {
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
