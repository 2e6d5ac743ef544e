//! Memory types: the MTRRs and the PAT (APM volume 2, sections 7.7 and 7.8). They are kept for the guest to read back;
//! memory behaves as write-back whatever they say.

use crate::paging::PHYSICAL_ADDRESS_BITS;
use crate::state::Msrs;

const MTRR_CAP: u32 = 0xfe;
const VARIABLE_FIRST: u32 = 0x200;
const VARIABLE_LAST: u32 = 0x20f;
const DEF_TYPE: u32 = 0x2ff;
/// The fixed-range registers: 64K, two of 16K, eight of 4K.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// Eight variable ranges, fixed ranges, write-combining.
const CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// MTRRdefType: fixed ranges and all ranges enabled.
const DEF_TYPE_ENABLES: u64 = 3 << 10;
/// A variable range's mask: the range is valid.
const MASK_VALID: u64 = 1 << 11;
/// The page numbers that base and mask hold.
const PAGE_NUMBER: u64 = (1 << PHYSICAL_ADDRESS_BITS) - (1 << 12);

/// A register's value, `None` if it is none of these.
pub(super) fn read(msrs: &Msrs, number: u32) -> Option<u64> {
    match number {
        MTRR_CAP => Some(CAPABILITIES),
        DEF_TYPE => Some(msrs.mtrr_def_type),
        VARIABLE_FIRST..=VARIABLE_LAST => Some(msrs.mtrr_variable[(number - VARIABLE_FIRST) as usize]),
        _ => FIXED.iter().position(|&fixed| fixed == number).map(|n| msrs.mtrr_fixed[n]),
    }
}

/// Sets a register and tells whether it took the value; `None` if it is none of these.
pub(super) fn write(msrs: &mut Msrs, number: u32, value: u64) -> Option<bool> {
    let (slot, valid) = match number {
        MTRR_CAP => return Some(false),
        DEF_TYPE => {
            (&mut msrs.mtrr_def_type, is_type(value & 0xff) && value & !(DEF_TYPE_ENABLES | 0xff) == 0)
        }
        VARIABLE_FIRST..=VARIABLE_LAST => {
            let is_base = number.is_multiple_of(2);
            let valid = if is_base {
                is_type(value & 0xff) && value & !(PAGE_NUMBER | 0xff) == 0
            } else {
                value & !(PAGE_NUMBER | MASK_VALID) == 0
            };
            (&mut msrs.mtrr_variable[(number - VARIABLE_FIRST) as usize], valid)
        }
        _ => {
            let n = FIXED.iter().position(|&fixed| fixed == number)?;
            let valid = value.to_le_bytes().into_iter().all(|byte| is_type(u64::from(byte)));
            (&mut msrs.mtrr_fixed[n], valid)
        }
    };
    if valid {
        *slot = value;
    }
    Some(valid)
}

/// UC, WC, WT, WP, WB.
const fn is_type(value: u64) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// The value, if it is one that PAT can hold: eight memory types, of which UC- exists only here.
pub(super) fn valid_pat(value: u64) -> Option<u64> {
    let valid = |byte: u8| byte == 7 || is_type(u64::from(byte));
    value.to_le_bytes().into_iter().all(valid).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_refuse_unknown_memory_types_and_reserved_bits() {
        let mut msrs = Msrs::default();
        assert_eq!(write(&mut msrs, DEF_TYPE, 0xc06), Some(true));
        assert_eq!(write(&mut msrs, DEF_TYPE, 0xc02), Some(false));
        assert_eq!(write(&mut msrs, 0x201, 1 << 11 | 0xfff << 32), Some(true));
        assert_eq!(write(&mut msrs, 0x201, 1 << 60), Some(false));
        assert_eq!(write(&mut msrs, 0x259, 0x0606_0606_0606_0603), Some(false));
        assert_eq!(write(&mut msrs, 0x210, 0), None);
        assert_eq!((read(&msrs, DEF_TYPE), read(&msrs, 0x259)), (Some(0xc06), Some(0)));
        assert_eq!(valid_pat(0x0007_0406_0007_0406), Some(0x0007_0406_0007_0406));
        assert_eq!(valid_pat(2), None);
    }
}
