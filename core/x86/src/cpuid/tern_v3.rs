//! `tern-v3`: [`tern_v2`] with the instructions of x86-64-v3, AVX2 and what is in its company, and those for ciphers that every
//! such processor has. Guests get it by default where the engine and the host can carry it out.

use alloc::borrow::Cow;

use super::sets::{AVX_PLACE, InstructionSets, with_sets};
use super::{CpuModel, Leaf, tern_v2};

pub(super) const MODEL: CpuModel = CpuModel {
    name: "tern-v3",
    brand: "Tern v3 Processor",
    leaves: Cow::Borrowed(&LEAVES),
    ..tern_v2::MODEL
};

/// What it has beyond the other.
const MORE: InstructionSets = InstructionSets::AVX
    .union(InstructionSets::AVX2)
    .union(InstructionSets::FMA)
    .union(InstructionSets::F16C)
    .union(InstructionSets::BMI1)
    .union(InstructionSets::BMI2)
    .union(InstructionSets::LZCNT)
    .union(InstructionSets::MOVBE)
    .union(InstructionSets::AES)
    .union(InstructionSets::PCLMULQDQ);

static LEAVES: [Leaf; tern_v2::LEAVES.len() + 1] = {
    let mut leaves = [AVX_PLACE; tern_v2::LEAVES.len() + 1];
    let mut n = 0;
    while n < tern_v2::LEAVES.len() {
        leaves[n] = with_sets(tern_v2::LEAVES[n], MORE);
        n += 1;
    }
    leaves
};
