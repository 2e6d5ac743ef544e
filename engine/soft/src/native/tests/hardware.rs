//! The other way to execute an instruction: all of the guest's registers in all of the processor's, with the guest's own
//! exception masks. An exception arrives as SIGFPE, and the instruction is skipped.

use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once};

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, OpKind, Register as R};
use tern_x86::state::FpuState;
use tern_x86::vector::XSAVE_AREA_SIZE;

use super::super::instruction_sets;
use tern_x86::cpuid::InstructionSets;

use super::super::code_memory::CodeMemory;

/// What the harness loads and stores.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Block {
    pub(super) fpu: FpuState,
    pub(super) memory: [u8; XSAVE_AREA_SIZE],
    pub(super) gpr: [u64; 16],
    pub(super) flags: u64,
    host_mxcsr: u32,
}

const MEMORY: i64 = offset_of!(Block, memory) as i64;
const GPR: i64 = offset_of!(Block, gpr) as i64;
const FLAGS: i64 = offset_of!(Block, flags) as i64;
const HOST_MXCSR: i64 = offset_of!(Block, host_mxcsr) as i64;

impl Block {
    pub(super) fn new(fpu: FpuState) -> Self {
        Self { fpu, memory: [0; XSAVE_AREA_SIZE], gpr: [0; 16], flags: 0, host_mxcsr: 0x1f80 }
    }
}

static SKIP: AtomicUsize = AtomicUsize::new(0);
static FAULTED: AtomicBool = AtomicBool::new(false);
static HANDLER: Once = Once::new();
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The processor, for one test at a time: the signal handler has one place to note an exception.
pub(super) struct Hardware {
    memory: CodeMemory,
    _guard: MutexGuard<'static, ()>,
}

impl Hardware {
    pub(super) fn new() -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        HANDLER.call_once(|| {
            // SAFETY: all zeros is a valid `sigaction`; the handler only touches atomics and the interrupted context.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_sigfpe as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                assert_eq!(libc::sigaction(libc::SIGFPE, &raw const action, ptr::null_mut()), 0);
            }
        });
        Self { memory: CodeMemory::new(1 << 16).expect("executable memory"), _guard: guard }
    }

    /// Makes the harness around an instruction whose memory operand, if any, becomes the block's memory.
    pub(super) fn prepare(&mut self, instruction: &Instruction) -> Harness {
        self.memory.clear();
        let mut op = *instruction;
        if (0..op.op_count()).any(|i| op.op_kind(i) == OpKind::Memory) {
            op.set_memory_base(R::RDI);
            op.set_memory_index(R::None);
            op.set_memory_displacement64(MEMORY as u64);
            op.set_memory_displ_size(8);
        }
        let (code, length) = harness(&op);
        let offset = self.memory.append(&code).expect("fits");
        Harness { entry: self.memory.at(offset), length }
    }

    /// Executes; returns whether an exception was raised.
    pub(super) fn run(&self, harness: &Harness, block: &mut Block) -> bool {
        SKIP.store(harness.length, Ordering::Relaxed);
        FAULTED.store(false, Ordering::Relaxed);
        // SAFETY: the harness keeps to the System V ABI and accesses nothing but the block; exceptions are handled.
        unsafe {
            let function: unsafe extern "sysv64" fn(*mut Block) = std::mem::transmute(harness.entry);
            function(block);
        }
        FAULTED.load(Ordering::Relaxed)
    }
}

/// Where a harness is, and how long its instruction.
pub(super) struct Harness {
    entry: *const u8,
    length: usize,
}

extern "C" fn on_sigfpe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    FAULTED.store(true, Ordering::Relaxed);
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted context, which is this handler's to change.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] += SKIP.load(Ordering::Relaxed) as i64 };
}

fn harness(op: &Instruction) -> (Vec<u8>, usize) {
    const LOADED: [(R, i64); 14] = [
        (R::RAX, 0),
        (R::RCX, 1),
        (R::RDX, 2),
        (R::RBX, 3),
        (R::RBP, 5),
        (R::RSI, 6),
        (R::R8, 8),
        (R::R9, 9),
        (R::R10, 10),
        (R::R11, 11),
        (R::R12, 12),
        (R::R13, 13),
        (R::R14, 14),
        (R::R15, 15),
    ];
    const SAVED: [R; 6] = [R::RBX, R::RBP, R::R12, R::R13, R::R14, R::R15];
    let slot = |n: i64| MemoryOperand::with_base_displ(R::RDI, GPR + 8 * n);
    let at = |offset| MemoryOperand::with_base_displ(R::RDI, offset);
    let mut encoder = Encoder::new(64);
    let mut emit = |instruction| encoder.encode(&instruction, 0).expect("encodable");
    for register in SAVED {
        emit(Instruction::with1(Code::Push_r64, register).expect("push"));
    }
    emit(Instruction::with1(Code::Fxrstor64_m512byte, at(0)).expect("fxrstor"));
    let wide = instruction_sets().contains(InstructionSets::AVX);
    let half = |n: u32| at((FpuState::YMM_OFFSET + 16 * n as usize) as i64);
    for n in (0..16).filter(|_| wide) {
        let ymm = R::YMM0 + n;
        emit(
            Instruction::with4(Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8, ymm, ymm, half(n), 1)
                .expect("vinsertf128"),
        );
    }
    emit(Instruction::with1(Code::Push_rm64, at(FLAGS)).expect("push"));
    emit(Instruction::with(Code::Popfq));
    for (register, n) in LOADED {
        emit(Instruction::with2(Code::Mov_r64_rm64, register, slot(n)).expect("mov"));
    }
    let length = emit(*op);
    for (register, n) in LOADED {
        emit(Instruction::with2(Code::Mov_rm64_r64, slot(n), register).expect("mov"));
    }
    emit(Instruction::with(Code::Pushfq));
    emit(Instruction::with1(Code::Pop_rm64, at(FLAGS)).expect("pop"));
    emit(Instruction::with1(Code::Fxsave64_m512byte, at(0)).expect("fxsave"));
    for n in (0..16).filter(|_| wide) {
        emit(
            Instruction::with3(Code::VEX_Vextractf128_xmmm128_ymm_imm8, half(n), R::YMM0 + n, 1)
                .expect("vextractf128"),
        );
    }
    if wide {
        emit(Instruction::with(Code::VEX_Vzeroupper));
    }
    emit(Instruction::with(Code::Fninit));
    emit(Instruction::with1(Code::Ldmxcsr_m32, at(HOST_MXCSR)).expect("ldmxcsr"));
    for register in SAVED.into_iter().rev() {
        emit(Instruction::with1(Code::Pop_r64, register).expect("pop"));
    }
    emit(Instruction::with(Code::Retnq));
    (encoder.take_buffer(), length)
}
