//! Translation of registers: general, segments and control, debug, x87 and SSE.

use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_xsave};
use tern_x86::state::{
    Attributes, Cr0, Cr4, DescriptorTable, Dr6, Dr7, Efer, FpuState, Rflags, Segment, SegmentRegister,
    VcpuState,
};

/// Where an XSAVE area's header says which components it holds, in 32-bit words.
pub(super) const XSTATE_BV: usize = 512 / 4;
/// x87 and SSE.
const X87_AND_SSE: u32 = 3;

pub(super) fn from_regs(regs: &kvm_regs, state: &mut VcpuState) {
    state.gpr = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    state.rip = regs.rip;
    state.rflags = Rflags::from_bits_retain(regs.rflags);
}

pub(super) fn to_regs(state: &VcpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags.bits());
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

pub(super) fn from_sregs(sregs: &kvm_sregs, state: &mut VcpuState) {
    // In the order of `SegmentRegister`.
    state.segments = [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(from_segment);
    state.ldtr = from_segment(&sregs.ldt);
    state.tr = from_segment(&sregs.tr);
    state.gdtr = DescriptorTable { base: sregs.gdt.base, limit: sregs.gdt.limit };
    state.idtr = DescriptorTable { base: sregs.idt.base, limit: sregs.idt.limit };
    state.cr0 = Cr0::from_bits_retain(sregs.cr0);
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = Cr4::from_bits_retain(sregs.cr4);
    state.efer = Efer::from_bits_retain(sregs.efer);
    // KVM has the level nowhere else.
    state.cpl = sregs.ss.dpl & 3;
}

/// The local APIC's parts, its base address and CR8, stay as they are.
pub(super) fn to_sregs(state: &VcpuState, sregs: &mut kvm_sregs) {
    let segment = |register: SegmentRegister| to_segment(&state.segments[register as usize]);
    let mut ss = state.segments[SegmentRegister::Ss as usize];
    ss.attributes = ss.attributes.with_dpl(state.cpl);
    let table =
        |table: &DescriptorTable| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
    *sregs = kvm_sregs {
        cs: segment(SegmentRegister::Cs),
        ds: segment(SegmentRegister::Ds),
        es: segment(SegmentRegister::Es),
        fs: segment(SegmentRegister::Fs),
        gs: segment(SegmentRegister::Gs),
        ss: to_segment(&ss),
        tr: to_segment(&state.tr),
        ldt: to_segment(&state.ldtr),
        gdt: table(&state.gdtr),
        idt: table(&state.idtr),
        cr0: state.cr0.bits(),
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4.bits(),
        efer: state.efer.bits(),
        cr8: sregs.cr8,
        apic_base: sregs.apic_base,
        interrupt_bitmap: [0; 4],
    };
}

fn from_segment(segment: &kvm_segment) -> Segment {
    let kvm_segment { base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable, .. } = *segment;
    let present = present != 0 && unusable == 0;
    let bits = u16::from(type_ & 0xf)
        | u16::from(s & 1) << 4
        | u16::from(dpl & 3) << 5
        | u16::from(present) << 7
        | u16::from(avl & 1) << 8
        | u16::from(l & 1) << 9
        | u16::from(db & 1) << 10
        | u16::from(g & 1) << 11;
    Segment { selector, attributes: Attributes::from_bits_retain(bits), limit, base }
}

fn to_segment(segment: &Segment) -> kvm_segment {
    let Segment { selector, attributes, limit, base } = *segment;
    let bit = |attribute| u8::from(attributes.contains(attribute));
    kvm_segment {
        base,
        limit,
        selector,
        type_: attributes.kind(),
        present: bit(Attributes::PRESENT),
        dpl: attributes.dpl(),
        db: bit(Attributes::DEFAULT_BIG),
        s: bit(Attributes::USER),
        l: bit(Attributes::LONG),
        g: bit(Attributes::GRANULARITY),
        avl: bit(Attributes::AVAILABLE),
        unusable: 1 - bit(Attributes::PRESENT),
        padding: 0,
    }
}

pub(super) fn from_debug(debug: &kvm_debugregs, state: &mut VcpuState) {
    state.dr = debug.db;
    state.dr6 = Dr6::from_bits_retain(debug.dr6);
    state.dr7 = Dr7::from_bits_retain(debug.dr7);
}

pub(super) fn to_debug(state: &VcpuState) -> kvm_debugregs {
    let (dr6, dr7) = (state.dr6.bits(), state.dr7.bits());
    kvm_debugregs { db: state.dr, dr6, dr7, ..Default::default() }
}

pub(super) fn from_xsave(xsave: &kvm_xsave) -> FpuState {
    let mut fpu = FpuState::new();
    let words = &xsave.region[..FpuState::ARCHITECTURAL_SIZE / 4];
    for (bytes, word) in fpu.image_mut().chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    // Which MXCSR bits the host's processor has is told in the image; it is no state.
    fpu.image_mut()[28..32].fill(0);
    fpu
}

pub(super) fn to_xsave(fpu: &FpuState) -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    let bytes = &fpu.image()[..FpuState::ARCHITECTURAL_SIZE];
    for (word, bytes) in xsave.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    xsave.region[XSTATE_BV] = X87_AND_SSE;
    xsave
}

#[cfg(test)]
mod tests {
    use tern_x86::state::Mxcsr;

    use super::*;

    /// A processor in a 64-bit user program, with a different value in every register.
    fn user_state() -> VcpuState {
        let mut state = VcpuState::reset();
        for (value, register) in (0x1111_0000_u64..).zip(&mut state.gpr) {
            *register = value;
        }
        state.rip = 0x7fff_1234_5678;
        state.rflags = Rflags::FIXED | Rflags::IF | Rflags::ZF;
        for (number, segment) in (0_u16..).zip(&mut state.segments) {
            *segment = Segment::flat(0x33 + 8 * number, Attributes::from_bits_retain(0xcf3));
            segment.base = u64::from(number) << 32;
        }
        state.segments[1].attributes = Attributes::from_bits_retain(0xafb);
        state.segments[0] = Segment::default();
        state.gdtr = DescriptorTable { base: 0xffff_8000_0000_1000, limit: 0x7f };
        state.idtr = DescriptorTable { base: 0xffff_8000_0000_2000, limit: 0xfff };
        state.cr0 = Cr0::PE | Cr0::PG | Cr0::ET;
        (state.cr2, state.cr3, state.cr4) = (0xdead_b000, 0x12_3000, Cr4::PAE | Cr4::OSFXSR);
        state.efer = Efer::LME | Efer::LMA | Efer::NXE;
        state.cpl = 3;
        state.dr = [1, 2, 3, 4];
        state.dr7 = Dr7::FIXED | Dr7::GD;
        state
    }

    #[test]
    fn registers_segments_and_control_come_back() {
        let state = user_state();
        let mut back = VcpuState::reset();
        from_regs(&to_regs(&state), &mut back);
        let mut sregs = kvm_sregs::default();
        to_sregs(&state, &mut sregs);
        from_sregs(&sregs, &mut back);
        from_debug(&to_debug(&state), &mut back);
        assert_eq!(back, state);
    }

    #[test]
    fn the_local_apics_share_of_the_control_registers_is_kept() {
        let mut sregs = kvm_sregs { cr8: 5, apic_base: 0xfee0_0d00, ..Default::default() };
        to_sregs(&user_state(), &mut sregs);
        assert_eq!((sregs.cr8, sregs.apic_base), (5, 0xfee0_0d00));
    }

    #[test]
    fn a_null_segment_is_unusable_and_comes_back_as_not_present() {
        let null = to_segment(&Segment::default());
        assert_eq!((null.unusable, null.present), (1, 0));
        // VT-x leaves the other attributes as they were.
        let vmx = kvm_segment { type_: 3, s: 1, unusable: 1, present: 1, ..Default::default() };
        assert!(!from_segment(&vmx).attributes.contains(Attributes::PRESENT));
    }

    #[test]
    fn vector_registers_come_back_and_both_components_are_declared() {
        let mut fpu = FpuState::new();
        fpu.set_xmm(15, 0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        fpu.set_fcw(0x27f);
        fpu.set_mxcsr(Mxcsr::MASKS | Mxcsr::FZ);
        let mut xsave = to_xsave(&fpu);
        assert_eq!(xsave.region[XSTATE_BV], 3);
        // The host's MXCSR mask and whatever lies behind the registers.
        xsave.region[7] = 0xffff;
        xsave.region[FpuState::ARCHITECTURAL_SIZE / 4] = 0x4650_5853;
        assert_eq!(from_xsave(&xsave), fpu);
    }
}
