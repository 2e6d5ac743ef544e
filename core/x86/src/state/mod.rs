//! The architectural state of one processor: everything software can observe of it, in the manuals' own terms.
//!
//! [`VcpuState`] is the only form in which a processor is saved, sent to another engine or another host. It holds no
//! caches and nothing that only one engine knows. Running engines keep their own working form and convert.
//!
//! Sources: AMD64 APM volume 2 (chapters 1, 3, 4 and 8), Intel SDM volume 3 (chapters 2 and 3).

mod control;
mod extended;
mod fpu;
mod rflags;
mod segment;
mod vcpu;

pub use control::{Cr0, Cr4, Dr6, Dr7, Efer, Xcr0};
pub use extended::{Component, Extended};
pub use fpu::{FPU_IMAGE_SIZE, FpuState, Mxcsr, YMM_SIZE};
pub use rflags::Rflags;
pub use segment::{Attributes, DescriptorTable, Segment, SegmentRegister};
pub use vcpu::{Activity, Delivery, GPR_COUNT, Msrs, PendingEvent, VcpuState};
