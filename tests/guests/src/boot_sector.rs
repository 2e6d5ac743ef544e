//! Guests of a few bytes: 16-bit code at 0x7c00.

/// `cli; jmp $`: only the host can stop it.
pub const LOOP_WITHOUT_INTERRUPTS: [u8; 3] = [0xfa, 0xeb, 0xfe];

/// `lidt [0x7c09]; ud2; limit 0, base 0`: an exception that no table tells how to handle, so a triple fault.
pub const TRIPLE_FAULT: [u8; 13] = [
    0x0f, 0x01, 0x1e, 0x07, 0x7c, // lidt [0x7c07]
    0x0f, 0x0b, // ud2
    0, 0, 0, 0, 0, 0, // limit and base
];

/// `mov bx, 0x1234; jmp 0xffff:0x10`: to the first address above 1 MiB.
pub const JUMP_ABOVE_1_MIB: [u8; 8] = [0xbb, 0x34, 0x12, 0xea, 0x10, 0x00, 0xff, 0xff];

/// Writes `value` to the debug-exit port: `mov al, value; out 0xf4, al; hlt`.
#[must_use]
pub fn debug_exit(value: u8) -> [u8; 5] {
    [0xb0, value, 0xe6, 0xf4, 0xf4]
}

/// Sends `byte` through the first serial port, and then only the host can stop it: `mov dx, 0x3f8; mov al, byte; out dx, al; cli; jmp $`.
#[must_use]
pub fn speak_and_loop(byte: u8) -> [u8; 9] {
    [0xba, 0xf8, 0x03, 0xb0, byte, 0xee, 0xfa, 0xeb, 0xfe]
}

/// The code as a boot sector that shows by its bytes to be one: 512 bytes that end with the signature.
///
/// # Panics
/// There is more code than a boot sector has room for.
#[must_use]
pub fn sector(code: &[u8]) -> Vec<u8> {
    assert!(code.len() <= 510, "a boot sector has room for 510 bytes");
    let mut sector = code.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}
