//! The processor alone. [`std::hint::black_box`] keeps the compiler from doing at build time, or once, what is to be
//! measured.

pub(crate) mod calls;
pub(crate) mod float;
pub(crate) mod hash;
pub(crate) mod memory;
