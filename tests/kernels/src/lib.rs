//! Small bare-metal guests that show how a system must behave, the same on every engine.
//!
//! A test writes its guest with an assembler that runs in the test itself (`iced-x86`), says at each place what must be
//! seen there, and runs the whole in an ordinary machine:
//!
//! ```text
//!  |g| { g.xor(ecx, ecx)?; g.expect_fault(fault(DE), |g| g.div(ecx))?; g.expect(rcx, 0) }
//!    │ assembled with the environment's start-up code and handlers, its tables and pages
//!    ▼
//!  image (PVH ELF, multiboot, bzImage, boot sector) ──▶ Machine on each engine ──▶ words through COM1, debug exit
//!                                                                                      │
//!  expectations, in the order in which they were written ◀───────── compared ◀─────────┘
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`long`] | 64-bit mode: segments, IDT that reports, page tables, TSS with IST, user mode, further processors |
//! | [`protected`] | 32-bit protected mode without paging, with an IDT that reports |
//! | [`real`] | real mode, from a boot sector |
//! | [`image`] | kernel files of every format, built in memory |
//! | [`text`] | 16- and 32-bit code, which is written twice |
//! | [`device`] | instruction sequences that set up interrupt controllers and timers |
//! | [`guest`] | what all environments share: labels, words for the report, bytes in memory |
//! | [`expect`], [`run`] | what must be seen; running and comparing |
//!
//! Tests are in `tests/suite`, a folder per theme. A guest that hangs is stopped after some seconds, and one that ends
//! in another way than by the debug-exit port fails its test with what it had reported so far.

pub mod device;
pub mod expect;
pub mod guest;
pub mod image;
pub mod long;
pub mod protected;
pub mod real;
pub mod run;
pub mod text;

use tern_engine::Engine;

/// The engines that the tests run on: the one that the environment's `TERN_ENGINE` names, or the one that every host can run.
///
/// # Panics
/// There is no engine of that name.
#[must_use]
pub fn engines() -> Vec<Box<dyn Engine>> {
    let name = std::env::var("TERN_ENGINE");
    vec![match name.as_deref() {
        Err(_) | Ok("soft") => Box::new(tern_soft::SoftEngine::from_environment()),
        Ok("kvm") => Box::new(tern_kvm::KvmEngine),
        Ok(other) => panic!("TERN_ENGINE names '{other}', and there are 'soft' and 'kvm'"),
    }]
}
