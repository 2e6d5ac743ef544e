//! System instructions and far transfers to operations: which handler, and where it finds its operands.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::lower::slot;
use super::{Op, OpFlags};
use crate::environment::{Environment, Handler};
use crate::exec::{system, transfer};
use crate::state::SegmentRegister;

/// The operation goes on somewhere else, where other rules may hold.
const TRANSFER: OpFlags = OpFlags::SETS_RIP.union(OpFlags::ENDS_BLOCK);
/// The operation may change how the code behind it is to be fetched, decoded or interrupted.
const BARRIER: OpFlags = OpFlags::ENDS_BLOCK.union(OpFlags::CHECK_INTERRUPTS);

/// Fills `op` if the instruction is one of this file's. Memory operand, offset and length are filled already.
pub(super) fn lower<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    let chosen = segment(instruction, op)
        .or_else(|| far(instruction, op))
        .or_else(|| registers(instruction, op))
        .or_else(|| tables(instruction, op))
        .or_else(|| others(instruction, op));
    let Some((run, flags)) = chosen else { return false };
    op.run = run;
    op.flags |= flags;
    true
}

type Chosen<E> = Option<(Handler<E>, OpFlags)>;

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory)
}

/// The slot of register operand `n`.
fn operand(instruction: &Instruction, n: u32) -> u8 {
    slot(instruction.op_register(n))
}

/// The size of register operand `n` in bytes.
fn size(instruction: &Instruction, n: u32) -> u64 {
    instruction.op_register(n).size() as u64
}

/// Loads and stores of segment registers.
fn segment<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Chosen<E> {
    let number = |n| instruction.op_register(n).number() as u8;
    // A new segment can make code's own addresses checked or unchecked, and SS holds interrupts off.
    let is_ss = instruction.op0_register() == Register::SS || instruction.mnemonic() == Mnemonic::Lss;
    let load = if is_ss { BARRIER } else { OpFlags::ENDS_BLOCK };
    Some(match instruction.code() {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            op.reg = number(0);
            if has_memory(instruction) {
                (transfer::mov_to_segment_from_memory, load)
            } else {
                op.rm = operand(instruction, 1);
                (transfer::mov_to_segment, load)
            }
        }
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            op.rm = number(1);
            if has_memory(instruction) {
                (transfer::mov_from_segment_to_memory, OpFlags::empty())
            } else {
                op.reg = operand(instruction, 0);
                op.immediate = size(instruction, 0);
                (transfer::mov_from_segment, OpFlags::empty())
            }
        }
        code => match code.mnemonic() {
            Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
                op.reg = number(0);
                op.immediate = instruction.stack_pointer_increment().unsigned_abs().into();
                (transfer::pop_segment, load)
            }
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
                op.reg = operand(instruction, 0);
                op.immediate = size(instruction, 0);
                op.rm = match code.mnemonic() {
                    Mnemonic::Lds => SegmentRegister::Ds,
                    Mnemonic::Les => SegmentRegister::Es,
                    Mnemonic::Lfs => SegmentRegister::Fs,
                    Mnemonic::Lgs => SegmentRegister::Gs,
                    _ => SegmentRegister::Ss,
                } as u8;
                (transfer::load_far_pointer, load)
            }
            _ => return None,
        },
    })
}

/// Far transfers, interrupts and their returns.
fn far<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Chosen<E> {
    let mut direct = |op_size, offset: u32| {
        op.reg = op_size;
        op.immediate = u64::from(instruction.far_branch_selector()) << 32 | u64::from(offset);
    };
    let run: Handler<E> = match instruction.code() {
        Code::Jmp_ptr1616 => {
            direct(2, u32::from(instruction.far_branch16()));
            transfer::jump_far
        }
        Code::Jmp_ptr1632 => {
            direct(4, instruction.far_branch32());
            transfer::jump_far
        }
        Code::Call_ptr1616 => {
            direct(2, u32::from(instruction.far_branch16()));
            transfer::call_far
        }
        Code::Call_ptr1632 => {
            direct(4, instruction.far_branch32());
            transfer::call_far
        }
        code @ (Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664) => {
            op.reg = far_size(code);
            transfer::jump_far_indirect
        }
        code @ (Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664) => {
            op.reg = far_size(code);
            transfer::call_far_indirect
        }
        code @ (Code::Retfw | Code::Retfd | Code::Retfq) => {
            op.reg = far_size(code);
            transfer::return_far
        }
        code @ (Code::Retfw_imm16 | Code::Retfd_imm16 | Code::Retfq_imm16) => {
            op.reg = far_size(code);
            op.immediate = u64::from(instruction.immediate16());
            transfer::return_far
        }
        code @ (Code::Iretw | Code::Iretd | Code::Iretq) => {
            op.immediate = u64::from(far_size(code));
            transfer::interrupt_return
        }
        Code::Int_imm8 => {
            op.immediate = u64::from(instruction.immediate8());
            transfer::interrupt_n
        }
        Code::Int3 => transfer::interrupt_3,
        Code::Into => transfer::interrupt_on_overflow,
        Code::Int1 => transfer::interrupt_1,
        Code::Syscall => system::syscall,
        Code::Sysretd => {
            op.immediate = 4;
            system::sysret
        }
        Code::Sysretq => {
            op.immediate = 8;
            system::sysret
        }
        Code::Sysenter => system::sysenter,
        Code::Sysexitd | Code::Sysexitq => system::sysexit,
        _ => return None,
    };
    let enters = matches!(
        instruction.code(),
        Code::Int_imm8 | Code::Int3 | Code::Into | Code::Int1 | Code::Syscall | Code::Sysenter
    );
    let returns = matches!(instruction.code(), Code::Sysretd | Code::Sysretq);
    op.flags.set(OpFlags::CLEARS_TF_AT_ONCE, enters || returns);
    op.flags.set(OpFlags::CONDITIONAL, instruction.code() == Code::Into);
    Some((run, TRANSFER | OpFlags::CHECK_INTERRUPTS))
}

/// The operand size in bytes that the code of a far transfer stands for.
const fn far_size(code: Code) -> u8 {
    match code {
        Code::Jmp_m1616 | Code::Call_m1616 | Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Jmp_m1664 | Code::Call_m1664 | Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
        _ => 4,
    }
}

/// Control, debug, model-specific and extended control registers; bases of FS and GS.
fn registers<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Chosen<E> {
    let memory = has_memory(instruction);
    Some(match instruction.mnemonic() {
        Mnemonic::Mov => {
            let (first, second) = (instruction.op0_register(), instruction.op1_register());
            let number = |register: Register| register.number() as u8;
            if first.is_cr() || first.is_dr() {
                (op.reg, op.rm) = (number(first), slot(second));
                let run = if first.is_cr() { system::mov_to_control } else { system::mov_to_debug };
                (run as Handler<E>, BARRIER)
            } else if second.is_cr() || second.is_dr() {
                (op.reg, op.rm) = (slot(first), number(second));
                let run = if second.is_cr() { system::mov_from_control } else { system::mov_from_debug };
                (run as Handler<E>, OpFlags::empty())
            } else {
                return None;
            }
        }
        Mnemonic::Clts => (system::clts, OpFlags::empty()),
        Mnemonic::Lmsw if memory => (system::lmsw_memory, BARRIER),
        Mnemonic::Lmsw => {
            op.rm = operand(instruction, 0);
            (system::lmsw, BARRIER)
        }
        Mnemonic::Smsw if memory => (system::smsw_memory, OpFlags::empty()),
        Mnemonic::Smsw => {
            op.reg = operand(instruction, 0);
            op.immediate = size(instruction, 0);
            (system::smsw, OpFlags::empty())
        }
        Mnemonic::Rdmsr => (system::rdmsr, OpFlags::empty()),
        Mnemonic::Wrmsr => (system::wrmsr, BARRIER),
        Mnemonic::Vmcall | Mnemonic::Vmmcall => (system::hypercall, BARRIER),
        Mnemonic::Xgetbv => (system::xgetbv, OpFlags::empty()),
        Mnemonic::Xsetbv => (system::xsetbv, BARRIER),
        Mnemonic::Swapgs => (system::swapgs, OpFlags::empty()),
        mnemonic @ (Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase) => {
            let fs = matches!(mnemonic, Mnemonic::Rdfsbase | Mnemonic::Wrfsbase);
            op.rm = if fs { SegmentRegister::Fs } else { SegmentRegister::Gs } as u8;
            op.reg = operand(instruction, 0);
            let reads = matches!(mnemonic, Mnemonic::Rdfsbase | Mnemonic::Rdgsbase);
            let run: Handler<E> = match (reads, size(instruction, 0)) {
                (true, 4) => system::read_base::<u32, E>,
                (true, _) => system::read_base::<u64, E>,
                (false, 4) => system::write_base::<u32, E>,
                (false, _) => system::write_base::<u64, E>,
            };
            (run, OpFlags::empty())
        }
        _ => return None,
    })
}

/// Chooses between the forms of a handler with a register and with a memory operand.
macro_rules! by_form {
    ($memory:expr, $f:ident $(, $w:ty)?) => {
        if $memory { system::$f::<true, $($w,)? E> as Handler<E> } else { system::$f::<false, $($w,)? E> }
    };
}

/// Descriptor tables and questions about descriptors.
fn tables<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Chosen<E> {
    let memory = has_memory(instruction);
    let mnemonic = instruction.mnemonic();
    let run: Handler<E> = match mnemonic {
        Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Sgdt | Mnemonic::Sidt => {
            op.immediate = match instruction.code() {
                Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 3,
                Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => 8,
                _ => 4,
            };
            match mnemonic {
                Mnemonic::Lgdt => system::lgdt,
                Mnemonic::Lidt => system::lidt,
                Mnemonic::Sgdt => system::sgdt,
                _ => system::sidt,
            }
        }
        Mnemonic::Lldt | Mnemonic::Ltr | Mnemonic::Verr | Mnemonic::Verw => {
            if !memory {
                op.rm = operand(instruction, 0);
            }
            match mnemonic {
                Mnemonic::Lldt => by_form!(memory, lldt),
                Mnemonic::Ltr => by_form!(memory, ltr),
                Mnemonic::Verr => by_form!(memory, verr),
                _ => by_form!(memory, verw),
            }
        }
        Mnemonic::Sldt | Mnemonic::Str => {
            if !memory {
                op.reg = operand(instruction, 0);
                op.immediate = size(instruction, 0);
            }
            if mnemonic == Mnemonic::Sldt { by_form!(memory, sldt) } else { by_form!(memory, str) }
        }
        Mnemonic::Lar | Mnemonic::Lsl => {
            op.reg = operand(instruction, 0);
            if !memory {
                op.rm = operand(instruction, 1);
            }
            match (mnemonic, size(instruction, 0)) {
                (Mnemonic::Lar, 2) => by_form!(memory, lar, u16),
                (Mnemonic::Lar, 4) => by_form!(memory, lar, u32),
                (Mnemonic::Lar, _) => by_form!(memory, lar, u64),
                (_, 2) => by_form!(memory, lsl, u16),
                (_, 4) => by_form!(memory, lsl, u32),
                (_, _) => by_form!(memory, lsl, u64),
            }
        }
        Mnemonic::Arpl => {
            op.reg = operand(instruction, 1);
            if memory {
                system::arpl_memory
            } else {
                op.rm = operand(instruction, 0);
                system::arpl
            }
        }
        _ => return None,
    };
    // Those that load a table's register serialise.
    let loads = matches!(mnemonic, Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Lldt | Mnemonic::Ltr);
    Some((run, if loads { OpFlags::ENDS_BLOCK } else { OpFlags::empty() }))
}

/// Interrupt flag, translations, caches, identification.
fn others<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Chosen<E> {
    let none = OpFlags::empty();
    Some(match instruction.mnemonic() {
        Mnemonic::Cli => (system::cli, none),
        Mnemonic::Sti => (system::sti, BARRIER),
        Mnemonic::Hlt => (system::hlt, BARRIER),
        Mnemonic::Clac => (system::set_ac::<false, E>, none),
        Mnemonic::Stac => (system::set_ac::<true, E>, none),
        Mnemonic::Invlpg => (system::invlpg, OpFlags::ENDS_BLOCK),
        Mnemonic::Invpcid => {
            op.reg = operand(instruction, 0);
            (system::invpcid, OpFlags::ENDS_BLOCK)
        }
        Mnemonic::Clflush => (system::clflush, none),
        // These serialise: code bytes that were changed before are fetched anew.
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd | Mnemonic::Invd => (system::wbinvd, OpFlags::ENDS_BLOCK),
        Mnemonic::Cpuid => (system::cpuid, OpFlags::ENDS_BLOCK),
        Mnemonic::Rdtsc => (system::rdtsc, none),
        Mnemonic::Rdtscp => (system::rdtscp, none),
        Mnemonic::Rdpid => {
            op.reg = operand(instruction, 0);
            (system::rdpid, none)
        }
        Mnemonic::Rdpmc => (system::rdpmc, none),
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            op.reg = operand(instruction, 0);
            let run: Handler<E> = match size(instruction, 0) {
                2 => system::random::<u16, E>,
                4 => system::random::<u32, E>,
                _ => system::random::<u64, E>,
            };
            (run, none)
        }
        _ => return None,
    })
}
