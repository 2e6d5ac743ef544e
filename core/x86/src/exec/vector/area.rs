//! FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC and XRSTOR: the state as a whole to and from an area in memory
//! (APM volume 2, sections 11.4.4 and 11.5; volume 5).
//!
//! `WIDE` is REX.W: exception pointers of 64 bits.

use super::operand::{following, in_one_page, probe};
use super::unit::x87_enabled;
use crate::cpu::word::{RAX, RDX};
use crate::cpu::{Cpu, canonical};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::state::{Cr0, Cr4, Efer, FPU_IMAGE_SIZE, SegmentRegister, Xcr0};
use crate::vector::{
    self, AVX_OFFSET, FxsaveLayout, LEGACY_XSAVE_SIZE, StoreImage, XSAVE_AREA_SIZE, XsaveForm,
};

type Outcome = Result<(), Stop>;

/// Alignment of an FXSAVE area.
const FXSAVE_ALIGNMENT: u64 = 16;
/// Alignment of an XSAVE area.
const XSAVE_ALIGNMENT: u64 = 64;
/// Offset of XSTATE_BV in an XSAVE area.
const XSTATE_BV: u64 = FPU_IMAGE_SIZE as u64;

/// FXSAVE. CR0.EM makes it and FXRSTOR raise #NM, as for x87 instructions.
pub fn fxsave<const WIDE: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    let linear = area(p, op, FPU_IMAGE_SIZE, FXSAVE_ALIGNMENT, true)?;
    let image = vector::fxsave(&p.cpu.fpu, fxsave_layout::<WIDE>(&p.cpu));
    store_image(p, op, linear, FPU_IMAGE_SIZE, &image)
}

/// FXRSTOR.
pub fn fxrstor<const WIDE: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    let linear = area(p, op, FPU_IMAGE_SIZE, FXSAVE_ALIGNMENT, false)?;
    let mut bytes = [0; FPU_IMAGE_SIZE];
    p.env.load_bytes(&mut p.cpu, op.segment, linear, &mut bytes)?;
    let layout = fxsave_layout::<WIDE>(&p.cpu);
    vector::fxrstor(&mut p.cpu.fpu, layout, &bytes).map_err(|exception| p.cpu.raise(exception))
}

/// XSAVE.
pub fn xsave<const WIDE: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = xsave_area(p, op, true)?;
    let form = XsaveForm::Standard { xstate_bv: xstate_bv(p, op, linear)? };
    store_xsave::<WIDE, E>(p, op, linear, form)
}

/// XSAVEOPT.
pub fn xsaveopt<const WIDE: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = xsave_area(p, op, true)?;
    let form = XsaveForm::Optimised { xstate_bv: xstate_bv(p, op, linear)? };
    store_xsave::<WIDE, E>(p, op, linear, form)
}

/// XSAVEC.
pub fn xsavec<const WIDE: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = xsave_area(p, op, true)?;
    store_xsave::<WIDE, E>(p, op, linear, XsaveForm::Compacted)
}

/// XRSTOR.
pub fn xrstor<const WIDE: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = xsave_area(p, op, false)?;
    let (layout, requested, xcr0) = (xsave_layout::<WIDE>(&p.cpu), requested(&p.cpu), p.cpu.xcr0);
    let mut header = [0; LEGACY_XSAVE_SIZE];
    p.env.load_bytes(&mut p.cpu, op.segment, linear, &mut header)?;
    let mut bytes = [0; XSAVE_AREA_SIZE];
    bytes[..AVX_OFFSET].copy_from_slice(&header);
    if vector::xrstor_reads_avx(requested, &header) {
        let address = following(&p.cpu, linear, AVX_OFFSET as u64);
        p.env.load_bytes(&mut p.cpu, op.segment, address, &mut bytes[AVX_OFFSET..])?;
    }
    vector::xrstor(&mut p.cpu.fpu, layout, requested, xcr0, &bytes)
        .map_err(|exception| p.cpu.raise(exception))
}

/// Writes an image to the area of `size` bytes at `linear`: all of it, or nothing if one of its pages refuses.
pub(super) fn store_image<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    size: usize,
    image: &StoreImage,
) -> Outcome {
    if !in_one_page(linear, size as u64) {
        probe(p, op, linear, size as u64)?;
    }
    for (offset, bytes) in image.pieces() {
        let address = following(&p.cpu, linear, offset);
        p.env.store_bytes(&mut p.cpu, op.segment, address, bytes)?;
    }
    Ok(())
}

/// The linear address of an area.
fn area<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    size: usize,
    alignment: u64,
    write: bool,
) -> Result<u64, Stop> {
    let offset = op.effective_address(&p.cpu);
    let linear = p.cpu.linear(op.segment, offset, size as u64, write)?;
    if linear & (alignment - 1) != 0 {
        // An address that is not canonical is refused before one that is not aligned, and may be #SS.
        let stack = op.segment == SegmentRegister::Ss && p.cpu.code64() && !canonical(linear);
        return Err(if stack { p.cpu.raise(Exception::stack(0)) } else { p.cpu.general_protection() });
    }
    Ok(linear)
}

/// XSTATE_BV as it is in memory, which must be writable.
fn xstate_bv<E: Environment>(p: &mut Processor<E>, op: &Op<E>, linear: u64) -> Result<u64, Stop> {
    let address = following(&p.cpu, linear, XSTATE_BV);
    p.env.update::<u64>(&mut p.cpu, op.segment, address, false, |_| None)
}

/// The linear address of an XSAVE area, after what else is to be checked first.
fn xsave_area<E: Environment>(p: &mut Processor<E>, op: &Op<E>, write: bool) -> Result<u64, Stop> {
    if !p.cpu.cr4.contains(Cr4::OSXSAVE) {
        return Err(p.cpu.undefined_opcode());
    }
    if p.cpu.cr0.contains(Cr0::TS) {
        return Err(p.cpu.raise(Exception::DEVICE_NOT_AVAILABLE));
    }
    let size = if requested(&p.cpu).contains(Xcr0::AVX) { XSAVE_AREA_SIZE } else { LEGACY_XSAVE_SIZE };
    area(p, op, size, XSAVE_ALIGNMENT, write)
}

fn store_xsave<const WIDE: bool, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    form: XsaveForm,
) -> Outcome {
    let image = vector::xsave(&p.cpu.fpu, form, xsave_layout::<WIDE>(&p.cpu), requested(&p.cpu));
    store_image(p, op, linear, image.end().max(LEGACY_XSAVE_SIZE), &image)
}

/// RFBM: the components named in EDX:EAX that XCR0 enables.
const fn requested(cpu: &Cpu) -> Xcr0 {
    let mask = cpu.gpr[RDX] << 32 | cpu.gpr[RAX] & 0xffff_ffff;
    Xcr0::from_bits_truncate(mask).intersection(cpu.xcr0)
}

const fn xsave_layout<const WIDE: bool>(cpu: &Cpu) -> FxsaveLayout {
    FxsaveLayout { wide_pointers: WIDE, xmm_registers: if cpu.code64() { 16 } else { 8 } }
}

const fn fxsave_layout<const WIDE: bool>(cpu: &Cpu) -> FxsaveLayout {
    let fast = cpu.efer.contains(Efer::FFXSR) && cpu.cpl == 0 && cpu.code64();
    let layout = xsave_layout::<WIDE>(cpu);
    if fast { FxsaveLayout { xmm_registers: 0, ..layout } } else { layout }
}
