//! Accesses of a unit that one check serves.
//!
//! Where several instructions access memory by the same base register, with nothing but known numbers added to it between
//! them, the first one checks that all of it lies in one page, and the others need no check: they read how far host
//! addresses are from linear ones there. The stack is accessed so most of all, and so are structures and unrolled loops.
//!
//! Reads and writes are apart: a page that is only read must not be asked whether it may be written.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::emit::host;
use super::frame::GROUPS;
use super::kinds::Kind;
use super::operands::{has_segment_base, writes};
use super::scan::Guest;

/// Sizes that a group's extent is rounded up to, in bytes.
pub const EXTENTS: [usize; 4] = [32, 64, 128, 256];

/// Which of an instruction's accesses is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its memory operand.
    Operand,
    /// Its own push or pop.
    Stack,
}

/// An access's place in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// It checks for all: from this far from the base register, in bytes, so many bytes.
    First {
        /// The group.
        group: usize,
        /// Distance of the first byte from the base register's present value.
        from: i32,
        /// One of [`EXTENTS`].
        extent: usize,
        /// Where it is, from where the group's distances count.
        at: i64,
    },
    /// It relies on the check.
    Later {
        /// The group.
        group: usize,
        /// Where it is, from where the group's distances count.
        at: i64,
    },
}

/// The groups of a unit, at most [`GROUPS`]: each has a place in the frame.
#[derive(Debug, Default)]
pub struct Groups {
    members: Vec<(usize, Part, Member)>,
    /// How many there are.
    pub count: usize,
}

/// One access, as it is found.
#[derive(Debug, Clone, Copy)]
struct Access {
    instruction: usize,
    part: Part,
    /// From the base register's value when the group's version of it began.
    at: i64,
    /// The base register's distance from that value at this instruction.
    moved: i64,
}

/// Accesses by one version of a base register.
#[derive(Debug)]
struct Candidate {
    register: usize,
    version: u32,
    write: bool,
    first: i64,
    end: i64,
    accesses: Vec<Access>,
}

/// What is known of a register's value: which unknown value, and how far from it.
#[derive(Debug, Clone, Copy, Default)]
struct Value {
    version: u32,
    moved: i64,
}

impl Groups {
    /// The group that an access belongs to.
    pub fn member(&self, instruction: usize, part: Part) -> Option<Member> {
        self.members.iter().find(|(n, p, _)| *n == instruction && *p == part).map(|(.., member)| *member)
    }

    /// Finds the groups of a unit's instructions.
    pub fn find(instructions: &[Guest]) -> Self {
        let mut values = [Value::default(); 16];
        let mut versions = 0;
        let mut candidates: Vec<Candidate> = Vec::new();
        for (n, guest) in instructions.iter().enumerate() {
            for (part, register, displacement, size, write) in accesses(guest).into_iter().flatten() {
                if host(register).is_some() {
                    let value = values[register];
                    note(&mut candidates, n, part, (register, value, write), displacement, size);
                }
            }
            change(&mut values, &mut versions, guest);
        }
        let mut groups = Self::default();
        for candidate in candidates.iter().filter(|candidate| candidate.accesses.len() > 1) {
            if groups.count == GROUPS {
                break;
            }
            groups.add(candidate);
        }
        groups
    }

    fn add(&mut self, candidate: &Candidate) {
        let span = usize::try_from(candidate.end - candidate.first).unwrap_or(usize::MAX);
        let Some(extent) = EXTENTS.into_iter().find(|extent| span <= *extent) else { return };
        let Some((first, later)) = candidate.accesses.split_first() else { return };
        // What is found is `from` away from the base register, and the base register `-from` from that: both must be told.
        let Ok(from) = i32::try_from(candidate.first - first.moved) else { return };
        if from == i32::MIN {
            return;
        }
        let group = self.count;
        self.count += 1;
        self.members.push((
            first.instruction,
            first.part,
            Member::First { group, from, extent, at: first.at },
        ));
        for access in later {
            self.members.push((access.instruction, access.part, Member::Later { group, at: access.at }));
        }
    }
}

/// Adds an access to the last group that it fits in, or to a new one.
fn note(
    candidates: &mut Vec<Candidate>,
    instruction: usize,
    part: Part,
    (register, value, write): (usize, Value, bool),
    displacement: i64,
    size: usize,
) {
    let start = value.moved.wrapping_add(displacement);
    let size = size as i64;
    let access = Access { instruction, part, at: start, moved: value.moved };
    let limit = EXTENTS[EXTENTS.len() - 1] as i64;
    let fits = |candidate: &Candidate| {
        let (first, end) = (candidate.first.min(start), candidate.end.max(start.saturating_add(size)));
        (candidate.register, candidate.version, candidate.write) == (register, value.version, write)
            && end.saturating_sub(first) <= limit
    };
    match candidates.iter_mut().rev().find(|candidate| fits(candidate)) {
        Some(candidate) => {
            candidate.first = candidate.first.min(start);
            candidate.end = candidate.end.max(start + size);
            candidate.accesses.push(access);
        }
        None => candidates.push(Candidate {
            register,
            version: value.version,
            write,
            first: start,
            end: start.saturating_add(size),
            accesses: vec![access],
        }),
    }
}

type Found = Option<(Part, usize, i64, usize, bool)>;

/// The accesses of an instruction by a base register alone: part, register, displacement, size, whether it writes.
fn accesses(guest: &Guest) -> [Found; 2] {
    const RSP: usize = 4;
    const RBP: usize = 5;
    let stack = match guest.kind {
        Kind::Push | Kind::PushFlags | Kind::Call(_) | Kind::CallIndirect => Some((RSP, -8, true)),
        Kind::Pop | Kind::Return(_) => Some((RSP, 0, false)),
        Kind::Leave => Some((RBP, 0, false)),
        _ => None,
    };
    let stack = stack.map(|(register, displacement, write)| (Part::Stack, register, displacement, 8, write));
    let operand = match guest.kind {
        // Narrow divisions are the interpreter's.
        Kind::Divide if guest.instruction.memory_size().size() < 4 => None,
        Kind::Copy
        | Kind::Vector { .. }
        | Kind::X87 { .. }
        | Kind::LoadControl(_)
        | Kind::Divide
        | Kind::Push
        | Kind::JumpIndirect
        | Kind::CallIndirect => operand(guest),
        _ => None,
    };
    [operand, stack]
}

fn operand(guest: &Guest) -> Found {
    let instruction = &guest.instruction;
    let n = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory)?;
    let base = instruction.memory_base();
    let plain =
        base.is_gpr64() && instruction.memory_index() == Register::None && !has_segment_base(instruction);
    let size = instruction.memory_size().size();
    // What may change the base by itself is not worth the care.
    let exchanges = matches!(
        instruction.mnemonic(),
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b
    );
    // With two registers in memory beside its address it is the interpreter's.
    let in_memory = (0..instruction.op_count())
        .filter(|&n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_gpr())
        .map(|n| instruction.op_register(n).full_register().number())
        .filter(|&number| host(number).is_none());
    let borrows_two = in_memory.clone().any(|number| in_memory.clone().any(|other| other != number));
    if exchanges || borrows_two || !plain || !(1..=32).contains(&size) {
        return None;
    }
    let write = writes(*guest.accesses.get(n as usize)?);
    Some((Part::Operand, base.number(), instruction.memory_displacement64() as i64, size, write))
}

/// What the instruction does to the registers' values.
fn change(values: &mut [Value; 16], versions: &mut u32, guest: &Guest) {
    const RSP: usize = 4;
    if let Some((register, by)) = moves(&guest.instruction) {
        values[register].moved = values[register].moved.wrapping_add(by);
        return;
    }
    let by = match guest.kind {
        Kind::Push | Kind::PushFlags | Kind::Call(_) | Kind::CallIndirect => -8,
        Kind::Pop | Kind::Return(_) => 8,
        _ => 0,
    };
    values[RSP].moved = values[RSP].moved.wrapping_add(by);
    // The stack pointer of these is accounted for already, unless it is what is popped.
    let is_known = by != 0 && guest.instruction.op0_register() != Register::RSP;
    let changed = guest.changed & !(u16::from(is_known) << RSP);
    for (register, value) in values.iter_mut().enumerate() {
        if changed >> register & 1 != 0 {
            *versions += 1;
            *value = Value { version: *versions, moved: 0 };
        }
    }
}

/// The register that an instruction moves by a known distance, and the distance.
fn moves(instruction: &Instruction) -> Option<(usize, i64)> {
    let register = instruction.op0_register();
    if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register || !register.is_gpr64() {
        return None;
    }
    let number = register.number();
    let immediate = || match instruction.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(instruction.immediate(1) as i64),
        _ => None,
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Add => (number, immediate()?),
        Mnemonic::Sub => (number, immediate()?.wrapping_neg()),
        Mnemonic::Inc => (number, 1),
        Mnemonic::Dec => (number, -1),
        Mnemonic::Lea if instruction.code() == Code::Lea_r64_m => {
            let same = instruction.memory_base() == register && instruction.memory_index() == Register::None;
            (number, same.then_some(instruction.memory_displacement64() as i64)?)
        }
        _ => return None,
    })
}
