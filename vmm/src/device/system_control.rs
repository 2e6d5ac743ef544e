//! System control port A at 0x92: fast reset, and A20 for those who look.

use std::sync::Mutex;

use tern_chipset::Time;
use tern_chipset::system_control::SystemControl;

use crate::bus::{ByteDevice, Request};
use crate::lock;

#[derive(Default)]
pub(super) struct SystemControlPort(Mutex<SystemControl>);

impl SystemControlPort {
    pub(super) fn save(&self) -> SystemControl {
        lock(&self.0).clone()
    }

    pub(super) fn restore(&self, saved: &SystemControl) {
        *lock(&self.0) = saved.clone();
    }

    pub(super) fn reset(&self) {
        *lock(&self.0) = SystemControl::new();
    }
}

impl ByteDevice for SystemControlPort {
    fn read_byte(&self, _offset: u64, _now: Time) -> u8 {
        lock(&self.0).read()
    }

    fn write_byte(&self, _offset: u64, value: u8, _now: Time) -> Option<Request> {
        lock(&self.0).write(value).map(Request::from)
    }
}
