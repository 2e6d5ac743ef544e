//! A case: a few instructions, and everything in registers and memory when they start.

mod operand;

use iced_x86::{Code, FlowControl, Instruction, Mnemonic};
use tern_x86::state::{Mxcsr, Rflags};

use crate::codes::COMPARED;
use crate::encode::{self, Encoded};
use crate::layout::{CODE, CONSTANTS, DATA, MEMORY_SIZE, Memory, PAGE, STACK};
use crate::random::Random;
use crate::registers::{RBP, RBX, RCX, RDI, RDX, RSI, RSP, Registers, random_fpu};
use crate::undefined::{undefined_flags, undefined_result};

/// The opcode of INT3, which fills the code pages.
const INT3: u8 = 0xcc;
/// The most instructions of a sequence.
const LONGEST: u64 = 5;

/// How far the code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One instruction, or one iteration of a repeated one: RFLAGS.TF ends it.
    Step,
    /// All instructions: the INT3 behind them, or at the target of a branch, ends it.
    Run,
}

impl Extent {
    /// The vector of the exception that ends a case if no instruction faults.
    #[must_use]
    pub const fn vector(self) -> u8 {
        match self {
            Self::Step => 1,
            Self::Run => 3,
        }
    }
}

/// A case. It is a function of the run's seed and its number.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its number in the run.
    pub number: u64,
    /// How far it runs.
    pub extent: Extent,
    /// The instructions with their bytes.
    pub code: Vec<Encoded>,
    /// The registers before.
    pub before: Registers,
    /// The memory before, with the code.
    pub memory: Box<Memory>,
    /// The arithmetic flags that are undefined if all instructions complete.
    pub undefined_at_end: Rflags,
    /// The arithmetic flags that are undefined if one of them faults.
    pub undefined_in_between: Rflags,
    /// The result of the last instruction is undefined: its destination is not compared.
    pub undefined_result: bool,
}

/// What is chosen from.
#[derive(Debug, Clone)]
pub struct Generator {
    seed: u64,
    /// The kinds of instructions that are chosen from; also any bytes if it is the whole set.
    codes: Vec<Code>,
    anything: bool,
    /// Random pages, from which memory is filled.
    pages: Vec<[u8; PAGE as usize]>,
}

impl Generator {
    /// A generator of instructions with the given mnemonic, or of all.
    #[must_use]
    pub fn new(seed: u64, mnemonic: Option<Mnemonic>) -> Self {
        let wanted = |code: &Code| mnemonic.is_none_or(|mnemonic| code.mnemonic() == mnemonic);
        let mut random = Random::new(seed, u64::MAX);
        let page = |_| {
            let mut page = [0; PAGE as usize];
            for chunk in page.chunks_mut(16) {
                chunk.copy_from_slice(&random.vector().to_le_bytes());
            }
            page
        };
        Self {
            seed,
            codes: COMPARED.iter().copied().filter(wanted).collect(),
            anything: mnemonic.is_none(),
            pages: (0..16).map(page).collect(),
        }
    }

    /// The kinds of instructions that are chosen from.
    #[must_use]
    pub fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// Case `number`. Consecutive numbers go through all kinds of instructions.
    #[must_use]
    pub fn case(&self, number: u64) -> Case {
        let mut random = Random::new(self.seed, number);
        let first = if self.anything && random.one_in(4) {
            encode::of_anything(&mut random)
        } else {
            self.next_code(number, &mut random)
        };
        let straight = first.instruction.flow_control() == FlowControl::Next;
        let branch = is_direct_branch(&first.instruction);
        let runs = (straight || branch) && random.one_in(2);
        // A step of a gather ends behind any of its elements, also before one that faults.
        let gathers = first.instruction.memory_index().is_vector_register();
        let extent = if runs || gathers { Extent::Run } else { Extent::Step };
        let mut case = Case {
            number,
            extent,
            code: vec![first],
            before: random_registers(&mut random),
            memory: self.memory(&mut random),
            undefined_at_end: Rflags::empty(),
            undefined_in_between: Rflags::empty(),
            undefined_result: false,
        };
        if extent == Extent::Run && straight {
            self.extend(&mut case, &mut random);
        }
        case.before.rip = CODE.linear + case.place(&mut random);
        case.aim(&mut random);
        if case.code.iter().any(|encoded| is_dot_product(&encoded.instruction)) {
            // The interpreter does not see the unmasked exceptions of their intermediate results.
            let mxcsr = case.before.fpu.mxcsr() | Mxcsr::MASKS;
            case.before.fpu.set_mxcsr(mxcsr);
        }
        case.write_code();
        case.note_undefined();
        case
    }

    fn next_code(&self, number: u64, random: &mut Random) -> Encoded {
        let code = self.codes[(number % self.codes.len() as u64) as usize];
        let mut encoded =
            encode::of_code(code, random).expect("a test shows that every kind has an encoding");
        operand::vary_immediates(&mut encoded, random);
        encoded
    }

    /// Adds instructions that depend on nothing undefined; only the last of them may be a branch.
    fn extend(&self, case: &mut Case, random: &mut Random) {
        let length = 1 + random.below(LONGEST);
        let mut undefined = Rflags::empty();
        while (case.code.len() as u64) < length {
            let last = &case.code[case.code.len() - 1].instruction;
            if undefined_result(last, None) || last.is_invalid() || shows_x87_pointers(last) {
                return;
            }
            undefined = after(undefined, last);
            let code = *random.pick(&self.codes);
            let Some(mut next) = encode::of_code(code, random) else { return };
            operand::vary_immediates(&mut next, random);
            let straight = next.instruction.flow_control() == FlowControl::Next;
            let shows_pointers = shows_x87_pointers(&next.instruction);
            if reads(&next.instruction).intersects(undefined)
                || !straight && !is_direct_branch(&next.instruction)
                || is_dot_product(&next.instruction)
                    && case.code.iter().any(|encoded| loads_mxcsr(&encoded.instruction))
                || shows_pointers && case.code.iter().any(|encoded| sets_x87_pointers(&encoded.instruction))
            {
                continue;
            }
            case.code.push(next);
            if !straight {
                return;
            }
        }
    }

    fn memory(&self, random: &mut Random) -> Box<Memory> {
        let mut memory = Box::new([INT3; MEMORY_SIZE]);
        for page in memory[CODE.size()..].chunks_mut(PAGE as usize) {
            let contents: &[u8; PAGE as usize] = random.pick(&self.pages);
            page.copy_from_slice(contents);
        }
        memory
    }
}

impl Case {
    /// The bytes of all instructions.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.code.iter().flat_map(|encoded| &encoded.bytes).copied().collect()
    }

    /// A random offset in the code pages: near the start, across the boundary of the two, or at their end.
    fn place(&self, random: &mut Random) -> u64 {
        let length = self.bytes().len() as u64;
        // How many bytes an undefined instruction has is not said anywhere.
        let unsure = |encoded: &Encoded| {
            encoded.instruction.is_invalid()
                || matches!(encoded.instruction.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1)
        };
        match random.below(if self.code.iter().any(unsure) { 1 } else { 8 }) {
            0 => PAGE - random.below(length + 1),
            1 => 2 * PAGE - length,
            2 => 2 * PAGE - 1 - random.below(length),
            _ => 512 + random.below(256),
        }
    }

    /// Makes operands hit memory, branches hit code, and values fit the instruction.
    fn aim(&mut self, random: &mut Random) {
        let mut rip = self.before.rip;
        // The last one first, so that the first, which surely executes, has the last word on the registers.
        let starts: Vec<u64> = self
            .code
            .iter()
            .map(|encoded| {
                let start = rip;
                rip += encoded.bytes.len() as u64;
                start
            })
            .collect();
        for (encoded, start) in self.code.iter_mut().zip(starts).rev() {
            if !encoded.instruction.is_invalid() {
                operand::aim(encoded, start, &mut self.before, &mut self.memory, random);
            }
            if self.extent == Extent::Run && is_direct_branch(&encoded.instruction) {
                operand::keep_out(encoded, start, self.before.rip..rip);
            }
        }
    }

    fn write_code(&mut self) {
        let offset = (self.before.rip - CODE.linear) as usize;
        let bytes = self.bytes();
        let room = CODE.size() - offset;
        let bytes = &bytes[..bytes.len().min(room)];
        self.memory[CODE.offset + offset..][..bytes.len()].copy_from_slice(bytes);
    }

    fn note_undefined(&mut self) {
        let mut cl = Some(self.before.gpr[RCX] as u8);
        for encoded in &self.code {
            let instruction = &encoded.instruction;
            if instruction.is_invalid() {
                continue;
            }
            let now = undefined_flags(instruction, cl);
            self.undefined_in_between |= now;
            self.undefined_at_end = (self.undefined_at_end - always_defined(instruction)) | now;
            self.undefined_result = undefined_result(instruction, cl);
            // Behind the first instruction CL may have any value.
            cl = None;
        }
    }
}

/// The flags that are undefined behind `instruction`, if `before` are in front of it.
fn after(before: Rflags, instruction: &Instruction) -> Rflags {
    (before - always_defined(instruction)) | undefined_flags(instruction, None)
}

/// The flags that `instruction` always gives a value of its own. Shifts and rotates may leave all as they were, and so may
/// string instructions.
fn always_defined(instruction: &Instruction) -> Rflags {
    use Mnemonic as M;
    let may_do_nothing = matches!(
        instruction.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    ) || has_repetition(instruction);
    if may_do_nothing {
        return Rflags::empty();
    }
    status(instruction.rflags_written() | instruction.rflags_set() | instruction.rflags_cleared())
}

/// Whether the instruction stores FIP and FDP. The interpreter has them only of instructions that raised an exception.
fn shows_x87_pointers(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Fnstenv | M::Fnsave | M::Fxsave | M::Fxsave64)
}

fn is_dot_product(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Dpps | M::Dppd | M::Vdpps | M::Vdppd)
}

fn loads_mxcsr(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Ldmxcsr | M::Vldmxcsr | M::Fxrstor | M::Fxrstor64)
}

fn sets_x87_pointers(instruction: &Instruction) -> bool {
    is_x87(instruction) || matches!(instruction.mnemonic(), Mnemonic::Fxrstor | Mnemonic::Fxrstor64)
}

/// Whether the instruction belongs to the x87 unit.
#[must_use]
pub fn is_x87(instruction: &Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    instruction.cpuid_features().iter().any(|feature| matches!(feature, F::FPU | F::FPU287 | F::FPU387))
}

/// Whether the instruction has REP or REPNE.
#[must_use]
pub fn has_repetition(instruction: &Instruction) -> bool {
    instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

fn reads(instruction: &Instruction) -> Rflags {
    status(instruction.rflags_read())
}

/// iced's numbering of the flags to the processor's.
fn status(flags: u32) -> Rflags {
    use iced_x86::RflagsBits as B;
    [
        (B::CF, Rflags::CF),
        (B::PF, Rflags::PF),
        (B::AF, Rflags::AF),
        (B::ZF, Rflags::ZF),
        (B::SF, Rflags::SF),
        (B::OF, Rflags::OF),
    ]
    .into_iter()
    .filter(|(bit, _)| flags & bit != 0)
    .fold(Rflags::empty(), |all, (_, flag)| all | flag)
}

/// A branch whose target is in the code.
fn is_direct_branch(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
    ) && (0..instruction.op_count()).any(|n| matches!(instruction.op_kind(n), iced_x86::OpKind::NearBranch64))
}

fn random_registers(random: &mut Random) -> Registers {
    let mut gpr = [0; 16];
    for value in &mut gpr {
        *value = random.integer();
    }
    gpr[RSP] = random_stack(random);
    if !random.one_in(4) {
        gpr[RBP] = random_stack(random);
    }
    for slot in [RBX, RSI, RDI] {
        if !random.one_in(4) {
            gpr[slot] = random.address();
        }
    }
    if random.one_in(2) {
        gpr[RCX] = random.below(12);
    }
    if random.one_in(4) {
        gpr[RDX] = random.below(3).wrapping_sub(1);
    }
    let mut rflags = Rflags::FIXED.bits() | Rflags::IF.bits() | random.bits() & Rflags::STATUS.bits();
    if random.one_in(4) {
        rflags |= Rflags::DF.bits();
    }
    if random.one_in(32) {
        rflags |= Rflags::AC.bits();
    }
    let base = |random: &mut Random| match random.below(4) {
        0 => random.below(256),
        1 => DATA.linear + 16 * random.below(16),
        2 => CONSTANTS.linear,
        _ => 0,
    };
    Registers { gpr, rip: 0, rflags, fs_base: base(random), gs_base: base(random), fpu: random_fpu(random) }
}

/// A stack pointer: mostly aligned and inside, sometimes where a push or a pop faults.
fn random_stack(random: &mut Random) -> u64 {
    match random.below(16) {
        0 => STACK.linear + random.below(24),
        1 => STACK.end() - random.below(24),
        2 => STACK.linear + PAGE + random.below(24) - 12,
        3 => STACK.linear + random.below(2 * PAGE),
        _ => STACK.linear + PAGE / 2 + 8 * random.below(384),
    }
}
