//! AMD's own registers that systems read without asking whether they exist (AMD PPR for family 19h, "MSRs"). They hold a
//! constant: what a write would change is either set already or means nothing here.

/// Microcode patch level.
const PATCH_LEVEL: u32 = 0x8b;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const NB_CFG: u32 = 0xc001_001f;
const DE_CFG: u32 = 0xc001_1029;

/// A patch level of this family and model, later than those with known errata.
const PATCH_LEVEL_VALUE: u64 = 0x0a10_1148;
/// HWCR: the TSC counts at the P0 frequency.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// DE_CFG: LFENCE is dispatch-serialising.
const DE_CFG_LFENCE_SERIALIZE: u64 = 1 << 1;

/// A register's value, `None` if it is none of these.
pub(super) const fn read(number: u32) -> Option<u64> {
    match number {
        PATCH_LEVEL => Some(PATCH_LEVEL_VALUE),
        SYSCFG | NB_CFG => Some(0),
        HWCR => Some(HWCR_TSC_FREQ_SEL),
        DE_CFG => Some(DE_CFG_LFENCE_SERIALIZE),
        _ => None,
    }
}

/// Whether a register exists whose writes have no effect.
pub(super) const fn ignores_writes(number: u32) -> bool {
    matches!(number, SYSCFG | HWCR | NB_CFG | DE_CFG)
}
