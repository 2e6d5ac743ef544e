//! A window into the memory region through configuration space, for those who cannot reach memory there: firmware in 16 or
//! 32 bits (virtio 1.2, section 4.1.4.9).

use tern_chipset::pci::{Endpoint, Function as _};

use super::layout::BAR;

/// Where in the capability `bar`, `offset`, `length` and `pci_cfg_data` lie.
const CAP_BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;
const DATA: u16 = 16;

/// What the window shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// In the region.
    pub offset: u64,
    /// 1, 2 or 4 bytes.
    pub length: usize,
}

/// Whether an access to this register goes through the window of the capability at `window`.
pub(super) const fn is_data(window: u16, register: u16) -> bool {
    register & !3 == window + DATA
}

/// What the window shows now: nothing if the driver has chosen something that cannot be.
pub(super) fn target(endpoint: &Endpoint, window: u16) -> Option<Target> {
    let read = |register: u16| {
        let mut data = [0; 4];
        endpoint.read_config(window + register, &mut data);
        u32::from_le_bytes(data)
    };
    let [bar, ..] = read(CAP_BAR).to_le_bytes();
    let (offset, length) = (read(OFFSET), read(LENGTH));
    let can_be = bar == BAR.index && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
    let target = Target { offset: u64::from(offset), length: length as usize };
    (can_be && target.offset < BAR.size).then_some(target)
}

/// The bytes of `value` that a read of `register` asks for.
pub(super) fn part(value: &[u8; 4], register: u16, data: &mut [u8]) {
    let skipped = usize::from(register & 3);
    for (byte, value) in data.iter_mut().zip(value.iter().skip(skipped)) {
        *byte = *value;
    }
}
