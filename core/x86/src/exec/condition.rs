//! The sixteen conditions of Jcc, SETcc and CMOVcc (APM volume 3, section 1.2, "rFLAGS conditions").

use crate::cpu::LazyFlags;

/// Whether condition `CODE` (0 to 15, as opcodes encode it) holds.
#[inline(always)]
pub const fn holds<const CODE: u8>(flags: LazyFlags) -> bool {
    let base = match CODE >> 1 {
        0 => flags.of(),
        1 => flags.cf(),
        2 => flags.zf(),
        3 => flags.cf() || flags.zf(),
        4 => flags.sf(),
        5 => flags.pf(),
        6 => flags.sf() != flags.of(),
        _ => flags.zf() || flags.sf() != flags.of(),
    };
    base != (CODE & 1 != 0)
}
