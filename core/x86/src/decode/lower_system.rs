//! System instructions to operations.
use super::Op;
use crate::environment::Environment;
use iced_x86::Instruction;

pub(super) fn lower<E: Environment>(_instruction: &Instruction, _op: &mut Op<E>) -> bool {
    false
}
