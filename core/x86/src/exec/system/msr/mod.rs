//! RDMSR and WRMSR (APM volume 2, appendix A).
//!
//! Numbers that the processor core does not have are asked of the environment, which has the local APIC's; what it does
//! not know either raises #GP(0).

mod amd;
mod mtrr;

use super::identity::{set_edx_eax, time_stamp};
use super::require_cpl0;
use crate::cpu::word::{RAX, RCX, RDX};
use crate::cpu::{Word, canonical};
use crate::cpuid::{CpuModel, CpuidContext, SPECULATION_7_EDX, SPECULATION_8_EBX, feature};
use crate::decode::Op;
use crate::environment::{Environment, MsrAnswer, Processor, Stale};
use crate::exception::Stop;
use crate::paravirtual::msr as paravirtual;
use crate::state::{Cr0, Efer, Msrs, SegmentRegister};

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const ARCH_CAPABILITIES: u32 = 0x10a;
const FLUSH_CMD: u32 = 0x10b;
const TSX_CTRL: u32 = 0x122;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUG_CTL: u32 = 0x1d9;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const VIRT_SPEC_CTRL: u32 = 0xc001_011f;

/// DebugCtl: last-branch recording, which is accepted and does nothing.
const LBR: u64 = 1;

/// CPUID function 0x8000_0008, EBX: bits that say that no control is needed.
const NO_CONTROLS: u32 = feature::SSB_NO.mask() | feature::BTC_NO.mask();

/// RDMSR.
pub(crate) fn rdmsr<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_cpl0(p)?;
    let number = u32::truncate(p.cpu.gpr[RCX]);
    let value = read(p, number).ok_or_else(|| p.cpu.general_protection())?;
    set_edx_eax(p, value);
    Ok(())
}

/// WRMSR.
pub(crate) fn wrmsr<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    require_cpl0(p)?;
    let number = u32::truncate(p.cpu.gpr[RCX]);
    let value = p.cpu.gpr[RDX] << 32 | p.cpu.gpr[RAX] & 0xffff_ffff;
    write(p, number, value).ok_or_else(|| p.cpu.general_protection())
}

/// The value of a register, `None` if it does not exist.
fn read<E: Environment>(p: &mut Processor<E>, number: u32) -> Option<u64> {
    let model = &p.cpu.model;
    let msrs = &p.cpu.msrs;
    Some(match number {
        TSC => time_stamp(p),
        TSC_ADJUST => msrs.tsc_adjust,
        SYSENTER_CS => msrs.sysenter_cs,
        SYSENTER_ESP => msrs.sysenter_esp,
        SYSENTER_EIP => msrs.sysenter_eip,
        MISC_ENABLE => msrs.misc_enable,
        DEBUG_CTL => msrs.debug_ctl & Msrs::BTF,
        PAT => msrs.pat,
        EFER => p.cpu.efer.bits(),
        STAR => msrs.star,
        LSTAR => msrs.lstar,
        CSTAR => msrs.cstar,
        SFMASK => msrs.sfmask,
        FS_BASE => p.cpu.segment(SegmentRegister::Fs).base,
        GS_BASE => p.cpu.segment(SegmentRegister::Gs).base,
        KERNEL_GS_BASE => msrs.kernel_gs_base,
        TSC_AUX => msrs.tsc_aux,
        SPEC_CTRL if has_speculation_control(model) => msrs.spec_ctrl,
        VIRT_SPEC_CTRL if has_speculation_control(model) => msrs.virt_spec_ctrl,
        TSX_CTRL if model.has(feature::ARCH_CAPABILITIES) => msrs.tsx_ctrl,
        ARCH_CAPABILITIES if model.has(feature::ARCH_CAPABILITIES) => msrs.arch_capabilities,
        paravirtual::SYSTEM_TIME | paravirtual::OLD_SYSTEM_TIME => msrs.kvm_system_time,
        paravirtual::PV_EOI => msrs.kvm_pv_eoi,
        _ => match mtrr::read(msrs, number).or_else(|| amd::read(number)) {
            Some(value) => value,
            None => return answered(p.env.read_msr(number)),
        },
    })
}

/// Sets a register; `None` if it does not exist or refuses the value.
fn write<E: Environment>(p: &mut Processor<E>, number: u32, value: u64) -> Option<()> {
    let (model, msrs) = (&p.cpu.model, &mut p.cpu.msrs);
    match number {
        TSC => {
            let offset = value.wrapping_sub(p.env.timestamp());
            let added = offset.wrapping_sub(msrs.tsc_offset);
            msrs.tsc_adjust = msrs.tsc_adjust.wrapping_add(added);
            msrs.tsc_offset = offset;
        }
        TSC_ADJUST => {
            let added = value.wrapping_sub(msrs.tsc_adjust);
            msrs.tsc_offset = msrs.tsc_offset.wrapping_add(added);
            msrs.tsc_adjust = value;
        }
        SYSENTER_CS => msrs.sysenter_cs = value & 0xffff_ffff,
        SYSENTER_ESP => msrs.sysenter_esp = only_canonical(value)?,
        SYSENTER_EIP => msrs.sysenter_eip = only_canonical(value)?,
        MISC_ENABLE => msrs.misc_enable = value,
        DEBUG_CTL if value & !(LBR | Msrs::BTF) != 0 => return None,
        DEBUG_CTL => msrs.debug_ctl = value & Msrs::BTF,
        PAT => msrs.pat = mtrr::valid_pat(value)?,
        EFER => return write_efer(p, value),
        STAR => msrs.star = value,
        LSTAR => msrs.lstar = only_canonical(value)?,
        CSTAR => msrs.cstar = only_canonical(value)?,
        SFMASK => msrs.sfmask = value & 0xffff_ffff,
        FS_BASE => p.cpu.set_segment_base(SegmentRegister::Fs, only_canonical(value)?),
        GS_BASE => p.cpu.set_segment_base(SegmentRegister::Gs, only_canonical(value)?),
        KERNEL_GS_BASE => msrs.kernel_gs_base = only_canonical(value)?,
        TSC_AUX => msrs.tsc_aux = value & 0xffff_ffff,
        SPEC_CTRL if has_speculation_control(model) => msrs.spec_ctrl = value,
        VIRT_SPEC_CTRL if has_speculation_control(model) => msrs.virt_spec_ctrl = value,
        TSX_CTRL if model.has(feature::ARCH_CAPABILITIES) => msrs.tsx_ctrl = value,
        // A barrier to speculation across which nothing is speculated.
        PRED_CMD | FLUSH_CMD if has_speculation_control(model) => {}
        // The environment looks at it behind the instruction.
        paravirtual::SYSTEM_TIME | paravirtual::OLD_SYSTEM_TIME => msrs.kvm_system_time = value,
        paravirtual::PV_EOI => msrs.kvm_pv_eoi = value,
        _ => {
            if let Some(accepted) = mtrr::write(msrs, number, value) {
                return accepted.then_some(());
            }
            if !amd::ignores_writes(number) {
                answered(p.env.write_msr(number, value))?;
            }
        }
    }
    Some(())
}

const fn answered(answer: MsrAnswer) -> Option<u64> {
    match answer {
        MsrAnswer::Done(value) => Some(value),
        MsrAnswer::Refused | MsrAnswer::Unknown => None,
    }
}

/// Whether the model took over controls of speculation from the hardware that its machine started on.
fn has_speculation_control(model: &CpuModel) -> bool {
    let context = CpuidContext::after_reset(0);
    let leaf = |function| model.leaf(function, 0, &context);
    leaf(7).edx & SPECULATION_7_EDX != 0 || leaf(0x8000_0008).ebx & SPECULATION_8_EBX & !NO_CONTROLS != 0
}

fn only_canonical(value: u64) -> Option<u64> {
    canonical(value).then_some(value)
}

fn write_efer<E: Environment>(p: &mut Processor<E>, value: u64) -> Option<()> {
    let old = p.cpu.efer;
    let mut new = Efer::from_bits_retain(value);
    // LMA follows CR0.PG and cannot be written.
    new.set(Efer::LMA, old.contains(Efer::LMA));
    let changed = old ^ new;
    if !p.cpu.model.efer_bits().contains(new) || changed.contains(Efer::LME) && p.cpu.cr0.contains(Cr0::PG) {
        return None;
    }
    p.cpu.efer = new;
    if changed.contains(Efer::NXE) {
        p.env.forget(&p.cpu, Stale::All);
    }
    Some(())
}
