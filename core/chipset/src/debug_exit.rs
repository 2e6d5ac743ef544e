//! The port by which a test kernel ends its machine with a status: QEMU's `isa-debug-exit`.

/// The status that a write of `value` to the port ends the machine with: odd, so that zero stays
/// the mark of an orderly power-off. The highest bit of `value` is lost, as it is in QEMU.
pub const fn status(value: u32) -> u32 {
    value << 1 | 1
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn the_status_is_odd_and_tells_the_value() {
        assert_eq!([0, 1, 0x10].map(status), [1, 3, 0x21]);
        assert_eq!(status(u32::MAX), u32::MAX);
    }
}
