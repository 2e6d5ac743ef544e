//! A processor's registers as user code sees them, and how the execution of a case ended.

use tern_x86::cpuid::InstructionSets;
use tern_x86::state::FpuState;

use crate::codes::SETS;
use crate::random::Random;

/// General-purpose registers by their number.
pub const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// RAX, RCX, ... in the order of their encoding.
pub const RAX: usize = 0;
/// See [`RAX`].
pub const RCX: usize = 1;
/// See [`RAX`].
pub const RDX: usize = 2;
/// See [`RAX`].
pub const RBX: usize = 3;
/// See [`RAX`].
pub const RSP: usize = 4;
/// See [`RAX`].
pub const RBP: usize = 5;
/// See [`RAX`].
pub const RSI: usize = 6;
/// See [`RAX`].
pub const RDI: usize = 7;
/// See [`RAX`].
pub const R10: usize = 10;

/// Everything in registers that user code can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// General-purpose registers in the order of their encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// FS.base.
    pub fs_base: u64,
    /// GS.base.
    pub gs_base: u64,
    /// x87, MMX and SSE registers.
    pub fpu: FpuState,
}

/// The exception that ended a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its vector: 1 after a single step, 3 after the breakpoint behind the code.
    pub vector: u8,
    /// The error code, 0 where there is none.
    pub error_code: u64,
    /// CR2 for a page fault, else 0.
    pub address: u64,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By an exception.
    Event(Event),
    /// In a way in which none should end.
    Unexpected(String),
}

/// The state in which a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The registers then.
    pub registers: Registers,
}

/// A random x87, MMX and SSE state. Half of the states mask all exceptions; one in sixteen has an x87 exception pending.
pub fn random_fpu(random: &mut Random) -> FpuState {
    let mut fpu = FpuState::new();
    let masks = if random.one_in(2) { 0x3f } else { random.bits16() & 0x3f };
    let flags = random.bits16() & if random.one_in(8) { 0x7f } else { 0x40 | masks };
    let summary = if flags & !masks & 0x3f != 0 { 0x8080 } else { 0 };
    fpu.set_fcw(random.bits16() & 0x1f00 | 0x40 | masks);
    fpu.set_fsw(random.bits16() & 0x7f00 | flags | summary);
    fpu.set_ftw(match random.below(4) {
        0 => 0,
        1 => random.byte(),
        _ => 0xff,
    });
    for n in 0..8 {
        let value = random.extended();
        fpu.image_mut()[32 + 16 * n..][..10].copy_from_slice(&value);
    }
    for n in 0..16 {
        let value = random.vector();
        fpu.set_xmm(n, value);
    }
    // Most code leaves the upper halves clear.
    if SETS.contains(InstructionSets::AVX) && !random.one_in(4) {
        for half in fpu.ymm_mut().chunks_mut(16) {
            half.copy_from_slice(&random.vector().to_le_bytes());
        }
    }
    let bits = random_mxcsr(random);
    fpu.image_mut()[24..28].copy_from_slice(&bits.to_le_bytes());
    fpu
}

/// A random valid MXCSR. Half of them mask all exceptions.
pub fn random_mxcsr(random: &mut Random) -> u32 {
    let masks = if random.one_in(2) { 0x1f80 } else { random.bits32() & 0x1f80 };
    random.bits32() & 0xe07f | masks
}
