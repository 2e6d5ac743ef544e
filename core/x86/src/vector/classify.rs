//! Which instructions may be executed natively on a saved state, and what each of them touches.
//!
//! Sources: AMD64 APM volumes 4 and 5 (per instruction: operands, flags, exceptions); the alignment rule is volume 1
//! section 4.3.2 (Intel SDM volume 2, table 2-21).

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind, Register};

/// Which part of the state an instruction works on, and with it which faults come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorClass {
    /// x87 arithmetic, loads and stores. #NM if CR0.EM or CR0.TS.
    X87,
    /// At least one MMX register, or EMMS. #UD if CR0.EM, #NM if CR0.TS.
    Mmx,
    /// XMM registers only. #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
    Sse,
    /// XMM and YMM registers, encoded by VEX. #UD outside of protected mode and where AVX is not enabled in XCR0, #NM if CR0.TS.
    Avx,
}

/// What an instruction does to its memory operand. No native instruction does both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAccess {
    /// Reads it.
    Read,
    /// Writes the whole of it, or nothing where an x87 exception prevents the store.
    Write,
}

/// An instruction's memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Read or written.
    pub access: MemoryAccess,
    /// Bytes, 1 to 32.
    pub size: u8,
    /// An address that is not a multiple of the size, 16 or 32, raises #GP(0).
    pub aligned: bool,
}

/// What an engine must know to execute an instruction natively.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorInfo {
    /// Which part of the state it works on.
    pub class: VectorClass,
    /// It has XMM operands: #UD if not CR4.OSFXSR, also in class [`VectorClass::Mmx`].
    pub uses_xmm: bool,
    /// Its memory operand.
    pub memory: Option<MemoryOperand>,
    /// General-purpose registers read as data, explicit and implicit: bit *n* is register *n* in encoding order.
    /// Registers of the memory operand's address do not count.
    pub gpr_read: u16,
    /// General-purpose registers written, in 64 bits (the upper half of a 32-bit result is zero).
    pub gpr_written: u16,
    /// It depends on the arithmetic flags.
    pub flags_read: bool,
    /// It writes all six arithmetic flags.
    pub flags_written: bool,
    /// It rounds by MXCSR and can raise SIMD floating-point exceptions.
    pub simd_exceptions: bool,
}

impl VectorInfo {
    /// A pending x87 exception is raised (#MF) before the instruction executes. Native instructions that touch x87 or
    /// MMX registers all wait; the ones that do not are state management and not native.
    #[must_use]
    pub const fn waits(&self) -> bool {
        !matches!(self.class, VectorClass::Sse | VectorClass::Avx)
    }
}

/// Describes a decoded x87, MMX, SSE or AVX instruction; `None` if it is not to be executed natively. Whether the processor's
/// model offers it is another question ([`crate::cpuid::InstructionSets`]).
///
/// Refused are: EVEX, XOP and 3DNow!, SSE4A, and what else no processor model offers; what works on general registers only
/// (CRC32, MOVNTI, PREFETCH, fences, BMI); the state management and the accesses of single elements (gathers, masked moves)
/// that this crate implements itself; and x87 opcodes that only the 80287XL and 80387SL had.
#[must_use]
pub fn classify(instruction: &Instruction) -> Option<VectorInfo> {
    let code = instruction.code();
    if is_state_management(code.mnemonic()) || accesses_elements(code.mnemonic()) {
        return None;
    }
    let class = match code.encoding() {
        EncodingKind::Legacy => class(instruction)?,
        EncodingKind::VEX => vex_class(instruction)?,
        _ => return None,
    };
    let registers = |wanted: fn(Register) -> bool| operand_registers(instruction).any(|(_, r)| wanted(r));
    let class = if registers(Register::is_mm) { VectorClass::Mmx } else { class };
    let (gpr_read, gpr_written) = general_registers(instruction);
    Some(VectorInfo {
        class,
        uses_xmm: registers(|register| register.is_xmm() || register.is_ymm()),
        memory: memory_operand(instruction, class),
        gpr_read,
        gpr_written,
        flags_read: class == VectorClass::X87 && instruction.rflags_read() & CPU_FLAGS != 0,
        flags_written: instruction.rflags_modified() & CPU_FLAGS != 0,
        simd_exceptions: class != VectorClass::X87 && raises_simd_exceptions(code),
    })
}

/// The arithmetic flags in iced's numbering, which also knows the x87 condition codes.
const CPU_FLAGS: u32 = iced_x86::RflagsBits::OF
    | iced_x86::RflagsBits::SF
    | iced_x86::RflagsBits::ZF
    | iced_x86::RflagsBits::AF
    | iced_x86::RflagsBits::CF
    | iced_x86::RflagsBits::PF;

/// The class by instruction set, `None` for instruction sets that are not executed natively. An MMX operand overrides it.
fn class(instruction: &Instruction) -> Option<VectorClass> {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    if matches!(
        mnemonic,
        M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Pause
            | M::Movnti
            | M::Crc32
    ) {
        return None;
    }
    instruction.cpuid_features().iter().find_map(|feature| match feature {
        CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => Some(VectorClass::X87),
        CpuidFeature::MMX => Some(VectorClass::Mmx),
        CpuidFeature::SSE
        | CpuidFeature::SSE2
        | CpuidFeature::SSE3
        | CpuidFeature::SSSE3
        | CpuidFeature::SSE4_1
        | CpuidFeature::SSE4_2
        | CpuidFeature::AES
        | CpuidFeature::PCLMULQDQ
        | CpuidFeature::SHA
        | CpuidFeature::GFNI => Some(VectorClass::Sse),
        _ => None,
    })
}

/// The same for VEX: instructions on vector registers.
fn vex_class(instruction: &Instruction) -> Option<VectorClass> {
    let known = instruction.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            CpuidFeature::AVX
                | CpuidFeature::AVX2
                | CpuidFeature::FMA
                | CpuidFeature::F16C
                | CpuidFeature::AES
                | CpuidFeature::PCLMULQDQ
                | CpuidFeature::VAES
                | CpuidFeature::VPCLMULQDQ
                | CpuidFeature::GFNI
        )
    });
    known.then_some(VectorClass::Avx)
}

/// Gathers and masked moves: elements that are not selected do not fault, and are not accessed.
const fn accesses_elements(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
            | M::Vgatherdps
            | M::Vgatherdpd
            | M::Vgatherqps
            | M::Vgatherqpd
            | M::Vpgatherdd
            | M::Vpgatherdq
            | M::Vpgatherqd
            | M::Vpgatherqq
    )
}

/// Instructions that are written out in this module, and x87 ones that do nothing.
const fn is_state_management(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fldenv
            | M::Fnstenv
            | M::Fstenv
            | M::Fldcw
            | M::Fnstcw
            | M::Fstcw
            | M::Fnsave
            | M::Fsave
            | M::Frstor
            | M::Fnstsw
            | M::Fstsw
            | M::Fnclex
            | M::Fclex
            | M::Fninit
            | M::Finit
            | M::Fneni
            | M::Feni
            | M::Fndisi
            | M::Fdisi
            | M::Fnsetpm
            | M::Fsetpm
            | M::Ldmxcsr
            | M::Stmxcsr
            | M::Maskmovq
            | M::Maskmovdqu
            | M::Vldmxcsr
            | M::Vstmxcsr
            | M::Vmaskmovdqu
            | M::Vzeroupper
            | M::Vzeroall
    )
}

fn operand_registers(instruction: &Instruction) -> impl Iterator<Item = (u32, Register)> + '_ {
    (0..instruction.op_count())
        .filter(|&i| instruction.op_kind(i) == OpKind::Register)
        .map(|i| (i, instruction.op_register(i)))
}

/// The general registers that are data operands: those read and those written.
fn general_registers(instruction: &Instruction) -> (u16, u16) {
    use Mnemonic as M;
    const RAX: u16 = 1 << 0;
    const RCX: u16 = 1 << 1;
    const RDX: u16 = 1 << 2;
    let (mut read, mut written) = match instruction.mnemonic() {
        M::Pcmpestri | M::Pcmpestri64 | M::Vpcmpestri | M::Vpcmpestri64 => (RAX | RDX, RCX),
        M::Pcmpestrm | M::Pcmpestrm64 | M::Vpcmpestrm | M::Vpcmpestrm64 => (RAX | RDX, 0),
        M::Pcmpistri | M::Vpcmpistri => (0, RCX),
        _ => (0, 0),
    };
    // No SSE, AVX or MMX instruction reads a general register in its first operand.
    for (index, register) in operand_registers(instruction).filter(|(_, r)| r.is_gpr()) {
        *(if index == 0 { &mut written } else { &mut read }) |= 1 << register.number();
    }
    (read, written)
}

fn memory_operand(instruction: &Instruction, class: VectorClass) -> Option<MemoryOperand> {
    use Mnemonic as M;
    let index = (0..instruction.op_count()).find(|&i| instruction.op_kind(i) == OpKind::Memory)?;
    let mnemonic = instruction.mnemonic();
    let writes = match class {
        VectorClass::X87 => {
            matches!(mnemonic, M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp)
        }
        VectorClass::Mmx | VectorClass::Sse | VectorClass::Avx => index == 0,
    };
    let size = u8::try_from(instruction.memory_size().size()).ok()?;
    let unaligned = matches!(
        mnemonic,
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Pcmpestri
            | M::Pcmpestri64
            | M::Pcmpestrm
            | M::Pcmpestrm64
            | M::Pcmpistri
            | M::Pcmpistrm
            // AMD's processors do not ask it of SHA.
            | M::Sha1msg1
            | M::Sha1msg2
            | M::Sha1nexte
            | M::Sha1rnds4
            | M::Sha256msg1
            | M::Sha256msg2
            | M::Sha256rnds2
    );
    let access = if writes { MemoryAccess::Write } else { MemoryAccess::Read };
    let aligned = match class {
        VectorClass::Avx => demands_alignment(mnemonic),
        _ => size == 16 && !unaligned,
    };
    Some(MemoryOperand { access, size, aligned })
}

/// Of those encoded by VEX, only moves that say so.
const fn demands_alignment(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa
    )
}

/// SSE and AVX instructions whose description lists #XF. Integer sources that always fit are exact and not among them.
fn raises_simd_exceptions(code: Code) -> bool {
    use Mnemonic as M;
    if matches!(code, Code::Cvtsi2sd_xmm_rm32 | Code::VEX_Vcvtsi2sd_xmm_xmm_rm32) {
        return false;
    }
    if code.encoding() == EncodingKind::VEX {
        return vex_raises_simd_exceptions(code);
    }
    match code.mnemonic() {
        M::Addps | M::Addpd | M::Addss | M::Addsd => true,
        M::Subps | M::Subpd | M::Subss | M::Subsd => true,
        M::Mulps | M::Mulpd | M::Mulss | M::Mulsd => true,
        M::Divps | M::Divpd | M::Divss | M::Divsd => true,
        M::Sqrtps | M::Sqrtpd | M::Sqrtss | M::Sqrtsd => true,
        M::Minps | M::Minpd | M::Minss | M::Minsd => true,
        M::Maxps | M::Maxpd | M::Maxss | M::Maxsd => true,
        M::Cmpps | M::Cmppd | M::Cmpss | M::Comiss | M::Comisd | M::Ucomiss | M::Ucomisd => true,
        // The string instruction of this name is no vector instruction and never comes here.
        M::Cmpsd => true,
        M::Addsubps | M::Addsubpd | M::Haddps | M::Haddpd | M::Hsubps | M::Hsubpd => true,
        M::Roundps | M::Roundpd | M::Roundss | M::Roundsd | M::Dpps | M::Dppd => true,
        M::Cvtss2sd | M::Cvtsd2ss | M::Cvtps2pd | M::Cvtpd2ps => true,
        M::Cvtdq2ps | M::Cvtps2dq | M::Cvttps2dq | M::Cvtpd2dq | M::Cvttpd2dq => true,
        M::Cvtpi2ps | M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi => true,
        M::Cvtsi2ss | M::Cvtsi2sd | M::Cvtss2si | M::Cvttss2si | M::Cvtsd2si | M::Cvttsd2si => true,
        _ => false,
    }
}

/// The same of those encoded by VEX.
fn vex_raises_simd_exceptions(code: Code) -> bool {
    use Mnemonic as M;
    if code.cpuid_features().contains(&CpuidFeature::FMA) {
        return true;
    }
    matches!(
        code.mnemonic(),
        M::Vaddps
            | M::Vaddpd
            | M::Vaddss
            | M::Vaddsd
            | M::Vsubps
            | M::Vsubpd
            | M::Vsubss
            | M::Vsubsd
            | M::Vmulps
            | M::Vmulpd
            | M::Vmulss
            | M::Vmulsd
            | M::Vdivps
            | M::Vdivpd
            | M::Vdivss
            | M::Vdivsd
            | M::Vsqrtps
            | M::Vsqrtpd
            | M::Vsqrtss
            | M::Vsqrtsd
            | M::Vminps
            | M::Vminpd
            | M::Vminss
            | M::Vminsd
            | M::Vmaxps
            | M::Vmaxpd
            | M::Vmaxss
            | M::Vmaxsd
            | M::Vcmpps
            | M::Vcmppd
            | M::Vcmpss
            | M::Vcmpsd
            | M::Vcomiss
            | M::Vcomisd
            | M::Vucomiss
            | M::Vucomisd
            | M::Vaddsubps
            | M::Vaddsubpd
            | M::Vhaddps
            | M::Vhaddpd
            | M::Vhsubps
            | M::Vhsubpd
            | M::Vroundps
            | M::Vroundpd
            | M::Vroundss
            | M::Vroundsd
            | M::Vdpps
            | M::Vdppd
            | M::Vcvtss2sd
            | M::Vcvtsd2ss
            | M::Vcvtps2pd
            | M::Vcvtpd2ps
            | M::Vcvtdq2ps
            | M::Vcvtps2dq
            | M::Vcvttps2dq
            | M::Vcvtpd2dq
            | M::Vcvttpd2dq
            | M::Vcvtsi2ss
            | M::Vcvtsi2sd
            | M::Vcvtss2si
            | M::Vcvttss2si
            | M::Vcvtsd2si
            | M::Vcvttsd2si
            | M::Vcvtph2ps
            | M::Vcvtps2ph
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn info(bytes: &[u8]) -> Option<VectorInfo> {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        assert!(!instruction.is_invalid(), "the test's bytes are an instruction");
        classify(&instruction)
    }

    fn memory(bytes: &[u8]) -> Option<(MemoryAccess, u8, bool)> {
        info(bytes).expect("native").memory.map(|m| (m.access, m.size, m.aligned))
    }

    #[test]
    fn packed_operands_must_be_aligned_except_where_the_manual_says_otherwise() {
        assert_eq!(memory(&[0x0f, 0x58, 0x00]), Some((MemoryAccess::Read, 16, true))); // addps
        assert_eq!(memory(&[0x0f, 0x29, 0x00]), Some((MemoryAccess::Write, 16, true))); // movaps store
        assert_eq!(memory(&[0x0f, 0x10, 0x00]), Some((MemoryAccess::Read, 16, false))); // movups
        assert_eq!(memory(&[0xf2, 0x0f, 0xf0, 0x00]), Some((MemoryAccess::Read, 16, false))); // lddqu
        assert_eq!(memory(&[0x66, 0x0f, 0x3a, 0x63, 0x00, 0]), Some((MemoryAccess::Read, 16, false))); // pcmpistri
        assert_eq!(memory(&[0x66, 0x0f, 0x38, 0x2a, 0x00]), Some((MemoryAccess::Read, 16, true))); // movntdqa
        assert_eq!(memory(&[0x0f, 0x13, 0x00]), Some((MemoryAccess::Write, 8, false))); // movlps store
        assert_eq!(memory(&[0x0f, 0x58, 0xc1]), None);
    }

    #[test]
    fn of_vex_only_aligned_moves_demand_alignment_and_operands_are_up_to_32_bytes() {
        assert_eq!(memory(&[0xc5, 0xf4, 0x58, 0x00]), Some((MemoryAccess::Read, 32, false))); // vaddps ymm
        assert_eq!(memory(&[0xc5, 0xfc, 0x29, 0x00]), Some((MemoryAccess::Write, 32, true))); // vmovaps ymm store
        assert_eq!(memory(&[0xc5, 0xf8, 0x28, 0x00]), Some((MemoryAccess::Read, 16, true))); // vmovaps xmm
        assert_eq!(memory(&[0xc5, 0xfe, 0x6f, 0x00]), Some((MemoryAccess::Read, 32, false))); // vmovdqu ymm
        assert_eq!(memory(&[0xc5, 0xfd, 0xe7, 0x00]), Some((MemoryAccess::Write, 32, true))); // vmovntdq ymm
        assert_eq!(memory(&[0xc4, 0xe2, 0x7d, 0x18, 0x00]), Some((MemoryAccess::Read, 4, false))); // vbroadcastss
        assert_eq!(memory(&[0xc4, 0xe3, 0x7d, 0x19, 0x00, 1]), Some((MemoryAccess::Write, 16, false))); // vextractf128
        assert_eq!(memory(&[0xc4, 0xe3, 0x7d, 0x1d, 0x00, 0]), Some((MemoryAccess::Write, 16, false))); // vcvtps2ph
        assert_eq!(memory(&[0xc4, 0xe2, 0x7d, 0x20, 0x00]), Some((MemoryAccess::Read, 16, false))); // vpmovsxbw ymm
        let fma = info(&[0xc4, 0xe2, 0x75, 0xb8, 0xc2]).expect("vfmadd231ps");
        assert!(fma.class == VectorClass::Avx && fma.simd_exceptions && !fma.waits());
    }

    #[test]
    fn x87_stores_write_and_other_x87_memory_operands_are_read() {
        assert_eq!(memory(&[0xd9, 0x18]), Some((MemoryAccess::Write, 4, false))); // fstp m32
        assert_eq!(memory(&[0xdb, 0x38]), Some((MemoryAccess::Write, 10, false))); // fstp m80
        assert_eq!(memory(&[0xdf, 0x30]), Some((MemoryAccess::Write, 10, false))); // fbstp
        assert_eq!(memory(&[0xd8, 0x00]), Some((MemoryAccess::Read, 4, false))); // fadd m32
        assert_eq!(memory(&[0xda, 0x10]), Some((MemoryAccess::Read, 4, false))); // ficom m32
    }

    #[test]
    fn general_registers_count_as_data_only_where_they_are() {
        let movd = info(&[0x66, 0x41, 0x0f, 0x6e, 0xc1]).expect("movd xmm0, r9d");
        assert_eq!((movd.gpr_read, movd.gpr_written), (1 << 9, 0));
        let back = info(&[0x66, 0x0f, 0x7e, 0xc1]).expect("movd ecx, xmm0");
        assert_eq!((back.gpr_read, back.gpr_written), (0, 1 << 1));
        let addressed = info(&[0x66, 0x0f, 0x6e, 0x03]).expect("movd xmm0, [rbx]");
        assert_eq!((addressed.gpr_read, addressed.gpr_written), (0, 0));
        let strings = info(&[0x66, 0x0f, 0x3a, 0x61, 0xc1, 0]).expect("pcmpestri");
        assert_eq!((strings.gpr_read, strings.gpr_written), (0b101, 0b10));
        assert!(strings.flags_written);
    }

    #[test]
    fn flags_of_the_processor_are_told_from_condition_codes_of_the_x87() {
        let fcomi = info(&[0xdb, 0xf1]).expect("fcomi");
        assert!(fcomi.flags_written && !fcomi.flags_read);
        let fcmovb = info(&[0xda, 0xc1]).expect("fcmovb");
        assert!(fcmovb.flags_read && !fcmovb.flags_written);
        let fcom = info(&[0xd8, 0xd1]).expect("fcom");
        assert!(!fcom.flags_read && !fcom.flags_written);
    }

    #[test]
    fn an_mmx_operand_makes_an_sse_instruction_wait() {
        let movq2dq = info(&[0xf3, 0x0f, 0xd6, 0xc1]).expect("movq2dq");
        assert_eq!(movq2dq.class, VectorClass::Mmx);
        assert!(movq2dq.uses_xmm && movq2dq.waits());
        let emms = info(&[0x0f, 0x77]).expect("emms");
        assert!(emms.waits() && !emms.uses_xmm);
        assert!(!info(&[0x0f, 0x58, 0xc1]).expect("addps").waits());
    }

    #[test]
    fn state_management_integer_work_and_unoffered_sets_are_refused() {
        for bytes in [
            &[0xd9, 0x38][..],                     // fnstcw
            &[0xdb, 0xe3],                         // fninit
            &[0xdf, 0xe0],                         // fnstsw ax
            &[0x0f, 0xae, 0x10],                   // ldmxcsr
            &[0x0f, 0xae, 0x00],                   // fxsave
            &[0x0f, 0xae, 0x20],                   // xsave
            &[0x0f, 0xf7, 0xc1],                   // maskmovq
            &[0xf2, 0x0f, 0x38, 0xf1, 0xc1],       // crc32
            &[0x0f, 0xc3, 0x00],                   // movnti
            &[0x0f, 0x18, 0x08],                   // prefetcht0
            &[0x0f, 0xae, 0xf0],                   // mfence
            &[0x0f, 0x44, 0xc1],                   // cmove
            &[0xf3, 0x90],                         // pause
            &[0xc5, 0xf8, 0x77],                   // vzeroupper
            &[0xc5, 0xf8, 0xae, 0x10],             // vldmxcsr
            &[0xc5, 0xf9, 0xf7, 0xc1],             // vmaskmovdqu
            &[0xc4, 0xe2, 0x71, 0x2c, 0x00],       // vmaskmovps
            &[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08], // vpgatherdd
            &[0xc4, 0xe2, 0x70, 0xf2, 0xc1],       // andn
            &[0xc4, 0xe2, 0x71, 0x50, 0xc2],       // vpdpbusd, AVX-VNNI's
            &[0x62, 0xf1, 0x74, 0x48, 0x58, 0xc1], // vaddps zmm0, zmm1, zmm1
            &[0xf2, 0x0f, 0x78, 0xc1, 0x00, 0x00], // insertq
            &[0x01, 0xc8],                         // add
            &[0x9b],                               // wait
        ] {
            assert_eq!(info(bytes), None, "{bytes:02x?}");
        }
    }
}
