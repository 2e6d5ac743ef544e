//! What a processor has beyond the models: where the host's own was passed to the guest.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fpu::{FpuState, YMM_SIZE};

/// A part of the XSAVE area beyond x87 and SSE (SDM volume 1, section 13.1), in the layout that the processor saves it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its bit in XCR0: 2 to 62. Processors keep 2, AVX's, in [`FpuState`].
    pub number: u8,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// Registers that no model has, by number, and only those that differ from what they are after power-on. A machine with a named
/// model has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extended {
    /// Vector registers and the like, ascending.
    pub components: Vec<Component>,
    /// Model-specific registers beyond [`super::Msrs`], ascending.
    pub msrs: Vec<(u32, u64)>,
}

/// AVX's component, which [`FpuState`] holds: the upper halves of the YMM registers.
const AVX: u8 = 2;

impl Component {
    /// AVX's component as it is in `fpu`; none if it is in its initial state.
    #[must_use]
    pub fn of_avx(fpu: &FpuState) -> Option<Self> {
        (*fpu.ymm() != [0; YMM_SIZE]).then(|| Self { number: AVX, bytes: fpu.ymm().to_vec() })
    }
}

impl Extended {
    /// Moves AVX's component, if it is here, to where it belongs.
    pub fn give_avx_to(&mut self, fpu: &mut FpuState) {
        let is_avx = |component: &Component| component.number == AVX && component.bytes.len() == YMM_SIZE;
        if let Some(at) = self.components.iter().position(is_avx) {
            fpu.ymm_mut().copy_from_slice(&self.components.remove(at).bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_halves_are_a_component_only_while_they_are_not_clear() {
        let mut fpu = FpuState::new();
        assert_eq!(Component::of_avx(&fpu), None);
        fpu.set_vector(7, &[9; 32]);
        let mut extended = Extended::default();
        extended.components.extend(Component::of_avx(&fpu));
        extended.components.push(Component { number: 9, bytes: alloc::vec![1; 8] });
        let mut other = FpuState::new();
        extended.give_avx_to(&mut other);
        assert_eq!(other.ymm(), fpu.ymm());
        assert_eq!(extended.components.len(), 1);
    }
}
