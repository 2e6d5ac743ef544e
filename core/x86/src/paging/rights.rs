//! What a page permits, and to whom (APM volume 2, section 5.6).

use bitflags::bitflags;

use super::entry::{NX, RW, US};
use crate::cpu::Cpu;
use crate::exception::PageFault;
use crate::state::{Cr0, Cr4, Efer, Rflags};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Execute,
}

/// An access to be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// It is made with privilege level 3.
    pub user: bool,
    /// It is a supervisor access to which RFLAGS.AC opens user pages despite SMAP.
    pub smap_override: bool,
}

impl Access {
    /// An access that the running code makes by its own operands.
    #[must_use]
    pub const fn explicit(cpu: &Cpu, kind: AccessKind) -> Self {
        Self { kind, user: cpu.cpl == 3, smap_override: cpu.system_flags.contains(Rflags::AC) }
    }

    /// An access to a system structure, which has supervisor privilege whatever the CPL.
    #[must_use]
    pub const fn implicit(kind: AccessKind) -> Self {
        Self { kind, user: false, smap_override: false }
    }

    /// Its bits of the page-fault error code.
    pub(super) fn error_code(self, cpu: &Cpu) -> PageFault {
        let no_execute = cpu.efer.contains(Efer::NXE) && cpu.cr4.contains(Cr4::PAE);
        let mut code = PageFault::empty();
        code.set(PageFault::WRITE, self.kind == AccessKind::Write);
        code.set(PageFault::USER, self.user);
        let fetch_is_reported = no_execute || cpu.cr4.contains(Cr4::SMEP);
        code.set(PageFault::FETCH, self.kind == AccessKind::Execute && fetch_is_reported);
        code
    }

    /// The right that it needs.
    #[must_use]
    pub const fn needs(self) -> Rights {
        match (self.kind, self.user) {
            (AccessKind::Read, false) => Rights::SUPERVISOR_READ,
            (AccessKind::Write, false) => Rights::SUPERVISOR_WRITE,
            (AccessKind::Execute, false) => Rights::SUPERVISOR_EXECUTE,
            (AccessKind::Read, true) => Rights::USER_READ,
            (AccessKind::Write, true) => Rights::USER_WRITE,
            (AccessKind::Execute, true) => Rights::USER_EXECUTE,
        }
    }
}

bitflags! {
    /// Kinds of access that a page permits under the present CR0, CR4 and EFER.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Privilege levels 0 to 2 may read.
        const SUPERVISOR_READ = 1 << 0;
        /// Privilege levels 0 to 2 may write.
        const SUPERVISOR_WRITE = 1 << 1;
        /// Privilege levels 0 to 2 may execute.
        const SUPERVISOR_EXECUTE = 1 << 2;
        /// Privilege level 3 may read.
        const USER_READ = 1 << 3;
        /// Privilege level 3 may write.
        const USER_WRITE = 1 << 4;
        /// Privilege level 3 may execute.
        const USER_EXECUTE = 1 << 5;
        /// Both kinds of writing.
        const WRITE = Self::SUPERVISOR_WRITE.bits() | Self::USER_WRITE.bits();
    }
}

impl Rights {
    /// What a path of entries permits. `all_set` has the bits that every entry has set, `any_set` those that one has.
    pub(super) fn of_path(cpu: &Cpu, all_set: u64, any_set: u64, smap_override: bool) -> Self {
        let user = all_set & US != 0;
        let writable = all_set & RW != 0;
        let executable = any_set & NX == 0;
        let guarded = user && cpu.cr4.contains(Cr4::SMAP) && !smap_override;
        let mut rights = Self::empty();
        rights.set(Self::SUPERVISOR_READ, !guarded);
        rights.set(Self::SUPERVISOR_WRITE, !guarded && (writable || !cpu.cr0.contains(Cr0::WP)));
        rights.set(Self::SUPERVISOR_EXECUTE, executable && !(user && cpu.cr4.contains(Cr4::SMEP)));
        rights.set(Self::USER_READ, user);
        rights.set(Self::USER_WRITE, user && writable);
        rights.set(Self::USER_EXECUTE, user && executable);
        rights
    }
}
