//! LDMXCSR and STMXCSR (APM volume 4).

use crate::exception::Exception;
use crate::state::{FpuState, Mxcsr};

/// LDMXCSR.
///
/// # Errors
/// #GP(0) if `value` has bits that do not exist; MXCSR keeps its value.
pub fn ldmxcsr(fpu: &mut FpuState, value: u32) -> Result<(), Exception> {
    fpu.set_mxcsr(checked(value)?);
    Ok(())
}

/// STMXCSR: what it stores.
#[must_use]
pub const fn stmxcsr(fpu: &FpuState) -> u32 {
    fpu.mxcsr().bits()
}

/// An MXCSR value from memory, or #GP(0).
pub(super) fn checked(value: u32) -> Result<Mxcsr, Exception> {
    Mxcsr::from_bits(value).ok_or(Exception::general_protection(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_bit_faults_and_changes_nothing() {
        let mut fpu = FpuState::new();
        assert_eq!(ldmxcsr(&mut fpu, 0x1_0000), Err(Exception::general_protection(0)));
        assert_eq!(stmxcsr(&fpu), 0x1f80);
        assert_eq!(ldmxcsr(&mut fpu, 0xffff), Ok(()));
        assert_eq!(stmxcsr(&fpu), 0xffff);
    }
}
