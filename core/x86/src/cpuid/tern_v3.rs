//! `tern-v3`: [`tern_v2`] with the instructions of x86-64-v3, AVX2 and what is in its company, and those for ciphers that every
//! such processor has. Guests get it by default where the engine and the host can carry it out.

use alloc::borrow::Cow;

use super::feature::{self, Feature};
use super::sets::AVX_COMPONENT;
use super::{CpuModel, CpuidResult, Leaf, tern_v2};
use crate::vector::{AVX_OFFSET, AVX_SIZE};

pub(super) const MODEL: CpuModel = CpuModel {
    name: "tern-v3",
    brand: "Tern v3 Processor",
    leaves: Cow::Borrowed(&LEAVES),
    ..tern_v2::MODEL
};

/// What it has beyond the other.
const MORE: [Feature; 10] = [
    feature::AVX,
    feature::AVX2,
    feature::FMA,
    feature::F16C,
    feature::BMI1,
    feature::BMI2,
    feature::LZCNT,
    feature::MOVBE,
    feature::AES,
    feature::PCLMULQDQ,
];

/// Bytes of an XSAVE area with all components. Both formats have the same size.
const XSAVE_SIZE: u32 = (AVX_OFFSET + AVX_SIZE) as u32;

/// Where the upper halves of the YMM registers are in an XSAVE area.
const UPPER_HALVES: Leaf = Leaf {
    function: 0xd,
    index: Some(2),
    result: CpuidResult { eax: AVX_SIZE as u32, ebx: AVX_OFFSET as u32, ecx: 0, edx: 0 },
};

static LEAVES: [Leaf; tern_v2::LEAVES.len() + 1] = {
    let mut leaves = [UPPER_HALVES; tern_v2::LEAVES.len() + 1];
    let mut n = 0;
    while n < tern_v2::LEAVES.len() {
        leaves[n] = with_more(tern_v2::LEAVES[n]);
        n += 1;
    }
    leaves
};

/// A leaf of the other model, as it is here.
const fn with_more(mut leaf: Leaf) -> Leaf {
    let mut n = 0;
    while n < MORE.len() {
        let index = match leaf.index {
            Some(index) => index,
            None => 0,
        };
        if MORE[n].function == leaf.function && MORE[n].index == index {
            *MORE[n].register.of_mut(&mut leaf.result) |= MORE[n].mask();
        }
        n += 1;
    }
    match (leaf.function, leaf.index) {
        (0xd, Some(0)) => {
            leaf.result.eax |= AVX_COMPONENT;
            (leaf.result.ebx, leaf.result.ecx) = (XSAVE_SIZE, XSAVE_SIZE);
        }
        (0xd, Some(1)) => leaf.result.ebx = XSAVE_SIZE,
        _ => {}
    }
    leaf
}
