//! What there is to know of vector and x87 instructions without executing one, and the management of their state.
//!
//! Engines execute the arithmetic of x87, MMX, SSE and AVX on the host's own units, on a saved [`crate::state::FpuState`]. What
//! they need for it comes from [`classify()`]: operands, faults to check for, side effects. Everything that moves the
//! state as a whole or changes how exceptions are reported is written out here instead, because it must not depend on
//! the host's processor: it maps a state to and from bytes that the caller exchanges with guest memory.
//!
//! | file | instructions |
//! |---|---|
//! | `classify` | which instructions an engine may execute natively, and what they touch |
//! | `x87_control` | FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW; pending exceptions and their pointers |
//! | `environment` | FNSTENV, FLDENV, FNSAVE, FRSTOR |
//! | `mxcsr` | LDMXCSR, STMXCSR |
//! | `fxsave` | FXSAVE, FXRSTOR |
//! | `xsave` | XSAVE, XSAVEOPT, XSAVEC, XRSTOR, and the XINUSE that XGETBV shows |
//! | `mask_move` | MASKMOVQ, MASKMOVDQU |
//! | `fields`, `store_image` | where things lie in the saved image, and what is written of it |
//!
//! What stores to memory takes a shared state, because the store may fault: the change of state that follows it is a
//! function of its own, named in the description.
//!
//! FNENI, FNDISI and FNSETPM do nothing on any processor with 64-bit mode. FWAIT only raises what
//! [`x87_exception_pending`] tells. Whether CR0.EM, CR0.TS, CR4.OSFXSR or CR4.OSXSAVE forbid an instruction, and the
//! alignment of the areas, are the caller's to check.
//!
//! Sources: AMD64 APM volume 1 chapters 4 to 6, volume 2 sections 11.4 and 11.5, volumes 4 and 5; Intel SDM volume 1
//! chapters 8, 11 and 13.

mod classify;
mod environment;
mod fields;
mod fxsave;
mod mask_move;
mod mxcsr;
mod store_image;
mod x87_control;
mod xsave;

pub use classify::{MemoryAccess, MemoryOperand, VectorClass, VectorInfo, classify};
pub use environment::{EnvironmentFormat, fldenv, fnsave, fnstenv, frstor};
pub use fields::{X87_EXCEPTIONS, X87_SUMMARY};
pub use fxsave::{FxsaveLayout, fxrstor, fxsave};
pub use mask_move::{MaskedMove, enter_mmx, maskmovdqu, maskmovq};
pub use mxcsr::{ldmxcsr, stmxcsr};
pub use store_image::StoreImage;
pub use x87_control::{
    fldcw, fnclex, fninit, mask_x87_exceptions, record_x87_pointers, x87_exception_pending,
};
pub use xsave::{
    AVX_OFFSET, AVX_SIZE, LEGACY_XSAVE_SIZE, XSAVE_AREA_SIZE, XsaveForm, in_use, xrstor, xrstor_reads_avx,
    xsave,
};
