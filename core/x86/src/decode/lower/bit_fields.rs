//! BMI1, BMI2, LZCNT, MOVBE and ADX.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{operand_size, slot};
use crate::decode::Op;
use crate::environment::{Environment, Handler};
use crate::exec::bit_fields::*;

/// Sets the handler if the instruction is one of these.
pub fn lower<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    use Mnemonic as M;
    let run = match instruction.mnemonic() {
        M::Andn => operation::<Andn, E>(instruction, 1, 2, op),
        M::Pdep => operation::<Pdep, E>(instruction, 1, 2, op),
        M::Pext => operation::<Pext, E>(instruction, 1, 2, op),
        M::Bextr => operation::<Bextr, E>(instruction, 2, 1, op),
        M::Bzhi => operation::<Bzhi, E>(instruction, 2, 1, op),
        M::Sarx => operation::<Sarx, E>(instruction, 2, 1, op),
        M::Shlx => operation::<Shlx, E>(instruction, 2, 1, op),
        M::Shrx => operation::<Shrx, E>(instruction, 2, 1, op),
        M::Blsi => operation::<Blsi, E>(instruction, 0, 1, op),
        M::Blsmsk => operation::<Blsmsk, E>(instruction, 0, 1, op),
        M::Blsr => operation::<Blsr, E>(instruction, 0, 1, op),
        M::Lzcnt => operation::<Lzcnt, E>(instruction, 0, 1, op),
        M::Tzcnt => operation::<Tzcnt, E>(instruction, 0, 1, op),
        M::Adcx => operation::<Adcx, E>(instruction, 0, 1, op),
        M::Adox => operation::<Adox, E>(instruction, 0, 1, op),
        M::Rorx => {
            op.immediate = u64::from(instruction.immediate8());
            let memory = operands(instruction, 0, 1, op);
            match (memory, operand_size(instruction, 0)) {
                (false, 4) => rorx::<false, u32, E>,
                (false, _) => rorx::<false, u64, E>,
                (true, 4) => rorx::<true, u32, E>,
                (true, _) => rorx::<true, u64, E>,
            }
        }
        M::Mulx => {
            let memory = operands(instruction, 1, 2, op);
            match (memory, operand_size(instruction, 0)) {
                (false, 4) => mulx::<false, u32, E>,
                (false, _) => mulx::<false, u64, E>,
                (true, 4) => mulx::<true, u32, E>,
                (true, _) => mulx::<true, u64, E>,
            }
        }
        M::Movbe => movbe(instruction, op),
        _ => return false,
    };
    op.run = run;
    true
}

/// Fills in the destination, the operand that is a register, and the one that may be memory; whether it is.
fn operands<E>(instruction: &Instruction, register: u32, source: u32, op: &mut Op<E>) -> bool {
    op.reg = slot(instruction.op0_register());
    op.rm = slot(instruction.op_register(register));
    let memory = instruction.op_kind(source) == OpKind::Memory;
    if !memory {
        op.extra = u32::from(slot(instruction.op_register(source)));
    }
    memory
}

fn operation<B: BitFields, E: Environment>(
    instruction: &Instruction,
    register: u32,
    source: u32,
    op: &mut Op<E>,
) -> Handler<E> {
    let memory = operands(instruction, register, source, op);
    match (memory, operand_size(instruction, 0)) {
        (false, 2) => bit_fields::<B, false, u16, E>,
        (false, 4) => bit_fields::<B, false, u32, E>,
        (false, _) => bit_fields::<B, false, u64, E>,
        (true, 2) => bit_fields::<B, true, u16, E>,
        (true, 4) => bit_fields::<B, true, u32, E>,
        (true, _) => bit_fields::<B, true, u64, E>,
    }
}

fn movbe<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Handler<E> {
    let store = instruction.op0_kind() == OpKind::Memory;
    op.reg = slot(instruction.op_register(u32::from(store)));
    match (store, operand_size(instruction, 0)) {
        (false, 2) => movbe_load::<u16, E>,
        (false, 4) => movbe_load::<u32, E>,
        (false, _) => movbe_load::<u64, E>,
        (true, 2) => movbe_store::<u16, E>,
        (true, 4) => movbe_store::<u32, E>,
        (true, _) => movbe_store::<u64, E>,
    }
}
