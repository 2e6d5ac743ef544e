//! Exceptions: vectors, error codes and how two of them combine (APM volume 2, sections 8.2 and 8.4).

use bitflags::bitflags;

/// Why an operation did not run to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// It raised an exception, which is in `Cpu::exception`. Nothing of it took effect beyond what the manuals say.
    Exception,
    /// The environment needs an answer from outside. The instruction will be executed again from its start.
    Exit,
    /// It did a part of its work and will be executed again for the rest, after waiting interrupts.
    Restart,
}

/// An exception vector number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Vector {
    /// #DE: divide error.
    De = 0,
    /// #DB: debug.
    Db = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// #BP: breakpoint.
    Bp = 3,
    /// #OF: overflow.
    Of = 4,
    /// #BR: bound range.
    Br = 5,
    /// #UD: undefined opcode.
    Ud = 6,
    /// #NM: device not available.
    Nm = 7,
    /// #DF: double fault.
    Df = 8,
    /// #TS: invalid TSS.
    Ts = 10,
    /// #NP: segment not present.
    Np = 11,
    /// #SS: stack.
    Ss = 12,
    /// #GP: general protection.
    Gp = 13,
    /// #PF: page fault.
    Pf = 14,
    /// #MF: x87 floating-point.
    Mf = 16,
    /// #AC: alignment check.
    Ac = 17,
    /// #XF: SIMD floating-point.
    Xf = 19,
}

impl Vector {
    const ALL: [Self; 17] = [
        Self::De,
        Self::Db,
        Self::Nmi,
        Self::Bp,
        Self::Of,
        Self::Br,
        Self::Ud,
        Self::Nm,
        Self::Df,
        Self::Ts,
        Self::Np,
        Self::Ss,
        Self::Gp,
        Self::Pf,
        Self::Mf,
        Self::Ac,
        Self::Xf,
    ];

    /// The vector of this number, if an exception that processors here raise has it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|vector| *vector as u8 == number)
    }

    /// The manuals' mnemonic.
    #[must_use]
    pub const fn mnemonic(self) -> &'static str {
        match self {
            Self::De => "#DE",
            Self::Db => "#DB",
            Self::Nmi => "NMI",
            Self::Bp => "#BP",
            Self::Of => "#OF",
            Self::Br => "#BR",
            Self::Ud => "#UD",
            Self::Nm => "#NM",
            Self::Df => "#DF",
            Self::Ts => "#TS",
            Self::Np => "#NP",
            Self::Ss => "#SS",
            Self::Gp => "#GP",
            Self::Pf => "#PF",
            Self::Mf => "#MF",
            Self::Ac => "#AC",
            Self::Xf => "#XF",
        }
    }
}

bitflags! {
    /// The page-fault error code (APM volume 2, section 8.4.2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct PageFault: u32 {
        /// The page was present: a protection violation.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access came from privilege level 3.
        const USER = 1 << 2;
        /// A reserved bit was set in a table entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch (reported only with NX or SMEP enabled).
        const FETCH = 1 << 4;
    }
}

/// An exception about to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: Vector,
    /// Its error code, for those vectors that push one.
    pub error_code: Option<u32>,
    /// For a page fault the linear address, which delivery writes to CR2; for #DB the DR6 bits to set.
    pub payload: u64,
}

impl Default for Exception {
    fn default() -> Self {
        Self::UNDEFINED_OPCODE
    }
}

impl Exception {
    /// #UD.
    pub const UNDEFINED_OPCODE: Self = Self::plain(Vector::Ud);
    /// #DE.
    pub const DIVIDE_ERROR: Self = Self::plain(Vector::De);
    /// #NM.
    pub const DEVICE_NOT_AVAILABLE: Self = Self::plain(Vector::Nm);
    /// #MF.
    pub const FLOATING_POINT: Self = Self::plain(Vector::Mf);
    /// #XF.
    pub const SIMD_FLOATING_POINT: Self = Self::plain(Vector::Xf);

    /// An exception without an error code.
    #[must_use]
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, error_code: None, payload: 0 }
    }

    /// An exception with an error code.
    #[must_use]
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, error_code: Some(code), payload: 0 }
    }

    /// #GP with an error code: 0 or a selector.
    #[must_use]
    pub const fn general_protection(code: u32) -> Self {
        Self::with_code(Vector::Gp, code)
    }

    /// #SS with an error code: 0 or a selector.
    #[must_use]
    pub const fn stack(code: u32) -> Self {
        Self::with_code(Vector::Ss, code)
    }

    /// #PF at a linear address.
    #[must_use]
    pub const fn page_fault(linear: u64, code: PageFault) -> Self {
        Self { vector: Vector::Pf, error_code: Some(code.bits()), payload: linear }
    }

    /// #DB with the DR6 bits that say why.
    #[must_use]
    pub const fn debug(dr6: u64) -> Self {
        Self { vector: Vector::Db, error_code: None, payload: dr6 }
    }

    /// What happens when this exception is raised while `first` is being delivered (APM volume 2, table 8-5).
    #[must_use]
    pub const fn during(self, first: Self) -> Combined {
        const fn contributory(vector: Vector) -> bool {
            matches!(vector, Vector::De | Vector::Ts | Vector::Np | Vector::Ss | Vector::Gp)
        }
        match first.vector {
            Vector::Df => Combined::Shutdown,
            Vector::Pf if contributory(self.vector) || matches!(self.vector, Vector::Pf) => {
                Combined::DoubleFault
            }
            v if contributory(v) && contributory(self.vector) => Combined::DoubleFault,
            _ => Combined::Serial,
        }
    }
}

/// How an exception during the delivery of another is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combined {
    /// The second one is delivered instead of the first, which will recur.
    Serial,
    /// #DF is delivered.
    DoubleFault,
    /// The processor shuts down: a triple fault.
    Shutdown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_combine_as_the_manual_tabulates() {
        let pf = Exception::page_fault(0, PageFault::empty());
        let gp = Exception::general_protection(0);
        let df = Exception::with_code(Vector::Df, 0);
        assert_eq!(gp.during(gp), Combined::DoubleFault);
        assert_eq!(pf.during(gp), Combined::Serial);
        assert_eq!(gp.during(pf), Combined::DoubleFault);
        assert_eq!(pf.during(pf), Combined::DoubleFault);
        assert_eq!(Exception::UNDEFINED_OPCODE.during(pf), Combined::Serial);
        assert_eq!(pf.during(df), Combined::Shutdown);
    }
}
