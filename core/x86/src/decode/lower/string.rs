//! String instructions and ports.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{operand_size, sized};
use crate::decode::{Op, OpFlags};
use crate::environment::{Environment, Handler};
use crate::exec::port::{input, output};
use crate::exec::string::{cmps, ins, lods, movs, outs, scas, stos};

/// Sets the handler if the instruction is a string or port instruction.
pub fn lower<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    strings(instruction, op) || ports(instruction, op)
}

fn strings<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    if !instruction.is_string_instruction() {
        return false;
    }
    let size = instruction.memory_size().size();
    let run: Handler<E> = match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => sized!(size, movs),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => sized!(size, stos),
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => sized!(size, lods),
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => sized!(size, cmps),
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => sized!(size, scas),
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => sized!(size, ins),
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => sized!(size, outs),
        _ => return false,
    };
    op.run = run;
    op.flags.set(OpFlags::REP, instruction.has_rep_prefix());
    op.flags.set(OpFlags::REPNE, instruction.has_repne_prefix());
    true
}

fn ports<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    let (data, port, writes) = match instruction.mnemonic() {
        Mnemonic::In => (0, 1, false),
        Mnemonic::Out => (1, 0, true),
        _ => return false,
    };
    let size = operand_size(instruction, data);
    let by_dx = instruction.op_kind(port) == OpKind::Register;
    if !by_dx {
        op.immediate = instruction.immediate(port);
    }
    op.run = match (writes, by_dx) {
        (false, false) => sized!(size, input::<false>),
        (false, true) => sized!(size, input::<true>),
        (true, false) => sized!(size, output::<false>),
        (true, true) => sized!(size, output::<true>),
    };
    true
}
