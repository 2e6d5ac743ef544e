//! What is done for an instruction of a unit.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind};
use tern_x86::decode::{OpFlags, is_pause};
use tern_x86::vector::{VectorClass, VectorInfo, classify};

use super::fast_call::FastCall;
use super::operands::{has_flat_address, has_near_address, has_other_registers, needs_rewriting};
use crate::blocks::SoftOp;
use crate::native::executes;

/// A word that masks exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// FCW.
    X87,
    /// MXCSR.
    Mxcsr,
}

/// What is done for an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is copied, with its operands where the translator has them.
    Copy,
    /// As [`Kind::Copy`], on vector registers.
    Vector {
        /// An address that is no multiple of this is refused: 1, 16 or 32.
        alignment: u8,
        /// It is encoded by VEX, and works on YMM registers.
        wide: bool,
    },
    /// As [`Kind::Copy`], on x87 or MMX registers.
    X87 {
        /// An address that is no multiple of this is refused: 1 or 16.
        alignment: u8,
        /// It works on XMM registers, too, or as MXCSR says.
        vectors: bool,
    },
    /// FLDCW or LDMXCSR: copied behind a check that no exception becomes unmasked.
    LoadControl(Control),
    /// It only computes an address.
    Lea,
    /// DIV or IDIV: copied behind a check that it does not fault.
    Divide,
    /// It does nothing.
    Nothing,
    /// PUSH of a register, an immediate or memory, of the code's own width.
    Push,
    /// POP to a register, of the code's own width.
    Pop,
    /// LEAVE, of the code's own width.
    Leave,
    /// A conditional branch to an offset from the page's start.
    Branch(i64),
    /// JMP to an offset from the page's start.
    Jump(i64),
    /// CALL of an offset from the page's start.
    Call(i64),
    /// JMP to what a register or memory holds.
    JumpIndirect,
    /// CALL of what a register or memory holds.
    CallIndirect,
    /// RET, dropping so many bytes more.
    Return(u16),
    /// SWAPGS, CLI or CLD.
    System,
    /// STI.
    Sti,
    /// PUSHF, of the code's own width.
    PushFlags,
    /// SYSCALL or SYSRET of 64-bit code.
    FastCall(FastCall),
    /// RDTSC or RDTSCP.
    TimeStamp,
    /// MOV of a segment register to a general one, of 32 or 64 bits.
    ReadSegment,
    /// BT, BTS, BTR or BTC of a bit in memory that a register names, of 32 or 64 bits.
    BitString,
    /// The interpreter executes its operation, and translated code goes on.
    Operation,
    /// The interpreter executes its operation, which may lead anywhere: nothing of the unit follows.
    Transfer,
}

impl Kind {
    /// Whether it surely is complete, or faults, before control can leave.
    pub const fn surely_completes(self) -> bool {
        matches!(
            self,
            Self::Copy
                | Self::Vector { .. }
                | Self::X87 { .. }
                | Self::Lea
                | Self::Nothing
                | Self::Push
                | Self::Pop
                | Self::Leave
        )
    }

    /// Whether the host's processor executes the instruction itself.
    const fn is_of_the_host(self) -> bool {
        matches!(
            self,
            Self::Copy
                | Self::Vector { .. }
                | Self::X87 { .. }
                | Self::LoadControl(_)
                | Self::Divide
                | Self::BitString
        )
    }

    /// Whether it works on x87 or MMX registers.
    pub const fn uses_x87(self) -> bool {
        matches!(self, Self::X87 { .. } | Self::LoadControl(Control::X87))
    }

    /// Whether nothing of the unit follows.
    pub const fn ends(self) -> bool {
        matches!(
            self,
            Self::Jump(_)
                | Self::Call(_)
                | Self::JumpIndirect
                | Self::CallIndirect
                | Self::Return(_)
                | Self::FastCall(_)
                | Self::Transfer
        )
    }
}

/// What is done for an instruction, whose operation this is, in 64-bit code (`wide`) or in code of 32 bits.
pub fn kind(instruction: &Instruction, op: &SoftOp, wide: bool) -> Kind {
    if instruction.is_invalid() {
        return Kind::Transfer;
    }
    let has_address = if wide { has_near_address(instruction) } else { has_flat_address(instruction) };
    let written_out =
        if has_address { control(instruction, wide).or_else(|| system(instruction, wide)) } else { None };
    if let Some(kind) = written_out {
        return kind;
    }
    let ends = OpFlags::SETS_RIP | OpFlags::ENDS_BLOCK | OpFlags::CHECK_INTERRUPTS;
    if op.flags.intersects(ends) {
        return Kind::Transfer;
    }
    if !has_address {
        return Kind::Operation;
    }
    match vector(instruction, wide).unwrap_or_else(|| integer(instruction)) {
        kind if kind.is_of_the_host() && !executes(instruction) => Kind::Operation,
        kind => kind,
    }
}

/// What an address must be a multiple of for the host's processor, of whichever vendor, to execute the instruction as it is.
/// What is aligned less is the interpreter's, which knows what the guest's processor asks.
fn alignment(instruction: &Instruction, info: &VectorInfo) -> u8 {
    let of_sha = instruction.cpuid_features().contains(&CpuidFeature::SHA);
    info.memory.filter(|memory| memory.aligned || of_sha).map_or(1, |memory| memory.size)
}

/// Instructions on vector and x87 registers.
fn vector(instruction: &Instruction, wide: bool) -> Option<Kind> {
    if matches!(instruction.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall) {
        // In 32-bit code they clear eight registers, in the host's 64-bit code sixteen.
        return Some(if wide { Kind::Vector { alignment: 1, wide } } else { Kind::Operation });
    }
    if let Some(kind) = control_word(instruction) {
        return Some(kind);
    }
    let info = classify(instruction)?;
    let alignment = alignment(instruction, &info);
    Some(match info.class {
        VectorClass::Sse if !needs_rewriting(instruction) && !may_enter_mmx(instruction) => {
            Kind::Vector { alignment, wide: false }
        }
        VectorClass::Avx => Kind::Vector { alignment, wide: true },
        VectorClass::X87 | VectorClass::Mmx => {
            Kind::X87 { alignment, vectors: info.uses_xmm || info.simd_exceptions }
        }
        _ => Kind::Operation,
    })
}

/// Instructions on control and status words that are not left to the interpreter.
fn control_word(instruction: &Instruction) -> Option<Kind> {
    Some(match instruction.code() {
        Code::Wait | Code::Fnclex | Code::Fnstcw_m2byte | Code::Fnstsw_m2byte | Code::Fnstsw_AX => {
            Kind::X87 { alignment: 1, vectors: false }
        }
        Code::Fldcw_m2byte => Kind::LoadControl(Control::X87),
        Code::Stmxcsr_m32 => Kind::Vector { alignment: 1, wide: false },
        Code::Ldmxcsr_m32 => Kind::LoadControl(Control::Mxcsr),
        _ => return None,
    })
}

/// By Intel's manual CVTPI2PS enters MMX mode even if its operand is in memory, while AMD's processors, and the guest's, leave the x87
/// registers alone then.
pub fn may_enter_mmx(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Cvtpi2ps && instruction.op1_kind() == OpKind::Memory
}

/// Instructions of 32-bit code whose encodings mean something else in 64-bit code, as that encodes them.
pub fn as_64_bit_code_has_it(mut instruction: Instruction) -> Instruction {
    instruction.set_code(match instruction.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        // These have addresses of 64 bits there.
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        code => code,
    });
    instruction
}

/// Branches and the stack.
fn control(instruction: &Instruction, wide: bool) -> Option<Kind> {
    use Mnemonic as M;
    let near = instruction.op0_kind() == if wide { OpKind::NearBranch64 } else { OpKind::NearBranch32 };
    let target = match instruction.near_branch_target() {
        target if wide => target as i64,
        target => i64::from(target as i32),
    };
    Some(match instruction.mnemonic() {
        _ if instruction.is_jcc_short_or_near() && near => Kind::Branch(target),
        M::Jmp if near => Kind::Jump(target),
        M::Call if near => Kind::Call(target),
        M::Jmp if instruction.code() == if wide { Code::Jmp_rm64 } else { Code::Jmp_rm32 } => {
            Kind::JumpIndirect
        }
        M::Call if instruction.code() == if wide { Code::Call_rm64 } else { Code::Call_rm32 } => {
            Kind::CallIndirect
        }
        M::Ret => match instruction.code() {
            Code::Retnq | Code::Retnd => Kind::Return(0),
            Code::Retnq_imm16 | Code::Retnd_imm16 => Kind::Return(instruction.immediate16()),
            _ => Kind::Transfer,
        },
        M::Push => match instruction.code() {
            Code::Push_r64 | Code::Push_rm64 | Code::Pushq_imm8 | Code::Pushq_imm32 => Kind::Push,
            Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm8 | Code::Pushd_imm32 => Kind::Push,
            _ => Kind::Operation,
        },
        M::Pop => match instruction.code() {
            Code::Pop_r64 | Code::Pop_r32 => Kind::Pop,
            Code::Pop_rm64 | Code::Pop_rm32 if instruction.op0_kind() == OpKind::Register => Kind::Pop,
            _ => return None,
        },
        M::Leave if matches!(instruction.code(), Code::Leaveq | Code::Leaved) => Kind::Leave,
        _ => return None,
    })
}

/// System instructions that are written out.
fn system(instruction: &Instruction, wide: bool) -> Option<Kind> {
    Some(match instruction.code() {
        Code::Swapgs | Code::Cli | Code::Cld => Kind::System,
        Code::Sti => Kind::Sti,
        Code::Pushfq | Code::Pushfd => Kind::PushFlags,
        Code::Syscall if wide => Kind::FastCall(FastCall::Call),
        Code::Sysretq if wide => Kind::FastCall(FastCall::Return),
        Code::Rdtsc | Code::Rdtscp => Kind::TimeStamp,
        Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg if instruction.op0_kind() == OpKind::Register => {
            Kind::ReadSegment
        }
        // They change the view of memory.
        Code::Stac | Code::Clac => Kind::Transfer,
        _ => return None,
    })
}

/// Instructions on general registers.
fn integer(instruction: &Instruction) -> Kind {
    use Mnemonic as M;
    if needs_rewriting(instruction) || has_other_registers(instruction) {
        return Kind::Operation;
    }
    match instruction.mnemonic() {
        M::Lea => Kind::Lea,
        M::Nop if is_pause(instruction) => Kind::Operation,
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Reservednop
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetch => Kind::Nothing,
        M::Div | M::Idiv => Kind::Divide,
        // The bit may lie anywhere before or behind the operand.
        M::Bt | M::Bts | M::Btr | M::Btc
            if instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register =>
        {
            if instruction.op1_register().size() < 4 {
                Kind::Operation
            } else {
                Kind::BitString
            }
        }
        M::Mov => match instruction.code() {
            Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX => Kind::Operation,
            _ => Kind::Copy,
        },
        M::Add
        | M::Adc
        | M::Sub
        | M::Sbb
        | M::And
        | M::Or
        | M::Xor
        | M::Cmp
        | M::Test
        | M::Inc
        | M::Dec
        | M::Neg
        | M::Not
        | M::Movzx
        | M::Movsx
        | M::Movsxd
        | M::Xchg
        | M::Xadd
        | M::Cmpxchg
        | M::Cmpxchg8b
        | M::Cmpxchg16b
        | M::Mul
        | M::Imul
        | M::Shl
        | M::Sal
        | M::Shr
        | M::Sar
        | M::Rol
        | M::Ror
        | M::Rcl
        | M::Rcr
        | M::Shld
        | M::Shrd
        | M::Bt
        | M::Bts
        | M::Btr
        | M::Btc
        | M::Bsf
        | M::Bsr
        | M::Bswap
        | M::Popcnt
        | M::Crc32
        | M::Lzcnt
        | M::Tzcnt
        | M::Movbe
        | M::Adcx
        | M::Adox
        | M::Andn
        | M::Bextr
        | M::Blsi
        | M::Blsmsk
        | M::Blsr
        | M::Bzhi
        | M::Mulx
        | M::Pdep
        | M::Pext
        | M::Rorx
        | M::Sarx
        | M::Shlx
        | M::Shrx
        | M::Movnti
        | M::Cbw
        | M::Cwde
        | M::Cdqe
        | M::Cwd
        | M::Cdq
        | M::Cqo
        | M::Lahf
        | M::Sahf
        | M::Clc
        | M::Stc
        | M::Cmc
        | M::Lfence
        | M::Sfence
        | M::Mfence => Kind::Copy,
        _ if instruction.is_setcc() || instruction.is_cmovcc() => Kind::Copy,
        _ => Kind::Operation,
    }
}

trait Conditional {
    fn is_setcc(&self) -> bool;
    fn is_cmovcc(&self) -> bool;
}

impl Conditional for Instruction {
    fn is_setcc(&self) -> bool {
        use Mnemonic as M;
        matches!(
            self.mnemonic(),
            M::Seto
                | M::Setno
                | M::Setb
                | M::Setae
                | M::Sete
                | M::Setne
                | M::Setbe
                | M::Seta
                | M::Sets
                | M::Setns
                | M::Setp
                | M::Setnp
                | M::Setl
                | M::Setge
                | M::Setle
                | M::Setg
        )
    }

    fn is_cmovcc(&self) -> bool {
        use Mnemonic as M;
        matches!(
            self.mnemonic(),
            M::Cmovo
                | M::Cmovno
                | M::Cmovb
                | M::Cmovae
                | M::Cmove
                | M::Cmovne
                | M::Cmovbe
                | M::Cmova
                | M::Cmovs
                | M::Cmovns
                | M::Cmovp
                | M::Cmovnp
                | M::Cmovl
                | M::Cmovge
                | M::Cmovle
                | M::Cmovg
        )
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn decode(bytes: &[u8]) -> Instruction {
        Decoder::new(64, bytes, DecoderOptions::NONE).decode()
    }

    #[test]
    fn what_enters_mmx_mode_on_some_vendors_processors_is_not_copied() {
        let copied = Some(Kind::Vector { alignment: 1, wide: false });
        assert_eq!(vector(&decode(&[0x66, 0x0f, 0x2a, 0x00]), true), copied); // cvtpi2pd xmm0, [rax]
        assert_eq!(vector(&decode(&[0x0f, 0x2a, 0x00]), true), Some(Kind::Operation)); // cvtpi2ps xmm0, [rax]
        let both = Some(Kind::X87 { alignment: 1, vectors: true });
        assert_eq!(vector(&decode(&[0x66, 0x0f, 0x2a, 0xc0]), true), both); // cvtpi2pd xmm0, mm0
        assert_eq!(vector(&decode(&[0x0f, 0x2a, 0xc0]), true), both); // cvtpi2ps xmm0, mm0
    }

    #[test]
    fn what_some_vendors_processors_ask_to_be_aligned_is_checked() {
        let alignment = |bytes: &[u8]| {
            let instruction = decode(bytes);
            alignment(&instruction, &classify(&instruction).expect("it works on vectors"))
        };
        assert_eq!(alignment(&[0x0f, 0x58, 0x00]), 16); // addps xmm0, [rax]
        assert_eq!(alignment(&[0x0f, 0x38, 0xc8, 0x00]), 16); // sha1nexte xmm0, [rax]
        assert_eq!(alignment(&[0x0f, 0x38, 0xc8, 0xc0]), 1); // sha1nexte xmm0, xmm0
        assert_eq!(alignment(&[0x0f, 0x10, 0x00]), 1); // movups xmm0, [rax]
        assert_eq!(alignment(&[0xc5, 0xfc, 0x29, 0x00]), 32); // vmovaps [rax], ymm0
    }
}
