//! The device status: how far driver and device have come (virtio 1.2, section 2.1 and 3.1.1).
//!
//! ```text
//!  0 ──▶ ACKNOWLEDGE ──▶ DRIVER ──▶ FEATURES_OK ──▶ DRIVER_OK        any ──▶ 0: reset
//!                                   if agreed       the device works         FAILED: the driver gave up
//!                                                                            NEEDS_RESET: the device did
//! ```

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// The bits of `device_status`.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Status: u8 {
        /// The guest has seen the device.
        const ACKNOWLEDGE = 1 << 0;
        /// It knows how to drive it.
        const DRIVER = 1 << 1;
        /// It is ready.
        const DRIVER_OK = 1 << 2;
        /// Features are agreed on.
        const FEATURES_OK = 1 << 3;
        /// The device cannot go on.
        const NEEDS_RESET = 1 << 6;
        /// The driver cannot go on.
        const FAILED = 1 << 7;
    }
}
