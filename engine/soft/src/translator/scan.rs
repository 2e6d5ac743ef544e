//! What a unit of translation consists of: code in one page, one instruction after the other, with branches out of it.
//!
//! A unit goes on behind a conditional branch that is not taken, and ends where control surely goes elsewhere, at the
//! page's end, or where it has become long enough. Where it is known which branches are mostly taken, it follows them ([`Route`]), and
//! ends where it would come to what it has already. An instruction that lies in two pages is a unit alone.

use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, OpAccess};
use tern_x86::cpu::Mode;
use tern_x86::decode::BlockDecoder;

use super::flags::{FlagSet, FlagUse, live_at};
use super::kinds::{Control, Kind, as_64_bit_code_has_it, kind};
use super::operands::writes;
use crate::blocks::SoftOp;
use crate::environment::SoftEnvironment;
use crate::ram::PAGE;

/// Most guest instructions of a unit that follows no route.
const MAX_INSTRUCTIONS: usize = 64;
/// Most guest instructions of any unit; they are counted in one signed byte.
pub const MAX_TRACE_INSTRUCTIONS: usize = 120;

const _: () =
    assert!(MAX_INSTRUCTIONS <= MAX_TRACE_INSTRUCTIONS && MAX_TRACE_INSTRUCTIONS <= i8::MAX as usize);

/// Most parts of a unit, but for the first.
const MAX_PARTS: usize = 7;

/// The way that control mostly goes in a page: offsets that it leads to from one part of a unit to the next. Without any the unit
/// is straight-line code; with some it is what the field calls a trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Route {
    parts: [u16; MAX_PARTS],
    count: u8,
}

impl Route {
    /// The offsets.
    pub fn parts(&self) -> &[u16] {
        &self.parts[..self.count.into()]
    }

    /// Whether it has more parts than another one.
    pub fn is_longer_than(&self, other: Self) -> bool {
        self.count > other.count
    }

    /// Goes on at an offset. Returns whether it is longer for that: it may lead there already, or be full.
    pub fn push(&mut self, part: u16) -> bool {
        let grows = self.parts().len() < MAX_PARTS && !self.parts().contains(&part);
        if grows {
            self.parts[usize::from(self.count)] = part;
            self.count += 1;
        }
        grows
    }
}

/// One guest instruction of a unit.
#[derive(Clone, Copy)]
pub struct Guest {
    /// As decoded, at the instruction pointer that is its offset in the page.
    pub instruction: Instruction,
    /// As the interpreter executes it.
    pub op: SoftOp,
    /// What is done for it.
    pub kind: Kind,
    /// What it does with each operand.
    pub accesses: [OpAccess; 5],
    /// The general registers that it may change, whole or in part: a bit for each by its number.
    pub changed: u16,
    /// What it does with the flags.
    pub flags: FlagUse,
    /// What is live behind it.
    pub live_after: FlagSet,
    /// For a branch, what is live where it leads.
    pub live_taken: FlagSet,
}

impl Guest {
    /// An instruction of 64-bit code (`wide`) or of 32 bits, without a unit yet.
    fn new(instruction: Instruction, op: SoftOp, wide: bool, facts: &mut InstructionInfoFactory) -> Self {
        let kind = kind(&instruction, &op, wide);
        let flags = match kind {
            Kind::Transfer | Kind::FastCall(_) => FlagUse { reads: FlagSet::all(), ..FlagUse::default() },
            Kind::Nothing => FlagUse::default(),
            _ => FlagUse::of(&instruction),
        };
        let info = facts.info_options(&instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
        let accesses = std::array::from_fn(|n| info.op_access(n as u32));
        let changed = info
            .used_registers()
            .iter()
            .filter(|used| writes(used.access()) && used.register().is_gpr())
            .fold(0, |changed, used| changed | 1 << used.register().full_register().number());
        let none = FlagSet::empty();
        Self { instruction, op, kind, accesses, changed, flags, live_after: none, live_taken: none }
    }

    /// The interpreter executes its operation.
    fn interpret(&mut self) {
        if self.kind.ends() {
            self.kind = Kind::Transfer;
            self.flags = FlagUse { reads: FlagSet::all(), ..FlagUse::default() };
        } else {
            self.kind = Kind::Operation;
        }
    }

    /// Whether it is a branch to `part`, an offset in its page, that the unit may follow.
    fn may_lead_to(&self, part: usize) -> bool {
        let leads = matches!(self.kind, Kind::Branch(target) | Kind::Jump(target) if target == part as i64);
        leads && self.next_offset() < PAGE as usize
    }

    /// What it leads to is what follows in its unit: a condition is turned round.
    fn lead_on(&mut self) {
        match self.kind {
            Kind::Branch(_) => {
                self.instruction.negate_condition_code();
                self.kind = Kind::Branch(self.next_offset() as i64);
            }
            _ => (self.kind, self.flags) = (Kind::Nothing, FlagUse::default()),
        }
    }

    /// Its offset in the page.
    pub fn offset(&self) -> usize {
        usize::from(self.op.offset)
    }

    /// The offset behind it.
    pub fn next_offset(&self) -> usize {
        self.offset() + usize::from(self.op.length)
    }

    /// What is live before it.
    pub fn live_before(&self) -> FlagSet {
        self.flags.live_before(self.live_after).union(self.live_taken)
    }
}

/// A unit before it is translated.
pub struct Unit<'a> {
    /// Its instructions, at least one.
    pub instructions: &'a [Guest],
    /// What of the page it depends on: bytes from the first to the second offset.
    pub watched: &'a [(usize, usize)],
    /// It ends in the next page.
    pub crosses: bool,
    /// It is 64-bit code; else code of 32 bits.
    pub wide: bool,
    /// Where control goes behind its last instruction, if that does not end it: an offset from the page's start.
    pub next: usize,
    /// What is live there.
    pub live_at_end: FlagSet,
    /// The way that it goes.
    pub route: Route,
}

impl Unit<'_> {
    /// Whether it has vector instructions, and of these such that VEX encodes.
    pub fn uses_vectors(&self) -> (bool, bool) {
        self.instructions.iter().fold((false, false), |(any, wide), guest| match guest.kind {
            Kind::Vector { wide: this, .. } => (true, wide || this),
            Kind::X87 { vectors: true, .. } | Kind::LoadControl(Control::Mxcsr) => (true, wide),
            _ => (any, wide),
        })
    }
}

/// What units are scanned with, one after the other. It keeps its memory.
pub struct Scanner {
    facts: InstructionInfoFactory,
    instructions: Vec<Guest>,
    watched: Vec<(usize, usize)>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { facts: InstructionInfoFactory::new(), instructions: Vec::new(), watched: Vec::new() }
    }
}

/// Finds the unit at `offset` of code that is translated: a whole page, or that with the beginning of the next one, where an
/// instruction at `offset` goes on. Where a branch leads to the next part of the `route`, the unit does too, as far as there are such
/// branches. Of each instruction, by its offset, `accesses_devices` says whether it often does that.
pub fn scan<'a>(
    scanner: &'a mut Scanner,
    env: &mut SoftEnvironment,
    mode: Mode,
    code: &[u8],
    offset: usize,
    route: Route,
    accesses_devices: impl Fn(&SoftEnvironment, usize) -> bool,
) -> Option<Unit<'a>> {
    let Scanner { facts, instructions, watched } = scanner;
    instructions.clear();
    watched.clear();
    let mut decoder = BlockDecoder::<SoftEnvironment>::starting_at(code, mode, offset);
    let crosses = code.len() > PAGE as usize;
    let page = code.get(..PAGE as usize)?;
    let mut parts = route.parts().iter().copied().peekable();
    let mut followed = Route::default();
    let mut most = if crosses { 1 } else { MAX_INSTRUCTIONS };
    let wide = mode.contains(Mode::LONG);
    let (mut start, mut next) = (offset, offset);
    while instructions.len() < most && !watched.iter().any(|&(start, end)| (start..end).contains(&next)) {
        let Some((instruction, op)) = decoder.next_instruction(env) else { break };
        let instruction = if wide { instruction } else { as_64_bit_code_has_it(instruction) };
        let mut guest = Guest::new(instruction, op, wide, facts);
        if accesses_devices(env, guest.offset()) {
            guest.interpret();
        }
        next = guest.next_offset();
        if let Some(part) = parts.next_if(|&part| guest.may_lead_to(part.into())) {
            guest.lead_on();
            followed.push(part);
            most = MAX_TRACE_INSTRUCTIONS;
            watched.push((start, next));
            (start, next) = (part.into(), part.into());
            decoder = BlockDecoder::starting_at(code, mode, next);
        }
        instructions.push(guest);
        if guest.kind.ends() {
            break;
        }
    }
    if start != next {
        watched.push((start, next));
    }
    let last = instructions.last()?;
    let mut look = |target: i64| match usize::try_from(target) {
        Ok(target) if target < page.len() => {
            let (live, seen) = live_at(page, mode, target);
            watched.push((target, seen));
            live
        }
        _ => FlagSet::all(),
    };
    let at_end = match last.kind {
        Kind::Jump(target) | Kind::Call(target) => look(target),
        kind if kind.ends() => FlagSet::all(),
        _ => look(next as i64),
    };
    let mut live = at_end;
    for guest in instructions.iter_mut().rev() {
        guest.live_after = live;
        if let Kind::Branch(target) = guest.kind {
            guest.live_taken = look(target);
        }
        live = guest.live_before();
    }
    Some(Unit { instructions, watched, crosses, wide, next, live_at_end: at_end, route: followed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_goes_nowhere_twice_and_not_on_for_ever() {
        let mut route = Route::default();
        assert!(route.push(5) && !route.push(5) && route.push(0));
        let more = (1000..).take_while(|&part| route.push(part)).count();
        assert_eq!((route.parts().len(), more), (MAX_PARTS, MAX_PARTS - 2));
        assert_eq!(route.parts()[..3], [5, 0, 1000]);
    }
}
