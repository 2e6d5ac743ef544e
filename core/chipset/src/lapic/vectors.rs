//! A set of interrupt vectors, as the IRR, ISR and TMR hold it.

use serde::{Deserialize, Serialize};

/// 256 bits in eight 32-bit registers; vector `v` is bit `v % 32` of register `v / 32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors(pub [u32; 8]);

impl Vectors {
    /// Puts `vector` in.
    pub fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] |= 1 << (vector % 32);
    }

    /// Takes `vector` out.
    pub fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] &= !(1 << (vector % 32));
    }

    /// Whether `vector` is in.
    pub fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] & (1 << (vector % 32)) != 0
    }

    /// The highest vector, which is the most urgent.
    pub fn highest(&self) -> Option<u8> {
        (0u8..8).rev().find_map(|index| {
            let register = self.0[usize::from(index)];
            let bit = register.checked_ilog2()?;
            Some(index * 32 + bit as u8)
        })
    }
}
