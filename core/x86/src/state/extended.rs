//! What a processor has beyond the models: where the host's own was passed to the guest.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A part of the XSAVE area beyond x87, SSE and AVX (SDM volume 1, section 13.1), in the layout that the processor saves it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its bit in XCR0: 3 to 62.
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
