//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR of the components x87, SSE and AVX (APM volume 2, section 11.5; SDM volume 1,
//! sections 13.4 to 13.10). XSAVES and XRSTORS are not offered.
//!
//! Callers check first: CR4.OSXSAVE, CR0.TS, and that the area is aligned to 64 bytes (#GP(0)).

use super::StoreImage;
use super::fields::{read_u64, write};
use super::fxsave::{self, FxsaveLayout};
use crate::exception::Exception;
use crate::state::{FpuState, Mxcsr, Xcr0, YMM_SIZE};

/// Bytes of an XSAVE area with the components x87 and SSE, in the standard and in the compacted form.
pub const LEGACY_XSAVE_SIZE: usize = HEADER + 64;
/// Where AVX's component is in the area, in both forms: no other one comes before it.
pub const AVX_OFFSET: usize = LEGACY_XSAVE_SIZE;
/// Bytes of AVX's component: the upper halves of the YMM registers.
pub const AVX_SIZE: usize = YMM_SIZE;
/// Bytes of an XSAVE area with all components that there may be.
pub const XSAVE_AREA_SIZE: usize = AVX_OFFSET + AVX_SIZE;

const HEADER: usize = 512;
const XSTATE_BV: usize = HEADER;
const XCOMP_BV: usize = HEADER + 8;
/// XCOMP_BV: the area is in the compacted form.
const COMPACTED: u64 = 1 << 63;

/// Which instruction saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XsaveForm {
    /// XSAVE. The previous XSTATE_BV, which was read from the area, keeps the bits of components that are not saved.
    Standard {
        /// XSTATE_BV as it is in memory.
        xstate_bv: u64,
    },
    /// XSAVEOPT: as XSAVE, without components in their initial state.
    Optimised {
        /// XSTATE_BV as it is in memory.
        xstate_bv: u64,
    },
    /// XSAVEC: the compacted form, without components in their initial state. Does not read the area.
    Compacted,
}

/// XINUSE: the components that are not in their initial state. MXCSR does not count.
#[must_use]
pub fn in_use(fpu: &FpuState) -> Xcr0 {
    let initial = FpuState::new();
    let differs = |range: core::ops::Range<usize>| fpu.image()[range.clone()] != initial.image()[range];
    let mut components = Xcr0::empty();
    components.set(Xcr0::X87, differs(fxsave::X87_CONTROL) || differs(fxsave::X87_REGISTERS));
    components.set(Xcr0::SSE, differs(ALL_REGISTERS.xmm()));
    components.set(Xcr0::AVX, fpu.ymm() != initial.ymm());
    components
}

const ALL_REGISTERS: FxsaveLayout = FxsaveLayout { wide_pointers: true, xmm_registers: 16 };

/// XSAVE, XSAVEOPT or XSAVEC: what it stores. `requested` is EDX:EAX masked by XCR0 (RFBM). All of the
/// [`LEGACY_XSAVE_SIZE`] bytes must be writable, and what of AVX's component is stored.
#[must_use]
pub fn xsave(fpu: &FpuState, form: XsaveForm, layout: FxsaveLayout, requested: Xcr0) -> StoreImage {
    let mut present = in_use(fpu) & requested;
    let stored = match form {
        XsaveForm::Standard { .. } => requested,
        XsaveForm::Optimised { .. } => present,
        XsaveForm::Compacted => {
            if fpu.mxcsr() != Mxcsr::default() {
                present |= Xcr0::SSE & requested;
            }
            present
        }
    };
    let stores_mxcsr = match form {
        XsaveForm::Standard { .. } | XsaveForm::Optimised { .. } => {
            requested.intersects(Xcr0::SSE | Xcr0::AVX)
        }
        XsaveForm::Compacted => stored.contains(Xcr0::SSE),
    };
    let mut image = StoreImage::new();
    if stored.contains(Xcr0::X87) {
        fxsave::store_control(fpu, layout, image.piece(fxsave::X87_CONTROL));
    }
    if stores_mxcsr {
        fxsave::store_mxcsr(fpu, image.piece(fxsave::MXCSR));
    }
    if stored.contains(Xcr0::X87) {
        fxsave::store_registers(fpu, image.piece(fxsave::X87_REGISTERS));
    }
    if stored.contains(Xcr0::SSE) {
        image.piece(layout.xmm()).copy_from_slice(&fpu.image()[layout.xmm()]);
    }
    match form {
        XsaveForm::Standard { xstate_bv } | XsaveForm::Optimised { xstate_bv } => {
            let kept = xstate_bv & !requested.bits();
            write(image.piece(XSTATE_BV..XCOMP_BV), 0, &(kept | present.bits()).to_le_bytes());
        }
        XsaveForm::Compacted => {
            let header = image.piece(XSTATE_BV..XCOMP_BV + 8);
            write(header, 0, &present.bits().to_le_bytes());
            write(header, 8, &(COMPACTED | requested.bits()).to_le_bytes());
        }
    }
    if stored.contains(Xcr0::AVX) {
        let bytes = 16 * layout.registers().end;
        image.piece(AVX_OFFSET..AVX_OFFSET + bytes).copy_from_slice(&fpu.ymm()[..bytes]);
    }
    image
}

/// Whether XRSTOR reads AVX's component of the area that begins with these bytes.
#[must_use]
pub fn xrstor_reads_avx(requested: Xcr0, header: &[u8; LEGACY_XSAVE_SIZE]) -> bool {
    requested.contains(Xcr0::AVX) && Xcr0::from_bits_truncate(read_u64(header, XSTATE_BV)).contains(Xcr0::AVX)
}

/// XRSTOR, whose form is in the area's header. `requested` is EDX:EAX masked by XCR0 (RFBM). AVX's component counts only if
/// [`xrstor_reads_avx`].
///
/// # Errors
/// #GP(0) if the header or the MXCSR to be loaded is not acceptable; nothing is changed then.
pub fn xrstor(
    fpu: &mut FpuState,
    layout: FxsaveLayout,
    requested: Xcr0,
    xcr0: Xcr0,
    bytes: &[u8; XSAVE_AREA_SIZE],
) -> Result<(), Exception> {
    let xstate_bv = read_u64(bytes, XSTATE_BV);
    let xcomp_bv = read_u64(bytes, XCOMP_BV);
    let compacted = xcomp_bv & COMPACTED != 0;
    let reserved_from = if compacted { XCOMP_BV + 8 } else { XCOMP_BV };
    let (allowed, reserved_to) = if compacted {
        (xcomp_bv & !COMPACTED, LEGACY_XSAVE_SIZE)
    } else {
        // The standard form leaves the last 40 bytes of the header unchecked.
        (xcr0.bits(), XCOMP_BV + 16)
    };
    let acceptable = allowed & !xcr0.bits() == 0
        && xstate_bv & !allowed == 0
        && bytes[reserved_from..reserved_to].iter().all(|&byte| byte == 0);
    if !acceptable {
        return Err(Exception::general_protection(0));
    }

    let present = Xcr0::from_bits_truncate(xstate_bv);
    // The standard form has MXCSR whatever XSTATE_BV says, and AVX asks for it, too; in the compacted form it is SSE's.
    let mxcsr = match compacted {
        false if requested.intersects(Xcr0::SSE | Xcr0::AVX) => fxsave::load_mxcsr(bytes)?,
        true if requested.contains(Xcr0::SSE) && present.contains(Xcr0::SSE) => fxsave::load_mxcsr(bytes)?,
        true if requested.contains(Xcr0::SSE) => Mxcsr::default(),
        _ => fpu.mxcsr(),
    };
    fpu.set_mxcsr(mxcsr);
    let initial = FpuState::new();
    if requested.contains(Xcr0::X87) {
        let source = if present.contains(Xcr0::X87) { &bytes[..HEADER] } else { &initial.image()[..] };
        fxsave::load_x87(fpu, layout, source);
    }
    if requested.contains(Xcr0::SSE) {
        let source = if present.contains(Xcr0::SSE) { &bytes[..HEADER] } else { &initial.image()[..] };
        fxsave::load_xmm(fpu, layout, source);
    }
    if requested.contains(Xcr0::AVX) {
        let loaded = 16 * layout.registers().end;
        let target = &mut fpu.ymm_mut()[..loaded];
        match present.contains(Xcr0::AVX) {
            true => target.copy_from_slice(&bytes[AVX_OFFSET..AVX_OFFSET + loaded]),
            false => target.fill(0),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    const BOTH: Xcr0 = Xcr0::X87.union(Xcr0::SSE);
    const STANDARD: XsaveForm = XsaveForm::Standard { xstate_bv: 0 };
    type Area = [u8; XSAVE_AREA_SIZE];

    const WITH_AVX: Xcr0 = BOTH.union(Xcr0::AVX);

    fn sample() -> FpuState {
        let mut fpu = FpuState::new();
        fpu.set_fcw(0x027f);
        fields::set_st(&mut fpu, 2, [9; 10]);
        fpu.set_mxcsr(Mxcsr::from_bits_retain(0x1fa0));
        fpu.set_xmm(15, 77);
        fpu
    }

    fn wide_sample() -> FpuState {
        let mut fpu = sample();
        fpu.set_vector(15, &[0x5a; 32]);
        fpu.set_vector(3, &[0xa5; 32]);
        fpu
    }

    fn save(fpu: &FpuState, form: XsaveForm, requested: Xcr0) -> Area {
        let mut area = [0; XSAVE_AREA_SIZE];
        for (offset, piece) in xsave(fpu, form, ALL_REGISTERS, requested).pieces() {
            write(&mut area, usize::try_from(offset).expect("small"), piece);
        }
        area
    }

    fn restore(fpu: &mut FpuState, requested: Xcr0, area: &Area) -> Result<(), Exception> {
        xrstor(fpu, ALL_REGISTERS, requested, BOTH, area)
    }

    #[test]
    fn every_form_brings_the_state_back() {
        for form in [STANDARD, XsaveForm::Optimised { xstate_bv: 0 }, XsaveForm::Compacted] {
            let mut loaded = FpuState::new();
            assert_eq!(restore(&mut loaded, BOTH, &save(&sample(), form, BOTH)), Ok(()));
            assert_eq!(loaded, sample(), "{form:?}");
        }
    }

    #[test]
    fn avx_comes_and_goes_in_every_form() {
        for form in [STANDARD, XsaveForm::Optimised { xstate_bv: 0 }, XsaveForm::Compacted] {
            let area = save(&wide_sample(), form, WITH_AVX);
            assert_eq!(read_u64(&area, XSTATE_BV), 7);
            let mut loaded = FpuState::new();
            assert_eq!(xrstor(&mut loaded, ALL_REGISTERS, WITH_AVX, WITH_AVX, &area), Ok(()));
            assert_eq!(loaded, wide_sample(), "{form:?}");
            // What is not there becomes initial, and what is not asked for stays.
            let mut absent = area;
            write(&mut absent, XSTATE_BV, &3u64.to_le_bytes());
            assert_eq!(xrstor(&mut loaded, ALL_REGISTERS, BOTH, WITH_AVX, &absent), Ok(()));
            assert_eq!(loaded, wide_sample());
            assert_eq!(xrstor(&mut loaded, ALL_REGISTERS, WITH_AVX, WITH_AVX, &absent), Ok(()));
            assert_eq!(loaded.ymm(), FpuState::new().ymm());
            assert_eq!(loaded.xmm(15), wide_sample().xmm(15));
        }
    }

    #[test]
    fn outside_of_64_bit_code_the_upper_registers_take_no_part() {
        let layout = FxsaveLayout { wide_pointers: false, xmm_registers: 8 };
        let image = xsave(&wide_sample(), STANDARD, layout, Xcr0::AVX);
        let last = image.pieces().last().map(|(offset, bytes)| (offset, bytes.len()));
        assert_eq!(last, Some((576, 128)));
        let mut fpu = wide_sample();
        assert_eq!(xrstor(&mut fpu, layout, Xcr0::AVX, WITH_AVX, &[0; XSAVE_AREA_SIZE]), Ok(()));
        assert_eq!((fpu.vector(3)[16], fpu.vector(15)[16]), (0, 0x5a));
    }

    #[test]
    fn the_standard_form_has_mxcsr_for_avx_alone_as_well() {
        let stored = xsave(&sample(), STANDARD, ALL_REGISTERS, Xcr0::AVX);
        assert!(stored.pieces().any(|(offset, _)| offset == 24));
        let mut area = [0; XSAVE_AREA_SIZE];
        write(&mut area, 24, &0x1f81u32.to_le_bytes());
        let mut fpu = sample();
        assert_eq!(xrstor(&mut fpu, ALL_REGISTERS, Xcr0::AVX, WITH_AVX, &area), Ok(()));
        assert_eq!(fpu.mxcsr().bits(), 0x1f81);
    }

    #[test]
    fn only_requested_components_are_stored_and_the_others_keep_their_header_bits() {
        let form = XsaveForm::Standard { xstate_bv: 0b111 };
        let area = save(&sample(), form, Xcr0::SSE);
        assert!(area[..24].iter().chain(&area[32..160]).all(|&byte| byte == 0));
        assert_eq!(read_u64(&area, XSTATE_BV), 0b111);
        let area = save(&FpuState::new(), form, Xcr0::SSE);
        assert_eq!(read_u64(&area, XSTATE_BV), 0b101);
    }

    #[test]
    fn initial_components_are_left_out_by_xsaveopt_and_xsavec_but_not_by_xsave() {
        let pieces = |form| xsave(&FpuState::new(), form, ALL_REGISTERS, BOTH).pieces().count();
        assert_eq!(pieces(STANDARD), 5);
        assert_eq!(pieces(XsaveForm::Optimised { xstate_bv: 0 }), 2); // MXCSR and the header
        assert_eq!(pieces(XsaveForm::Compacted), 1);
    }

    #[test]
    fn xsavec_treats_mxcsr_as_part_of_sse() {
        let mut fpu = FpuState::new();
        fpu.set_mxcsr(Mxcsr::from_bits_retain(0x1f81));
        let area = save(&fpu, XsaveForm::Compacted, BOTH);
        assert_eq!((read_u64(&area, XSTATE_BV), read_u64(&area, XCOMP_BV)), (0b10, COMPACTED | 0b11));
        let mut loaded = sample();
        assert_eq!(restore(&mut loaded, BOTH, &area), Ok(()));
        assert_eq!(loaded, fpu);
    }

    #[test]
    fn absent_components_become_initial_and_mxcsr_only_in_the_compacted_form() {
        let mut area = [0; XSAVE_AREA_SIZE];
        write(&mut area, 24, &0x1f81u32.to_le_bytes());
        let mut fpu = sample();
        assert_eq!(restore(&mut fpu, BOTH, &area), Ok(()));
        assert_eq!((in_use(&fpu), fpu.mxcsr().bits()), (Xcr0::empty(), 0x1f81));
        write(&mut area, XCOMP_BV, &(COMPACTED | 0b11).to_le_bytes());
        assert_eq!(restore(&mut fpu, BOTH, &area), Ok(()));
        assert_eq!(fpu, FpuState::new());
    }

    #[test]
    fn components_that_are_not_requested_are_not_touched() {
        let mut fpu = sample();
        assert_eq!(restore(&mut fpu, Xcr0::X87, &[0; XSAVE_AREA_SIZE]), Ok(()));
        assert_eq!((fpu.xmm(15), fpu.mxcsr().bits(), fpu.fcw()), (77, 0x1fa0, 0x037f));
    }

    #[test]
    fn unacceptable_headers_fault_before_anything_is_loaded() {
        let fault = Err(Exception::general_protection(0));
        let cases: [(&str, &[(usize, u64)]); 7] = [
            ("component outside XCR0", &[(XSTATE_BV, 0b100)]),
            ("standard form, XCOMP_BV not zero", &[(XCOMP_BV, 1)]),
            ("standard form, reserved bytes", &[(XCOMP_BV + 8, 1)]),
            ("compacted, component outside XCR0", &[(XCOMP_BV, COMPACTED | 0b111)]),
            ("compacted, component not in XCOMP_BV", &[(XSTATE_BV, 0b10), (XCOMP_BV, COMPACTED | 0b01)]),
            ("compacted, reserved bytes", &[(XCOMP_BV, COMPACTED), (HEADER + 56, 1)]),
            ("reserved MXCSR bit", &[(24, 0x1_0000)]),
        ];
        for (name, writes) in cases {
            let mut area = [0; XSAVE_AREA_SIZE];
            for &(at, value) in writes {
                write(&mut area, at, &value.to_le_bytes());
            }
            let mut fpu = sample();
            assert_eq!(restore(&mut fpu, BOTH, &area), fault, "{name}");
            assert_eq!(fpu, sample(), "{name}");
        }
        let mut area = [0; XSAVE_AREA_SIZE];
        write(&mut area, HEADER + 24, &1u64.to_le_bytes());
        assert_eq!(
            restore(&mut sample(), BOTH, &area),
            Ok(()),
            "the standard form checks only bytes 8 to 23"
        );
    }
}
