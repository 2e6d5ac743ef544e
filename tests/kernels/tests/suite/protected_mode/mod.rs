//! 32-bit protected mode: segmentation, levels, tasks, virtual-8086 mode, paging (APM volume 2, chapters 4, 5, 8, 12).

mod gates;
mod levels;
mod paging;
mod segments;
mod tasks;
mod virtual_8086;

use tern_test_kernels::protected::{FLAT, FREE_SELECTOR, descriptor};

/// Access bytes: present, level 0.
const CODE: u8 = 0x9b;
const DATA_RW: u8 = 0x93;
const DATA_RO: u8 = 0x91;
const EXPAND_DOWN: u8 = 0x97;
const EXECUTE_ONLY: u8 = 0x99;
const CONFORMING: u8 = 0x9f;
/// Access bit: the level.
const DPL_3: u8 = 0x60;
const PRESENT: u8 = 0x80;
/// Descriptor flag: 32-bit.
const BIG: u8 = 4;

/// The `n`th selector that is free.
const fn free(n: u16) -> u16 {
    FREE_SELECTOR + 8 * n
}

/// A flat segment with this access byte.
fn flat(access: u8) -> u64 {
    descriptor(0, 0xf_ffff, access, FLAT)
}
