#![no_std]
#![forbid(unsafe_code)]
//! What an x86-64 processor *is*, as pure logic: its state, its translation of addresses, the meaning of its
//! instructions. No host, no clock, no threads; everything outside the processor is handed in through [`Environment`].
//!
//! | room | what it holds |
//! |---|---|
//! | [`state`] | the architectural state as a value, the only form in which a processor is saved or sent |
//! | [`cpu`] | the same state in the form in which it runs, with what is derived from it |
//! | [`exception`] | vectors, error codes, how faults combine |
//! | [`cpuid`] | named processor models and what CPUID says for them |
//! | [`paravirtual`] | the hypervisor as guests see it: KVM's interface |
//! | [`paging`] | linear to physical addresses by walking page tables |
//! | [`decode`] | instruction bytes to operations: a handler with resolved operands |
//! | [`exec`] | the handlers: what each instruction does |
//! | [`vector`] | what there is to know of vector and x87 instructions, and their state management |
//! | [`environment`] | what a processor needs from outside |
//!
//! Decoding and execution are apart: whoever only wants to know what an instruction accesses (a hypervisor that answers
//! an MMIO fault, a translator's checker) uses [`decode`] without [`exec`].

extern crate alloc;

pub mod cpu;
pub mod cpuid;
pub mod decode;
pub mod environment;
pub mod exception;
pub mod exec;
pub mod paging;
pub mod paravirtual;
pub mod state;
pub mod vector;

pub use environment::Environment;
