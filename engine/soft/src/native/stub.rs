//! The code of one stub.
//!
//! ```text
//! rdi  FXSAVE image        rsi  memory operand        r8  general registers        r9  flags
//!
//! SSE:        movaps xmmN, [image]…  mov rax, [gpr]  [MXCSR ← guest's]  OP  movaps [image], xmmN  mov [gpr], rax
//!             [flags] [MXCSR flags → image, MXCSR ← host's]  [EMMS]  ret
//! AVX:        the same with both halves of each register; vzeroupper before the end, as Rust code expects it
//! x87, MMX:   mov rax, [gpr]  [flags]  fxrstor64 [image]  OP  mov [gpr], rax  [flags]  fxsave64 [image]
//!             x87 and MXCSR ← host's  ret
//! ```

use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, IcedError, Instruction, MemoryOperand, Mnemonic, OpKind,
    Register as R,
};
use tern_x86::state::FpuState;
use tern_x86::vector::{MemoryAccess, VectorClass, VectorInfo};

use super::exceptions::TinyResult;

/// A stub as a function: FXSAVE image with what follows it (aligned to 64), memory operand, general registers by encoding number, flags.
/// Calling one is as unsafe as `NativeUnit::run`, whose callers promise what it needs.
pub(super) type StubFn = unsafe extern "sysv64" fn(*mut u8, *mut u8, *mut u64, *mut u64);

/// No stub is longer, alignment included.
pub(super) const MAX_SIZE: usize = 224;

/// How a stub must be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// XMM and YMM registers only, no exceptions.
    Sse,
    /// XMM and YMM registers only; the stub takes MXCSR from the image, which must mask all exceptions, and adds the flags raised.
    SseArithmetic,
    /// Loads and stores the whole image.
    X87 {
        /// An x87 instruction that stores to memory.
        stores: bool,
    },
    /// Loads and stores the whole image, whose MXCSR must mask all exceptions.
    MmxArithmetic,
}

impl Kind {
    /// The whole image is loaded, and a pending x87 exception comes first.
    pub(super) const fn uses_x87(self) -> bool {
        matches!(self, Self::X87 { .. } | Self::MmxArithmetic)
    }
}

/// What is known of a stub besides its code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stub {
    /// Where its code is.
    pub(super) offset: u32,
    /// How to call it.
    pub(super) kind: Kind,
    /// Where to look for a tiny result.
    pub(super) tiny: TinyResult,
}

impl Stub {
    pub(super) fn new(offset: u32, instruction: &Instruction, info: &VectorInfo) -> Self {
        let stores = info.memory.is_some_and(|memory| memory.access == MemoryAccess::Write);
        let kind = match info.class {
            VectorClass::Sse | VectorClass::Avx if info.simd_exceptions => Kind::SseArithmetic,
            VectorClass::Sse | VectorClass::Avx => Kind::Sse,
            VectorClass::Mmx if info.simd_exceptions => Kind::MmxArithmetic,
            VectorClass::Mmx => Kind::X87 { stores: false },
            VectorClass::X87 => Kind::X87 { stores },
        };
        Self { offset, kind, tiny: tiny_result(instruction) }
    }
}

fn tiny_result(instruction: &Instruction) -> TinyResult {
    use Mnemonic as M;
    let Ok(n) = u8::try_from(instruction.op0_register().number()) else { return TinyResult::None };
    if instruction.code().encoding() == EncodingKind::VEX {
        return tiny_vex_result(instruction, n);
    }
    match instruction.mnemonic() {
        M::Addss | M::Subss | M::Mulss | M::Divss | M::Cvtsd2ss => TinyResult::Single(n),
        M::Addsd | M::Subsd | M::Mulsd | M::Divsd => TinyResult::Double(n),
        M::Addps | M::Subps | M::Mulps | M::Divps | M::Cvtpd2ps => TinyResult::PackedSingle(n),
        M::Addsubps | M::Haddps | M::Hsubps | M::Dpps => TinyResult::PackedSingle(n),
        M::Addpd | M::Subpd | M::Mulpd | M::Divpd => TinyResult::PackedDouble(n),
        M::Addsubpd | M::Haddpd | M::Hsubpd | M::Dppd => TinyResult::PackedDouble(n),
        _ => TinyResult::None,
    }
}

/// The same of those that VEX encodes.
fn tiny_vex_result(instruction: &Instruction, n: u8) -> TinyResult {
    use Mnemonic as M;
    if instruction.cpuid_features().contains(&CpuidFeature::FMA) {
        let name = format!("{:?}", instruction.mnemonic());
        return match name.get(name.len().saturating_sub(2)..) {
            Some("ps") => TinyResult::WideSingle(n),
            Some("pd") => TinyResult::WideDouble(n),
            Some("ss") => TinyResult::Single(n),
            _ => TinyResult::Double(n),
        };
    }
    match instruction.mnemonic() {
        M::Vaddss | M::Vsubss | M::Vmulss | M::Vdivss | M::Vcvtsd2ss => TinyResult::Single(n),
        M::Vaddsd | M::Vsubsd | M::Vmulsd | M::Vdivsd => TinyResult::Double(n),
        M::Vaddps | M::Vsubps | M::Vmulps | M::Vdivps | M::Vcvtpd2ps => TinyResult::WideSingle(n),
        M::Vaddsubps | M::Vhaddps | M::Vhsubps | M::Vdpps => TinyResult::WideSingle(n),
        M::Vaddpd | M::Vsubpd | M::Vmulpd | M::Vdivpd => TinyResult::WideDouble(n),
        M::Vaddsubpd | M::Vhaddpd | M::Vhsubpd | M::Vdppd => TinyResult::WideDouble(n),
        M::Vcvtps2ph if instruction.op0_kind() == OpKind::Register => TinyResult::PackedHalf(n),
        _ => TinyResult::None,
    }
}

const IMAGE: R = R::RDI;
const MEMORY: R = R::RSI;
const GPR: R = R::R8;
const FLAGS: R = R::R9;
const SCRATCH: R = R::R10;
const SCRATCH32: R = R::R10D;

const FSW_OFFSET: i64 = 2;
/// ES in the low byte of FSW.
const EXCEPTION_SUMMARY: i32 = 0x80;
const MXCSR_OFFSET: i64 = 24;
const XMM_OFFSET: i64 = FpuState::XMM_OFFSET as i64;
const YMM_OFFSET: i64 = FpuState::YMM_OFFSET as i64;
/// CF, PF, AF, ZF, SF and OF.
const STATUS_FLAGS: i32 = 0x8d5;
/// What System V's ABI expects between functions.
const HOST_MXCSR: i32 = 0x1f80;
/// The same of the x87 control word.
pub const HOST_FCW: u16 = 0x037f;

/// The bytes of the stub for `instruction`.
pub(super) fn assemble(instruction: &Instruction, info: &VectorInfo) -> Result<Vec<u8>, IcedError> {
    let mut a = Assembler { encoder: Encoder::new(64) };
    let explicit = explicit_gpr(instruction);
    if info.gpr_read | info.gpr_written != 0 || info.flags_read || info.flags_written {
        // The third and fourth argument, out of the way of instructions that use RCX and RDX.
        a.emit(Instruction::with2(Code::Mov_r64_rm64, GPR, R::RDX))?;
        a.emit(Instruction::with2(Code::Mov_r64_rm64, FLAGS, R::RCX))?;
    }
    for n in (0..16).filter(|n| info.gpr_read >> n & 1 != 0) {
        a.emit(Instruction::with2(
            Code::Mov_r64_rm64,
            host_register(n, explicit),
            at(GPR, 8 * i64::from(n)),
        ))?;
    }
    if matches!(info.class, VectorClass::Sse | VectorClass::Avx) {
        a.sse(instruction, info, explicit)?;
    } else {
        a.x87(instruction, info, explicit)?;
    }
    a.emit(Ok(Instruction::with(Code::Retnq)))?;
    Ok(a.encoder.take_buffer())
}

/// The instruction with its memory operand at `[rsi]` and its general register, if it names one, replaced by RAX. Prefixes
/// that do not select the instruction are dropped.
fn rewritten(instruction: &Instruction) -> Instruction {
    let mut new = *instruction;
    new.set_has_lock_prefix(false);
    new.set_has_rep_prefix(false);
    new.set_has_repne_prefix(false);
    new.set_segment_prefix(R::None);
    if (0..new.op_count()).any(|i| new.op_kind(i) == OpKind::Memory) {
        new.set_memory_base(MEMORY);
        new.set_memory_index(R::None);
        new.set_memory_index_scale(1);
        new.set_memory_displacement64(0);
        new.set_memory_displ_size(0);
    }
    for i in 0..new.op_count() {
        if new.op_kind(i) == OpKind::Register {
            match new.op_register(i) {
                r if r.is_gpr32() => new.set_op_register(i, R::EAX),
                r if r.is_gpr64() => new.set_op_register(i, R::RAX),
                _ => {}
            }
        }
    }
    new
}

/// The number of the general register that the instruction names; at most one.
fn explicit_gpr(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count())
        .filter(|&i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_gpr())
        .map(|i| u32::try_from(instruction.op_register(i).number()).unwrap_or(0))
        .next()
}

/// Where the guest's register `n` is while the instruction executes: implicit ones, all of them caller-saved, are where
/// they belong.
fn host_register(n: u32, explicit: Option<u32>) -> R {
    match n {
        n if explicit == Some(n) => R::RAX,
        0 => R::RAX,
        1 => R::RCX,
        _ => R::RDX,
    }
}

/// The vector registers that the instruction names or implies, and those that it may change: bit *n* is register *n*.
fn vector_registers(instruction: &Instruction, info: &VectorInfo) -> (u16, u16) {
    use Mnemonic as M;
    let (implied, implied_written) = match instruction.mnemonic() {
        M::Pblendvb | M::Blendvps | M::Blendvpd | M::Sha256rnds2 => (1, 0),
        M::Pcmpestrm | M::Pcmpestrm64 | M::Pcmpistrm => (1, 1),
        M::Vpcmpestrm | M::Vpcmpestrm64 | M::Vpcmpistrm => (1, 1),
        _ => (0, 0),
    };
    let (mut named, mut written) = (implied, implied_written);
    for i in 0..instruction.op_count() {
        let register = instruction.op_register(i);
        if instruction.op_kind(i) == OpKind::Register && (register.is_xmm() || register.is_ymm()) {
            named |= 1 << register.number();
            // Whatever sets the flags compares, and leaves its first operand alone; so does what stores.
            if i == 0 && !info.flags_written {
                written |= 1 << register.number();
            }
        }
    }
    (named, written)
}

fn at(base: R, displacement: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, displacement)
}

fn xmm(n: u16) -> (R, MemoryOperand) {
    (R::XMM0 + u32::from(n), at(IMAGE, XMM_OFFSET + 16 * i64::from(n)))
}

/// The whole register, and where its upper half is.
fn ymm(n: u16) -> (R, MemoryOperand) {
    (R::YMM0 + u32::from(n), at(IMAGE, YMM_OFFSET + 16 * i64::from(n)))
}

struct Assembler {
    encoder: Encoder,
}

impl Assembler {
    fn emit(&mut self, instruction: Result<Instruction, IcedError>) -> Result<(), IcedError> {
        // The one branch is relative to itself; nothing depends on where the code will be.
        self.encoder.encode(&instruction?, 0).map(drop)
    }

    fn sse(
        &mut self,
        instruction: &Instruction,
        info: &VectorInfo,
        explicit: Option<u32>,
    ) -> Result<(), IcedError> {
        let (named, written) = vector_registers(instruction, info);
        let wide = info.class == VectorClass::Avx;
        for n in (0..16).filter(|n| named >> n & 1 != 0) {
            let (register, slot) = xmm(n);
            if wide {
                let (whole, half) = ymm(n);
                self.emit(Instruction::with2(Code::VEX_Vmovaps_xmm_xmmm128, register, slot))?;
                self.emit(Instruction::with4(
                    Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8,
                    whole,
                    whole,
                    half,
                    1,
                ))?;
            } else {
                self.emit(Instruction::with2(Code::Movaps_xmm_xmmm128, register, slot))?;
            }
        }
        // Below the stack pointer is the red zone, which signal handlers leave alone.
        let guest = at(R::RSP, -8);
        if info.simd_exceptions {
            let control = HOST_MXCSR | 0xe040; // The masks, DAZ, RC and FZ: no flag and no bit that does not exist.
            self.emit(Instruction::with2(Code::Mov_r32_rm32, SCRATCH32, at(IMAGE, MXCSR_OFFSET)))?;
            self.emit(Instruction::with2(Code::And_rm32_imm32, SCRATCH32, control))?;
            self.emit(Instruction::with2(Code::Mov_rm32_r32, guest, SCRATCH32))?;
            self.emit(Instruction::with1(Code::Ldmxcsr_m32, guest))?;
        }
        self.emit(Ok(rewritten(instruction)))?;
        for n in (0..16).filter(|n| written >> n & 1 != 0) {
            let (register, slot) = xmm(n);
            if wide {
                let (whole, half) = ymm(n);
                self.emit(Instruction::with2(Code::VEX_Vmovaps_xmmm128_xmm, slot, register))?;
                self.emit(Instruction::with3(Code::VEX_Vextractf128_xmmm128_ymm_imm8, half, whole, 1))?;
            } else {
                self.emit(Instruction::with2(Code::Movaps_xmmm128_xmm, slot, register))?;
            }
        }
        self.store_gprs(info, explicit)?;
        if info.flags_written {
            self.store_flags()?;
        }
        if info.simd_exceptions {
            self.emit(Instruction::with1(Code::Stmxcsr_m32, guest))?;
            self.restore_mxcsr()?;
            self.emit(Instruction::with2(Code::Mov_r32_rm32, SCRATCH32, guest))?;
            self.emit(Instruction::with2(Code::And_rm32_imm8, SCRATCH32, 0x3f))?;
            self.emit(Instruction::with2(Code::Or_rm32_r32, at(IMAGE, MXCSR_OFFSET), SCRATCH32))?;
        }
        if wide {
            self.emit(Ok(Instruction::with(Code::VEX_Vzeroupper)))?;
        }
        if instruction.mnemonic() == Mnemonic::Cvtpi2ps {
            // Its operand is in memory. The guest's processor is AMD's, where it leaves the x87 registers alone, as it leaves the guest's
            // here; by Intel's manual the host's are in MMX mode now, which Rust code does not expect.
            self.emit(Ok(Instruction::with(Code::Emms)))?;
        }
        Ok(())
    }

    fn x87(
        &mut self,
        instruction: &Instruction,
        info: &VectorInfo,
        explicit: Option<u32>,
    ) -> Result<(), IcedError> {
        if info.flags_read || info.flags_written {
            // Also where they are only written: Intel's FCOMI leaves them alone if it raises an unmasked exception.
            self.load_flags()?;
        }
        self.emit(Instruction::with1(Code::Fxrstor64_m512byte, at(IMAGE, 0)))?;
        self.emit(Ok(rewritten(instruction)))?;
        self.store_gprs(info, explicit)?;
        if info.flags_written {
            self.store_flags()?;
        }
        self.emit(Instruction::with1(Code::Fxsave64_m512byte, at(IMAGE, 0)))?;
        self.restore_x87()?;
        self.restore_mxcsr()
    }

    /// Empties the x87 stack and masks the exceptions, as FNINIT does, which takes as long as FXSAVE and is only executed
    /// if the image says that an exception is pending: EMMS and FLDCW would raise it.
    fn restore_x87(&mut self) -> Result<(), IcedError> {
        /// Over FNINIT, from the start of the two-byte jump to the end of the two-byte instruction.
        const OVER_FNINIT: u64 = 4;
        let control = at(R::RSP, -8);
        self.emit(Instruction::with2(Code::Test_rm8_imm8, at(IMAGE, FSW_OFFSET), EXCEPTION_SUMMARY))?;
        self.emit(Instruction::with_branch(Code::Je_rel8_64, OVER_FNINIT))?;
        self.emit(Ok(Instruction::with(Code::Fninit)))?;
        self.emit(Ok(Instruction::with(Code::Emms)))?;
        self.emit(Instruction::with2(Code::Mov_rm32_imm32, control, i32::from(HOST_FCW)))?;
        self.emit(Instruction::with1(Code::Fldcw_m2byte, control))
    }

    fn store_gprs(&mut self, info: &VectorInfo, explicit: Option<u32>) -> Result<(), IcedError> {
        for n in (0..16).filter(|n| info.gpr_written >> n & 1 != 0) {
            let slot = at(GPR, 8 * i64::from(n));
            self.emit(Instruction::with2(Code::Mov_rm64_r64, slot, host_register(n, explicit)))?;
        }
        Ok(())
    }

    fn load_flags(&mut self) -> Result<(), IcedError> {
        self.emit(Instruction::with2(Code::Mov_r32_rm32, SCRATCH32, at(FLAGS, 0)))?;
        self.emit(Instruction::with2(Code::And_rm32_imm32, SCRATCH32, STATUS_FLAGS))?;
        self.emit(Instruction::with1(Code::Push_r64, SCRATCH))?;
        self.emit(Ok(Instruction::with(Code::Popfq)))
    }

    /// Replaces the arithmetic flags in memory by the present ones.
    fn store_flags(&mut self) -> Result<(), IcedError> {
        self.emit(Ok(Instruction::with(Code::Pushfq)))?;
        self.emit(Instruction::with1(Code::Pop_r64, SCRATCH))?;
        self.emit(Instruction::with2(Code::And_rm32_imm32, SCRATCH32, STATUS_FLAGS))?;
        self.emit(Instruction::with2(Code::And_rm64_imm32, at(FLAGS, 0), !STATUS_FLAGS))?;
        self.emit(Instruction::with2(Code::Or_rm64_r64, at(FLAGS, 0), SCRATCH))
    }

    fn restore_mxcsr(&mut self) -> Result<(), IcedError> {
        let host = at(R::RSP, -4);
        self.emit(Instruction::with2(Code::Mov_rm32_imm32, host, HOST_MXCSR))?;
        self.emit(Instruction::with1(Code::Ldmxcsr_m32, host))
    }
}
