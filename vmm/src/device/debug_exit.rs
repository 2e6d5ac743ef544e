//! The debug-exit port at 0xf4: a write ends the machine with a status.

use tern_chipset::{Time, debug_exit};

use crate::bus::{BusDevice, Request};

pub(super) struct DebugExit;

impl BusDevice for DebugExit {
    fn read(&self, _offset: u64, data: &mut [u8], _now: Time) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8], _now: Time) -> Option<Request> {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        // An exit status has eight bits, in QEMU as well.
        let [status, ..] = debug_exit::status(u32::from_le_bytes(value)).to_le_bytes();
        Some(Request::DebugExit(status))
    }
}
