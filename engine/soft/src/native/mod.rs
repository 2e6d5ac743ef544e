//! Vector and x87 instructions, executed by the host's own units on a saved guest state.
//!
//! The guest's processor is the host's sort of processor, so the arithmetic of MMX, SSE, AVX and x87 need not be written out.
//! For each distinct instruction [`NativeUnit`] makes a *stub*, a small function around the same instruction with the
//! same vector registers, whose memory operand is `[rsi]` and whose general register is `rax`:
//!
//! ```text
//!  decode                     execute
//!  instruction + VectorInfo   StubId + FpuState, GPRs, flags, pointer to the memory operand
//!        │ prepare                  │ run
//!        ▼                          ▼
//!  stub bytes ─▶ code memory   load inputs ▶ instruction ▶ store outputs ▶ host's MXCSR and x87 back
//! ```
//!
//! A stub never faults on the host: exceptions are masked (SSE) or only recorded (x87), and the caller vouches for the
//! operand. What the guest's own masks ask for is worked out afterwards, in `exceptions`. No host address reaches the
//! guest: the x87 pointers that FXSAVE would record are put back.
//!
//! | file | what is in it |
//! |---|---|
//! | `stub` | the code of one stub |
//! | `code_memory` | where stubs live |
//! | `exceptions` | SSE exceptions that the guest did not mask |
//! | `host` | what the host's processor must have |
//!
//! Sources: AMD64 APM volume 1 chapters 4 to 6; System V ABI for x86-64, section 3.2 (registers across calls).
#![allow(unsafe_code, reason = "makes code and calls it")]

mod code_memory;
mod exceptions;
mod host;
mod stub;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;

use iced_x86::Instruction;
use tern_x86::state::{FpuState, Mxcsr};
use tern_x86::vector::{VectorInfo, X87_SUMMARY, enter_mmx, x87_exception_pending};
use thiserror::Error;

use code_memory::CodeMemory;
use stub::{Kind, Stub, StubFn};

pub use host::{executes, host_supports, instruction_sets};
pub use stub::HOST_FCW;

/// Bytes of code memory of one unit; stubs take 32 to 224 bytes each.
const CODE_SIZE: usize = 2 << 20;

/// A prepared instruction of one [`NativeUnit`], valid until its [`NativeUnit::clear`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StubId(pub u32);

/// How an instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Completed,
    /// An unmasked SIMD floating-point exception: its flags are in MXCSR, nothing else changed. #XF, or #UD without
    /// CR4.OSXMMEXCPT.
    SimdException,
    /// It took effect as far as the architecture says and left an unmasked x87 exception pending for the next waiting
    /// instruction. The caller records where it happened (`tern_x86::vector::record_x87_pointers`).
    X87Exception {
        /// The destination of a store instruction was written.
        stored: bool,
    },
    /// It did not execute because an unmasked x87 exception was pending before: #MF.
    X87Pending,
}

/// Why an instruction could not be prepared.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The code memory is used up. Drop every [`StubId`], call [`NativeUnit::clear`], prepare again.
    #[error("the code memory for vector instructions is full; clear it and prepare again")]
    Full,
    /// There is no 64-bit encoding of the instruction.
    #[error("the instruction has no encoding in 64-bit code")]
    NotEncodable(#[from] iced_x86::IcedError),
}

/// The stubs of one vCPU thread.
#[derive(Debug)]
pub struct NativeUnit {
    memory: CodeMemory,
    stubs: Vec<Stub>,
    /// By the bytes of their code: instructions that differ only in what stubs leave out share one.
    known: HashMap<Box<[u8]>, StubId>,
}

impl NativeUnit {
    /// An empty unit.
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn new() -> io::Result<Self> {
        Ok(Self { memory: CodeMemory::new(CODE_SIZE)?, stubs: Vec::new(), known: HashMap::new() })
    }

    /// How many more instructions can surely be prepared.
    #[must_use]
    pub fn room(&self) -> usize {
        self.memory.free() / stub::MAX_SIZE
    }

    /// Drops all stubs. Every [`StubId`] given out before must be forgotten: it may name another instruction now.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.stubs.clear();
        self.known.clear();
    }

    /// Makes ready to execute `instruction`, of which `info` is the classification.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare(&mut self, instruction: &Instruction, info: &VectorInfo) -> Result<StubId, PrepareError> {
        let code = stub::assemble(instruction, info)?;
        if let Some(&id) = self.known.get(code.as_slice()) {
            return Ok(id);
        }
        let Some(offset) = self.memory.append(&code) else {
            return Err(PrepareError::Full);
        };
        // Every stub takes at least a byte of the code memory, whose size is far below 4 GiB.
        let id = StubId(u32::try_from(self.stubs.len()).map_err(|_| PrepareError::Full)?);
        self.stubs.push(Stub::new(offset, instruction, info));
        self.known.insert(code.into(), id);
        Ok(id)
    }

    /// Whether a prepared instruction uses the host's x87 registers.
    #[must_use]
    pub fn uses_x87(&self, stub: StubId) -> bool {
        self.stubs[stub.0 as usize].kind.uses_x87()
    }

    /// Executes a prepared instruction.
    ///
    /// `gpr` is indexed by encoding number. `flags` holds the arithmetic flags at their places in RFLAGS; other bits are
    /// kept. `memory` is the memory operand, ignored if there is none.
    ///
    /// # Panics
    /// `stub` was not prepared since the last [`NativeUnit::clear`].
    ///
    /// # Safety
    /// If the instruction has a memory operand, `memory` is valid for reads, or for writes if it stores, of as many bytes
    /// as its [`VectorInfo`] says, and aligned if that demands it. Other threads may access the same bytes only as guest
    /// code may, never through references.
    #[inline]
    pub unsafe fn run(
        &self,
        stub: StubId,
        fpu: &mut FpuState,
        gpr: &mut [u64; 32],
        flags: &mut u64,
        memory: *mut u8,
    ) -> Outcome {
        let stub = self.stubs[stub.0 as usize];
        match stub.kind {
            Kind::Sse => {}
            Kind::SseArithmetic if fpu.mxcsr().contains(Mxcsr::MASKS) => {}
            // SAFETY: the caller's promise about `memory` is passed on.
            _ => return unsafe { self.run_with_care(stub, fpu, gpr, flags, memory) },
        }
        // SAFETY: these kinds touch XMM registers only and mask their exceptions; `memory` is as the caller promised.
        unsafe { self.call(stub, fpu, gpr, flags, memory) };
        Outcome::Completed
    }

    /// The kinds that need more than a call.
    ///
    /// # Safety
    /// As for [`NativeUnit::run`].
    #[inline(never)]
    unsafe fn run_with_care(
        &self,
        stub: Stub,
        fpu: &mut FpuState,
        gpr: &mut [u64; 32],
        flags: &mut u64,
        memory: *mut u8,
    ) -> Outcome {
        if stub.kind.uses_x87() && x87_exception_pending(fpu) {
            return Outcome::X87Pending;
        }
        match stub.kind {
            Kind::X87 { stores } => {
                // SAFETY: no exception is pending; `memory` is as the caller promised.
                unsafe { self.call_on_x87(stub, fpu, gpr, flags, memory) };
                if x87_exception_pending(fpu) {
                    Outcome::X87Exception { stored: stores && !exceptions::prevents_store(fpu) }
                } else {
                    Outcome::Completed
                }
            }
            Kind::Sse | Kind::SseArithmetic | Kind::MmxArithmetic => {
                let mut trial = exceptions::Trial::new(fpu);
                let (mut new_gpr, mut new_flags) = (*gpr, *flags);
                if stub.kind.uses_x87() {
                    // SAFETY: no exception is pending and the trial masks all of SSE's; `memory` is as promised.
                    unsafe { self.call_on_x87(stub, &mut trial.fpu, &mut new_gpr, &mut new_flags, memory) };
                } else {
                    // SAFETY: the trial masks all exceptions; `memory` is as the caller promised.
                    unsafe { self.call(stub, &mut trial.fpu, &mut new_gpr, &mut new_flags, memory) };
                }
                let entered_mmx = stub.kind.uses_x87() && in_mmx(&trial.fpu);
                if !trial.finish(stub.tiny, fpu) {
                    if entered_mmx {
                        // Processors do this before they find the exception.
                        enter_mmx(fpu);
                    }
                    return Outcome::SimdException;
                }
                (*gpr, *flags) = (new_gpr, new_flags);
                Outcome::Completed
            }
        }
    }

    /// Calls a stub that loads the whole state, keeping from it what the host must not see and from the guest what
    /// the host must not show.
    ///
    /// # Safety
    /// As for [`NativeUnit::run`]; and no unmasked x87 exception is pending in `fpu`.
    unsafe fn call_on_x87(
        &self,
        stub: Stub,
        fpu: &mut FpuState,
        gpr: &mut [u64; 32],
        flags: &mut u64,
        memory: *mut u8,
    ) {
        /// FOP, FIP and FDP.
        const POINTERS: std::ops::Range<usize> = 6..24;
        const MXCSR_MASK: std::ops::Range<usize> = 28..32;
        // FXRSTOR faults on MXCSR bits that do not exist, and some processors take ES as it is.
        fpu.set_mxcsr(fpu.mxcsr());
        fpu.set_fsw(fpu.fsw() & !X87_SUMMARY);
        let mut pointers = [0; POINTERS.end - POINTERS.start];
        pointers.copy_from_slice(&fpu.image()[POINTERS]);
        // SAFETY: the image can be loaded, no exception is pending; `memory` is as the caller promised.
        unsafe { self.call(stub, fpu, gpr, flags, memory) };
        fpu.image_mut()[POINTERS].copy_from_slice(&pointers);
        fpu.image_mut()[MXCSR_MASK].fill(0);
    }

    /// # Safety
    /// As for [`NativeUnit::run`]; an SSE stub's exceptions are masked in `fpu`; the image of an x87 stub can be loaded.
    #[inline]
    unsafe fn call(
        &self,
        stub: Stub,
        fpu: &mut FpuState,
        gpr: &mut [u64; 32],
        flags: &mut u64,
        memory: *mut u8,
    ) {
        // SAFETY: a whole stub of this type starts at the offset that `append` gave; it keeps to the System V ABI.
        let function: StubFn = unsafe { std::mem::transmute(self.memory.at(stub.offset)) };
        let state: *mut FpuState = fpu;
        // SAFETY: the stub accesses the FXSAVE image with the halves behind it, sixteen registers, the flags and its memory
        // operand, for which the caller vouches; it restores MXCSR, x87 and upper halves to what Rust code expects.
        unsafe { function(state.cast(), memory, gpr.as_mut_ptr(), flags) };
    }
}

/// All registers are valid and the stack top is 0, as every MMX instruction but EMMS leaves them.
const fn in_mmx(fpu: &FpuState) -> bool {
    fpu.ftw() == 0xff && fpu.fsw() >> 11 & 7 == 0
}
