//! What differs between two outcomes, leaving out what the manuals leave open.

use std::fmt;

use iced_x86::{FastFormatter, Instruction, Mnemonic};
use tern_x86::state::{FpuState, Mxcsr, Rflags};

use crate::case::{Case, Extent, is_x87};
use crate::layout::{AREAS, Memory};
use crate::registers::{End, Event, GPR_NAMES, Outcome};
use crate::vendors;

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which part.
    pub part: String,
    /// What it is on the host.
    pub native: String,
    /// What it is in the interpreter.
    pub interpreted: String,
}

/// Everything that differs, but for what the manuals leave open.
#[must_use]
pub fn differences(
    case: &Case,
    (native, native_memory): (&Outcome, &Memory),
    (interpreted, interpreted_memory): (&Outcome, &Memory),
) -> Vec<Difference> {
    let mut found = Vec::new();
    if alignment_is_open(case, native) || native.registers.fpu.mxcsr().bits() & MISALIGNED != 0 {
        return found;
    }
    let mut compare = |part: &str, native: String, interpreted: String| {
        if native != interpreted {
            found.push(Difference { part: part.to_owned(), native, interpreted });
        }
    };
    if !order_is_open(case, native, interpreted) {
        compare("end", end(case, &native.end), end(case, &interpreted.end));
    }
    let (a, b) = (&native.registers, &interpreted.registers);
    compare("rip", hex(a.rip), hex(b.rip));
    let flags = compared_flags(case, &native.end);
    compare("rflags", flag_names(a.rflags & flags), flag_names(b.rflags & flags));
    let ignored = ignored_register(case);
    for (n, name) in GPR_NAMES.iter().enumerate().filter(|(n, _)| ignored != Some(*n)) {
        if a.gpr[n] != b.gpr[n] {
            compare(name, hex(a.gpr[n]), hex(b.gpr[n]));
        }
    }
    compare("fs.base", hex(a.fs_base), hex(b.fs_base));
    compare("gs.base", hex(a.gs_base), hex(b.gs_base));
    let precision = if precision_is_open(a.fpu.mxcsr()) { PE } else { 0 };
    let mxcsr = |fpu: &FpuState| hex(u64::from(fpu.mxcsr().bits() & !precision));
    compare("MXCSR", mxcsr(&a.fpu), mxcsr(&b.fpu));
    if raised_x87_exception(case, &a.fpu) {
        const INSTRUCTION_POINTER: std::ops::Range<usize> = 8..16;
        compare("FIP", image(&a.fpu, INSTRUCTION_POINTER), image(&b.fpu, INSTRUCTION_POINTER));
    }
    if a.fpu != b.fpu {
        let open = gathered(case, &native.end);
        for (part, range) in fpu_parts() {
            let is_open = open.iter().any(|n| part == format!("XMM{n}"));
            if !is_open {
                compare(&part, image(&a.fpu, range.clone()), image(&b.fpu, range));
            }
        }
        for n in (0..16).filter(|n| !open.contains(n)) {
            compare(&format!("YMM{n}"), number(&a.fpu.vector(n)), number(&b.fpu.vector(n)));
        }
    }
    if native_memory != interpreted_memory && !(case.undefined_result && ignored.is_none()) {
        let bytes = native_memory.iter().zip(interpreted_memory).enumerate();
        let unequal = bytes
            .filter(|(n, (a, b))| a != b && !(**a == 2 && **b == 0 && may_be_misalignment_mask(case, *n)));
        for (n, (a, b)) in unequal.take(64) {
            compare(&address_of(n), format!("{a:02x}"), format!("{b:02x}"));
        }
    }
    found
}

/// The flags to compare. TF is how ptrace steps, and is not the code's.
fn compared_flags(case: &Case, end: &End) -> u64 {
    let completed = matches!(end, End::Event(Event { vector, .. }) if *vector == case.extent.vector());
    let undefined = match completed {
        true => case.undefined_at_end,
        // Translated code does not keep flags for handlers of exceptions that no instruction can read.
        false if crate::interpreter::translates() => Rflags::STATUS,
        false => case.undefined_in_between,
    };
    !(Rflags::TF | undefined | vendors::open_flags(case, completed)).bits()
}

/// The register whose value is undefined.
fn ignored_register(case: &Case) -> Option<usize> {
    let last = &case.code.last()?.instruction;
    let register = last.op0_register();
    (case.undefined_result && register.is_gpr()).then(|| register.full_register().number())
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

fn end(case: &Case, end: &End) -> String {
    match end {
        &End::Event(Event { vector, mut error_code, mut address }) => {
            if vector == 14 && address >= LINUX {
                // Linux hides from user code what it maps there.
                error_code |= 1;
            }
            if vector == 14 && case.code.iter().any(|encoded| moves_state(&encoded.instruction)) {
                // Which byte faults first is the processor's choice.
                address = 0;
                error_code &= !1;
            }
            let name = match vector {
                0 => "#DE",
                1 => "#DB",
                3 => "#BP",
                6 => "#UD",
                12 => "#SS",
                13 => "#GP",
                14 => "#PF",
                16 => "#MF",
                17 => "#AC",
                19 => "#XF",
                _ => "vector",
            };
            format!("{name} ({vector}) error code {error_code:#x} address {address:#x}")
        }
        End::Unexpected(text) => text.clone(),
    }
}

/// Whether alignment is checked, and an instruction is there for which no manual says what alignment it needs.
fn alignment_is_open(case: &Case, native: &Outcome) -> bool {
    let checked = (case.before.rflags | native.registers.rflags) & Rflags::AC.bits() != 0;
    let open = |instruction: &Instruction| {
        moves_state(instruction) || matches!(instruction.memory_size().size(), 10 | 16 | 32)
    };
    checked && case.code.iter().any(|encoded| open(&encoded.instruction))
}

/// Whether both ended at the same instruction, in faults of an access of which the manual does not say which comes first
/// (APM volume 2, table 8-10): of several operands, or for several reasons.
fn order_is_open(case: &Case, native: &Outcome, interpreted: &Outcome) -> bool {
    let access_fault =
        |outcome: &Outcome| matches!(outcome.end, End::Event(Event { vector: 12 | 13 | 14 | 17, .. }));
    let several_operands = || {
        use Mnemonic as M;
        let two = |instruction: &Instruction| {
            matches!(instruction.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Call)
        };
        case.code.iter().any(|encoded| two(&encoded.instruction))
    };
    let alignment = native.registers.rflags & Rflags::AC.bits() != 0;
    native.registers.rip == interpreted.registers.rip
        && access_fault(native)
        && access_fault(interpreted)
        && (alignment || several_operands())
}

/// MXCSR.MM: misaligned SSE, which AMD's processors have and the guest's model lacks. Chance may load it from memory.
const MISALIGNED: u32 = 1 << 17;

/// MXCSR: precision exception.
const PE: u32 = 0x20;

/// Whether MXCSR.PE may differ: an unmasked overflow or underflow ends an instruction before or after it rounds its other
/// elements.
fn precision_is_open(after: Mxcsr) -> bool {
    let masks = after.bits() >> 7;
    after.bits() & !masks & 0x18 != 0
}

/// Where addresses begin that user code cannot have mapped.
const LINUX: u64 = 0x7fff_ffff_f000;

/// Whether the instruction makes several accesses: it moves more than 16 bytes, or selected ones.
fn moves_state(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Fnsave
            | M::Frstor
            | M::Fnstenv
            | M::Fldenv
            | M::Maskmovq
            | M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
    ) || instruction.memory_index().is_vector_register()
}

/// Whether the byte at `offset` may be the one of an FXSAVE image that says that the host has MXCSR.MM, which the guest's
/// model lacks (misaligned SSE, APM volume 2, section 11.4.4).
fn may_be_misalignment_mask(case: &Case, offset: usize) -> bool {
    offset % 16 == 14
        && case.code.iter().any(|c| matches!(c.instruction.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxsave64))
}

fn flag_names(bits: u64) -> String {
    format!("{:?}", Rflags::from_bits_retain(bits))
}

/// Whether the case is an x87 instruction that left an exception pending, so that FIP must say where it is. At other times
/// processors differ in the exception pointers.
fn raised_x87_exception(case: &Case, after: &FpuState) -> bool {
    const SUMMARY: u16 = 0x80;
    let pending = |fpu: &FpuState| fpu.fsw() & SUMMARY != 0;
    let [only] = &case.code[..] else { return false };
    pending(after)
        && !pending(&case.before.fpu)
        && !moves_state(&only.instruction)
        && is_x87(&only.instruction)
}

/// The parts of an FXSAVE image that are compared: not the exception pointers, MXCSR_MASK and what is reserved.
fn fpu_parts() -> impl Iterator<Item = (String, std::ops::Range<usize>)> {
    let control = [("FCW", 0..2), ("FSW", 2..4), ("FTW", 4..5)];
    let control = control.into_iter().map(|(name, range)| (name.to_owned(), range));
    let st = (0..8).map(|n| (format!("ST{n}"), 32 + 16 * n..42 + 16 * n));
    let xmm = (0..16).map(|n| (format!("XMM{n}"), 160 + 16 * n..176 + 16 * n));
    control.chain(st).chain(xmm)
}

/// The registers that a gather may leave with any of its elements behind one that faulted.
fn gathered(case: &Case, end: &End) -> Vec<usize> {
    let faulted = matches!(end, End::Event(Event { vector, .. }) if *vector != case.extent.vector());
    let gathers = case
        .code
        .iter()
        .map(|encoded| &encoded.instruction)
        .filter(|instruction| faulted && instruction.memory_index().is_vector_register());
    gathers.flat_map(|gather| [gather.op0_register().number(), gather.op2_register().number()]).collect()
}

/// Bytes as the number that they are.
fn image(fpu: &FpuState, range: std::ops::Range<usize>) -> String {
    number(&fpu.image()[range])
}

fn number(bytes: &[u8]) -> String {
    bytes.iter().rev().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn address_of(offset: usize) -> String {
    AREAS.iter().find(|area| (area.offset..area.offset + area.size()).contains(&offset)).map_or_else(
        || format!("memory {offset:#x}"),
        |area| format!("{} {:#x}", area.name, area.linear + (offset - area.offset) as u64),
    )
}

/// A case in which the two sides differ, with all that is needed to understand it.
#[derive(Debug)]
pub struct Mismatch {
    /// The run's seed.
    pub seed: u64,
    /// The case.
    pub case: Case,
    /// What differs.
    pub differences: Vec<Difference>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = &self.case;
        let extent = if case.extent == Extent::Step { "single-stepped" } else { "run to a breakpoint" };
        writeln!(f, "case {} of seed {}, {extent}:", case.number, self.seed)?;
        let mut formatter = FastFormatter::new();
        let mut rip = case.before.rip;
        for encoded in &case.code {
            let mut instruction = encoded.instruction;
            let mut text = String::new();
            instruction.set_ip(rip);
            formatter.format(&instruction, &mut text);
            let bytes = encoded.bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x} "));
            writeln!(f, "  {rip:#x}  {bytes:<32} {text}  ({:?})", instruction.code())?;
            rip += encoded.bytes.len() as u64;
        }
        for difference in &self.differences {
            let Difference { part, native, interpreted } = difference;
            writeln!(f, "  {part}: native {native}, interpreted {interpreted}")?;
        }
        let before = &case.before;
        writeln!(f, "  before: rflags {}, MXCSR {:x}", flag_names(before.rflags), before.fpu.mxcsr().bits())?;
        for (row, values) in before.gpr.chunks(4).enumerate() {
            for (n, value) in values.iter().enumerate() {
                write!(f, "  {:>3} {value:016x}", GPR_NAMES[4 * row + n])?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  fs.base {:x} gs.base {:x}", before.fs_base, before.gs_base)?;
        for (part, range) in fpu_parts() {
            let separator = if part.ends_with(['3', '7', '1', '5', 'R']) { "\n" } else { "" };
            write!(f, "  {part} {}{separator}", image(&before.fpu, range))?;
        }
        for (n, half) in before.fpu.ymm().chunks(16).enumerate() {
            write!(f, "  YMM{n} {}{}", number(half), if n % 4 == 3 { "\n" } else { "" })?;
        }
        writeln!(f)
    }
}
