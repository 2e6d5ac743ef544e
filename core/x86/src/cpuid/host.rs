//! `host`: whatever the engine and the host can give. Engines that run guest code by the hardware pass on what it has;
//! the software engine gives [`tern_v2`] and the [`super::InstructionSets`] that it executes on its host.

use super::{Basis, CpuModel, tern_v2};

pub(super) const MODEL: CpuModel =
    CpuModel { name: "host", brand: "Tern Processor", basis: Basis::Host, ..tern_v2::MODEL };
