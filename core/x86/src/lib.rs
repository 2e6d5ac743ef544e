#![no_std]
#![forbid(unsafe_code)]
//! What an x86-64 processor *is*, as pure logic: its state, its translation of addresses, the meaning of its
//! instructions. No host, no clock, no threads; everything outside the processor is handed in.
//!
//! | room | what it holds |
//! |---|---|
//! | [`state`] | the architectural state as a value, the only form in which a processor is saved or sent |
extern crate alloc;

pub mod state;
