//! SSE exceptions that the guest did not mask, and x87 ones that prevent a store.
//!
//! Stubs execute with all SSE exceptions masked. If the guest masks them too, that is all there is to it. If it does not,
//! the instruction runs on a copy of the state, and the flags that it raised there decide whether the copy becomes the
//! state (APM volume 1, section 4.10; SDM volume 1, sections 11.5.3 and 11.5.4):
//!
//! - IE, DE and ZE are found before the result is computed. If one of them is unmasked, only these three are reported.
//! - A tiny result raises UE even if it is exact when UE is unmasked, but only if it is inexact when UE is masked. The
//!   copy's result shows which it was: with flush-to-zero off (it has no effect while UE is unmasked), a result is tiny
//!   exactly if it is a denormal or UE was raised.
//! - What remains different is in the description of [`Trial::finish`].

use tern_x86::state::{FpuState, Mxcsr};

/// IE, DE and ZE: found before computing.
const PRE_COMPUTATION: u32 = 0x07;
const UE: u32 = 0x10;
/// The masks lie this far above their flags.
const MASK_SHIFT: u32 = 7;

/// Where the result of an instruction that can underflow is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TinyResult {
    /// The instruction cannot underflow.
    None,
    /// Single precision in the lowest lane of this vector register.
    Single(u8),
    /// Double precision in the lowest lane.
    Double(u8),
    /// Single precision in all lanes.
    PackedSingle(u8),
    /// Double precision in all lanes.
    PackedDouble(u8),
    /// Single precision in all lanes of a YMM register.
    WideSingle(u8),
    /// Double precision in all lanes of a YMM register.
    WideDouble(u8),
    /// Half precision in all lanes. What is stored to memory instead is not looked at.
    PackedHalf(u8),
}

impl TinyResult {
    /// A denormal is among the results.
    fn is_denormal(self, fpu: &FpuState) -> bool {
        const fn single(bits: u128) -> bool {
            bits & 0x7f80_0000 == 0 && bits & 0x007f_ffff != 0
        }
        const fn double(bits: u128) -> bool {
            bits & 0x7ff0_0000_0000_0000 == 0 && bits & 0x000f_ffff_ffff_ffff != 0
        }
        const fn half(bits: u128) -> bool {
            bits & 0x7c00 == 0 && bits & 0x03ff != 0
        }
        let register = |n: u8| fpu.xmm(usize::from(n));
        let upper =
            |n: u8| u128::from_le_bytes(std::array::from_fn(|byte| fpu.ymm()[16 * usize::from(n) + byte]));
        let any_single = |bits: u128| (0..4).any(|lane| single(bits >> (32 * lane)));
        let any_double = |bits: u128| (0..2).any(|lane| double(bits >> (64 * lane)));
        match self {
            Self::None => false,
            Self::Single(n) => single(register(n)),
            Self::Double(n) => double(register(n)),
            Self::PackedSingle(n) => any_single(register(n)),
            Self::PackedDouble(n) => any_double(register(n)),
            Self::WideSingle(n) => any_single(register(n)) || any_single(upper(n)),
            Self::WideDouble(n) => any_double(register(n)) || any_double(upper(n)),
            Self::PackedHalf(n) => (0..8).any(|lane| half(register(n) >> (16 * lane))),
        }
    }
}

/// The execution of an instruction on a copy of the state.
pub(super) struct Trial {
    /// The copy: all exceptions masked, no flags raised.
    pub(super) fpu: FpuState,
}

impl Trial {
    pub(super) fn new(fpu: &FpuState) -> Self {
        let mut control = fpu.mxcsr() & (Mxcsr::DAZ | Mxcsr::RC | Mxcsr::FZ) | Mxcsr::MASKS;
        if unmasked(fpu.mxcsr(), UE) != 0 {
            control -= Mxcsr::FZ;
        }
        let mut copy = *fpu;
        copy.set_mxcsr(control);
        Self { fpu: copy }
    }

    /// Reports the flags raised to `fpu`, and everything else if none of them is unmasked. Returns whether that was so.
    ///
    /// Known differences. Beside an unmasked OE or UE that is raised, processors set PE only if the result would be inexact
    /// even with an unbounded exponent; here PE is set whenever the masked result is inexact. With any exception unmasked,
    /// DPPS and DPPD stop at the first of their multiplications and additions that raises one; here all of them are done,
    /// their flags are reported together, and only the final result is looked at for underflow. VCVTPS2PH to memory reports an
    /// exact denormal as masked.
    pub(super) fn finish(mut self, tiny: TinyResult, fpu: &mut FpuState) -> bool {
        let guest = fpu.mxcsr();
        let mut raised = self.fpu.mxcsr().bits() & Mxcsr::FLAGS.bits();
        if unmasked(guest, UE) != 0 && tiny.is_denormal(&self.fpu) {
            raised |= UE;
        }
        if unmasked(guest, raised & PRE_COMPUTATION) != 0 {
            raised &= PRE_COMPUTATION;
        }
        let reported = Mxcsr::from_bits_truncate(guest.bits() | raised);
        if unmasked(guest, raised) != 0 {
            fpu.set_mxcsr(reported);
            return false;
        }
        self.fpu.set_mxcsr(reported);
        *fpu = self.fpu;
        true
    }
}

/// Those of `flags` whose masks are clear.
const fn unmasked(mxcsr: Mxcsr, flags: u32) -> u32 {
    flags & !(mxcsr.bits() >> MASK_SHIFT)
}

/// One of the unmasked exceptions in the x87 status keeps a store instruction from storing: all but inexact results do.
pub(super) const fn prevents_store(fpu: &FpuState) -> bool {
    fpu.fsw() & !fpu.fcw() & 0x1f != 0
}
