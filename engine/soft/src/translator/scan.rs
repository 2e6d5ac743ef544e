//! What a unit of translation consists of: straight-line code in one page, with branches out of it.
//!
//! A unit goes on behind a conditional branch that is not taken, and ends where control surely goes elsewhere, at the
//! page's end, or where it has become long enough. An instruction that lies in two pages is a unit alone.

use iced_x86::Instruction;
use tern_x86::cpu::Mode;
use tern_x86::decode::BlockDecoder;

use super::flags::{FlagSet, FlagUse, live_at};
use super::kinds::{Control, Kind, as_64_bit_code_has_it, kind};
use crate::blocks::SoftOp;
use crate::environment::SoftEnvironment;
use crate::ram::PAGE;

/// Most guest instructions of a unit; they are counted in one signed byte.
pub const MAX_INSTRUCTIONS: usize = 64;

/// One guest instruction of a unit.
#[derive(Clone, Copy)]
pub struct Guest {
    /// As decoded, at the instruction pointer that is its offset in the page.
    pub instruction: Instruction,
    /// As the interpreter executes it.
    pub op: SoftOp,
    /// What is done for it.
    pub kind: Kind,
    /// What it does with the flags.
    pub flags: FlagUse,
    /// What is live behind it.
    pub live_after: FlagSet,
    /// For a branch, what is live where it leads.
    pub live_taken: FlagSet,
}

impl Guest {
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
pub struct Unit {
    /// Its instructions, at least one.
    pub instructions: Vec<Guest>,
    /// What of the page it depends on: bytes from the first to the second offset. The first are the unit's own.
    pub watched: Vec<(usize, usize)>,
    /// It ends in the next page.
    pub crosses: bool,
    /// It is 64-bit code; else code of 32 bits.
    pub wide: bool,
    /// What is live behind its last instruction, if that does not end it.
    pub live_at_end: FlagSet,
}

impl Unit {
    /// Whether it has vector instructions, and of these such that VEX encodes.
    pub fn uses_vectors(&self) -> (bool, bool) {
        self.instructions.iter().fold((false, false), |(any, wide), guest| match guest.kind {
            Kind::Vector { wide: this, .. } => (true, wide || this),
            Kind::X87 { vectors: true, .. } | Kind::LoadControl(Control::Mxcsr) => (true, wide),
            _ => (any, wide),
        })
    }
}

/// Finds the unit at `offset` of code that is translated: a whole page, or that with the beginning of the next one, where an
/// instruction at `offset` goes on.
pub fn scan(env: &mut SoftEnvironment, mode: Mode, code: &[u8], offset: usize) -> Option<Unit> {
    let mut decoder = BlockDecoder::<SoftEnvironment>::starting_at(code, mode, offset);
    let crosses = code.len() > PAGE as usize;
    let page = code.get(..PAGE as usize)?;
    let most = if crosses { 1 } else { MAX_INSTRUCTIONS };
    let wide = mode.contains(Mode::LONG);
    let mut instructions = Vec::new();
    let mut end = offset;
    while instructions.len() < most {
        let Some((instruction, op)) = decoder.next_instruction(env) else { break };
        let instruction = if wide { instruction } else { as_64_bit_code_has_it(instruction) };
        let kind = kind(&instruction, &op, wide);
        end = usize::from(op.offset) + usize::from(op.length);
        let flags = match kind {
            Kind::Interpret | Kind::FastCall(_) => FlagUse { reads: FlagSet::all(), ..FlagUse::default() },
            Kind::Nothing => FlagUse::default(),
            _ => FlagUse::of(&instruction),
        };
        let none = FlagSet::empty();
        instructions.push(Guest { instruction, op, kind, flags, live_after: none, live_taken: none });
        if kind.ends() {
            break;
        }
    }
    let last = instructions.last()?;
    let mut watched = vec![(offset, end)];
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
        _ => look(last.next_offset() as i64),
    };
    let mut live = at_end;
    for guest in instructions.iter_mut().rev() {
        guest.live_after = live;
        if let Kind::Branch(target) = guest.kind {
            guest.live_taken = look(target);
        }
        live = guest.live_before();
    }
    Some(Unit { instructions, watched, crosses, wide, live_at_end: at_end })
}
