//! Where things lie in the 64-bit FXSAVE image (APM volume 2, figure 11-8), for the instructions of this module.

use crate::state::FpuState;

/// FSW: the six exception flags; the same bits of FCW are their masks.
pub const X87_EXCEPTIONS: u16 = 0x003f;
/// FSW: exception summary (ES) and busy (B), which are always equal.
pub const X87_SUMMARY: u16 = 0x8080;
/// FSW: stack top.
const TOP: u16 = 7 << TOP_SHIFT;
const TOP_SHIFT: u32 = 11;

const FOP: usize = 6;
const FIP: usize = 8;
const FDP: usize = 16;
const ST: usize = 32;
/// Bytes from one register to the next.
const ST_STRIDE: usize = 16;

/// The x87 exception pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pointers {
    /// FOP: the low three bits of the first opcode byte above the second one.
    pub opcode: u16,
    /// FIP.
    pub instruction: u64,
    /// FDP.
    pub operand: u64,
}

pub(super) fn pointers(fpu: &FpuState) -> Pointers {
    let image = fpu.image();
    Pointers {
        opcode: read_u16(image, FOP),
        instruction: read_u64(image, FIP),
        operand: read_u64(image, FDP),
    }
}

pub(super) fn set_pointers(fpu: &mut FpuState, pointers: Pointers) {
    let image = fpu.image_mut();
    write(image, FOP, &(pointers.opcode & 0x7ff).to_le_bytes());
    write(image, FIP, &pointers.instruction.to_le_bytes());
    write(image, FDP, &pointers.operand.to_le_bytes());
}

/// The ten bytes of ST(`n`), `n` from 0 to 7.
pub(super) fn st(fpu: &FpuState, n: usize) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&fpu.image()[ST + ST_STRIDE * n..][..10]);
    bytes
}

/// Sets the ten bytes of ST(`n`), `n` from 0 to 7.
pub(super) fn set_st(fpu: &mut FpuState, n: usize, value: [u8; 10]) {
    write(fpu.image_mut(), ST + ST_STRIDE * n, &value);
}

/// The number of the physical register that is ST(0).
pub(super) fn top(fpu: &FpuState) -> usize {
    top_of(fpu.fsw())
}

/// The stack top in a status word.
pub(super) fn top_of(fsw: u16) -> usize {
    usize::from(fsw >> TOP_SHIFT & 7)
}

/// Moves the stack top to where `fsw` has it and leaves each physical register its contents. The image holds registers
/// relative to the top, so in the image they move.
pub(super) fn move_top(fpu: &mut FpuState, fsw: u16) {
    let (old, new) = (top(fpu), top_of(fsw));
    let before = *fpu;
    for n in 0..8 {
        set_st(fpu, n, st(&before, (new + n + 8 - old) & 7));
    }
    fpu.set_fsw(fpu.fsw() & !TOP | fsw & TOP);
}

/// Sets FCW and FSW as loading instructions do: bits that do not exist are dropped or forced, ES and B say whether an
/// exception waits. Registers keep their places in the image.
pub(super) fn set_control_and_status(fpu: &mut FpuState, fcw: u16, fsw: u16) {
    fpu.set_fcw(fcw & 0x1f3f | 0x0040);
    fpu.set_fsw(fsw & !X87_SUMMARY);
    summarise(fpu);
}

/// Makes ES and B agree with the exception flags and masks.
pub(super) const fn summarise(fpu: &mut FpuState) {
    let waits = fpu.fsw() & !fpu.fcw() & X87_EXCEPTIONS != 0;
    fpu.set_fsw(fpu.fsw() & !X87_SUMMARY | if waits { X87_SUMMARY } else { 0 });
}

pub(super) fn write(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from(read_u16(bytes, at)) | u32::from(read_u16(bytes, at + 2)) << 16
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(read_u32(bytes, at)) | u64::from(read_u32(bytes, at + 4)) << 32
}
