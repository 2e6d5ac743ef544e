//! Random user-mode instructions, executed by the host's processor and by the interpreter, and compared.
//!
//! ```text
//!              ┌──▶ native: a child process under ptrace ───────────────┐
//! seed ──▶ case┤                                                        ├──▶ compare ──▶ mismatches
//!              └──▶ interpreter: user mode in a guest on the soft engine┘
//! ```
//!
//! A [`case`] is a few instructions with registers and memory; both sides map the same [`layout`]. Registers, flags, memory,
//! FPU state, and the vector, error code and address of faults must agree; [`undefined`] holds what the manual leaves open.
//! Instructions come from the whole set that the guest's processor model offers ([`codes`]), encoded at random
//! ([`encode`]); everything is a function of a seed and the case's number.
//!
//! The test of this crate runs a fixed seed, unless `TERN_DIFF_SEED` and `TERN_DIFF_CASES` say otherwise; the program runs any number
//! of cases:
//!
//! ```text
//! cargo run -p tern-differential --release -- --seed 7 --cases 1000000
//! cargo run -p tern-differential --release -- --seed 7 --first 4711 --cases 1 --show
//! ```
//!
//! The host must have the instruction sets of x86-64-v2. Best it is of the vendor that the guest's model names, AMD: vendors differ in a
//! few places, which are left out on other hosts ([`vendors`]).
#![allow(unsafe_code)]

pub mod case;
pub mod codes;
pub mod compare;
pub mod encode;
pub mod interpreter;
pub mod layout;
pub mod native;
pub mod random;
pub mod registers;
pub mod run;
pub mod undefined;
pub mod vendors;
