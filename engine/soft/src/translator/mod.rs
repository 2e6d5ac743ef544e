//! The translator: hot guest code becomes host code that does the same on the guest's registers.
//!
//! Guest and host are the same sort of processor, so most instructions stay what they are. What changes is where operands
//! are (`frame`), that memory is reached through the software TLB, and how code leads to other code.
//!
//! ```text
//!  a block became hot                      translated code runs
//!  scan ─▶ emit ─▶ code_cache              stubs.enter ─▶ unit ─▶ unit ─▶ … ─▶ Exit ─▶ the run loop
//!   flags                                                   │ a miss, an operation of the interpreter's
//!                                                           ▼
//!                                                         calls
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `scan` | what a unit of translation consists of |
//! | `kinds` | what is done for each of its instructions |
//! | `operands` | what is asked about an instruction's operands |
//! | `flags` | which flags may still be read |
//! | `groups` | accesses that one check serves |
//! | `emit/` | from a unit to host code |
//! | `assembler/` | host instructions as bytes |
//! | `code_cache` | where host code lies |
//! | `units` | which unit's it is |
//! | `counters` | what `--stats` tells |
//! | `stubs` | entering, leaving, asking |
//! | `calls` | what is asked of Rust |
//! | `fast_call` | SYSCALL and SYSRET |
//! | `hot_spots` | in which units most of the time is spent |
//! | `sites` | which site of the TLB an instruction has there |
//! | `frequent` | which of them has none, and which accesses are devices' |
//! | `jumps` | from instruction pointers to host code |
//! | `returns` | from calls to their returns |
//! | `frame` | what translated code shares with Rust |
//! | `verify` | lockstep with the interpreter |
//! | `x87` | x87 and MMX registers in the host's |
//!
//! A unit lies in one page of guest code, but for an instruction that lies in two pages and is a unit alone. It belongs to the
//! interpreter's block that begins where it begins, is found by that and becomes stale with it. It assumes the block's mode, and
//! the view of memory ([`crate::tlb::View`]) that it was made for.
//!
//! Code of 64 bits is translated, and of 32 bits with flat segments. Where the manuals leave a choice, or something happens
//! seldom, a unit gives control to the interpreter, which always is right.

mod assembler;
mod calls;
mod code_cache;
mod counters;
mod emit;
mod fast_call;
mod flags;
mod frame;
mod frequent;
mod groups;
mod hot_spots;
mod jumps;
mod kinds;
mod operands;
mod returns;
mod scan;
mod sites;
mod stubs;
mod units;
mod verify;
mod x87;

use std::io;
use std::ptr::NonNull;

use tern_x86::cpu::Mode;
use tern_x86::cpu::word::BLOCK;
use tern_x86::environment::Processor;

pub use calls::Accessor;
use counters::Counters;
pub use frame::{Exit, RunState};
pub use jumps::Jumps;
pub use scan::{MAX_TRACE_INSTRUCTIONS, Route, Scanner, Unit, scan};
pub use verify::{Defined, End, TrialPages, compare};

use crate::blocks::Block;
use crate::environment::SoftEnvironment;
use crate::profile::SharedJitDump;
use crate::profile::gauge::Work;
use crate::ram::PAGE;
use crate::tlb::View;
use crate::{HotCode, Translation};
use calls::{Operation, Operations};
use code_cache::{CodeCache, Placed};
pub use emit::Checks;
use emit::{Target, Tools};
use frequent::{Address, Frequent, SAMPLED_DEVICES};
use hot_spots::{Hot, HotSpots, SAMPLED_TIMES};
use sites::Sites;
use stubs::{Enter, Stubs};
use units::{Made, Units};

/// What a unit may take in the worst case.
const MOST: usize = 64 << 10;

/// A translated unit: the offset of its entry in the code cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated(u32);

/// A unit that most of the time is spent in.
#[derive(Debug, Clone, Copy)]
pub struct HotUnit {
    /// Its block.
    pub block: *mut Block,
    /// The unit.
    pub unit: Translated,
    /// Where it mostly leads, as an offset in its page, if that is known.
    pub leads_to: Option<u16>,
    /// Its accesses have sites.
    pub has_sites: bool,
}

/// One processor's translated code.
pub struct Translator {
    cache: CodeCache,
    stubs: Stubs,
    operations: Operations,
    sites: Sites,
    several_processors: bool,
    translation: Translation,
    /// Units count the checks that find their page.
    counts_hits: bool,
    /// What was done so far.
    pub counters: Counters,
    /// Accesses without sites.
    restless: Frequent,
    /// Accesses of devices.
    of_devices: Frequent,
    /// How many devices' accesses translated code was left for.
    device_accesses: u32,
    /// How often time was up in translated code.
    times_up: u32,
    /// Units that get sites.
    hot_spots: HotSpots,
    /// Of those, units that may get longer.
    hot_sited: HotSpots,
    units: Units,
    tools: Tools,
    jitdump: SharedJitDump,
}

// SAFETY: the blocks belong to the processor whose translator this is.
unsafe impl Send for Translator {}

impl Translator {
    /// Without units yet, of a machine with `cpus` processors.
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn new(cpus: usize, hot_code: HotCode, jitdump: SharedJitDump) -> io::Result<Self> {
        let HotCode { translation, counts_hits, .. } = hot_code;
        let mut cache = CodeCache::new(hot_code.share(cpus))?;
        let stubs = Stubs::new(&mut cache, counts_hits).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            cache,
            stubs,
            operations: Vec::new(),
            sites: Sites::default(),
            several_processors: cpus > 1,
            translation,
            counts_hits,
            counters: Counters::default(),
            restless: Frequent::default(),
            of_devices: Frequent::default(),
            device_accesses: 0,
            times_up: 0,
            hot_spots: HotSpots::default(),
            hot_sited: HotSpots::default(),
            units: Units::default(),
            tools: Tools::default(),
            jitdump,
        })
    }

    /// Whether units run on trial.
    pub fn is_verified(&self) -> bool {
        self.translation == Translation::Verified
    }

    /// What was done so far, and what units counted, with the names that users read.
    pub fn named(&self, state: &RunState) -> impl Iterator<Item = (&'static str, u64)> {
        self.counters.named().chain(self.counts_hits.then_some(("tlb-hits", state.hits)))
    }

    /// Whether another unit surely fits. The operations that units leave to the interpreter, and what is noted of units, take from the
    /// same bound.
    pub const fn has_room(&self) -> bool {
        let operations = self.operations.len() * (size_of::<Operation>() + size_of::<Box<Operation>>());
        let kept = operations + self.units.len() * Units::WEIGHT;
        self.cache.free() >= MOST + kept
    }

    /// Drops all units. None may be running, and none may be entered any more.
    pub fn clear(&mut self) {
        self.cache.clear();
        self.operations.clear();
        self.units.clear();
        self.hot_spots.forget();
        self.hot_sited.forget();
        self.restless.forget();
        self.of_devices.forget();
        self.counters.evictions += 1;
    }

    /// Bytes of translated code.
    pub const fn used(&self) -> usize {
        self.cache.used()
    }

    /// Translates a unit of `block`, at this physical address, for a view of memory; `None` if it does not fit, or nothing of it would run.
    pub fn translate(
        &mut self,
        unit: &Unit<'_>,
        block: *mut Block,
        physical: u64,
        view: View,
        checks: Checks,
    ) -> Option<Translated> {
        let first = &unit.instructions[0];
        let linked = self.translation == Translation::On;
        if self.translation == Translation::Off || first.kind == kinds::Kind::Transfer && !linked {
            return None;
        }
        let Self { several_processors, counts_hits, .. } = *self;
        let target = Target { view, several_processors, counts_hits, linked, checks };
        // SAFETY: the caller's block is alive.
        let version = unsafe { (*block).origin.version() };
        let page = physical & !(PAGE - 1);
        let is_restless = |offset| self.restless.has((page + offset as u64, version));
        let Self { tools, stubs, sites, operations, .. } = self;
        let code = emit::emit(tools, unit, target, stubs, sites, &is_restless, operations)?;
        let sizes = (code.split, code.bytes.len() - code.split);
        let placed = self.cache.append(code)?;
        self.units.push(Made {
            placed,
            sizes,
            block,
            checks,
            route: unit.route,
            supersedes: None,
            is_settled: false,
            is_known: false,
        });
        self.counters.translations += 1;
        self.counters.traces += u64::from(!unit.route.parts().is_empty());
        Some(Translated(placed.hot))
    }

    /// Lets perf know a unit in which time was found, by where the guest's code is: its physical address, which is the same in
    /// every address space. (Most units take no time, and perf makes a file of each.)
    fn write_down(&self, &Made { placed, sizes: (hot, cold), block, .. }: &Made) {
        let Some(mut jitdump) = self.jitdump.lock() else { return };
        // SAFETY: blocks live as long as their units do.
        let physical = unsafe { (*block).physical };
        for (what, offset, size) in
            [("guest code", placed.hot, hot), ("seldom of guest code", placed.cold, cold)]
        {
            let code = self.cache.at(offset);
            // SAFETY: the unit's code is there, and readable.
            let bytes = unsafe { std::slice::from_raw_parts(code, size) };
            // Who looks for a file that could not be written sees that it ends early.
            let _ = jitdump.record(&format!("{what} {physical:#x}"), code as u64, bytes);
        }
    }

    /// Notes a sampled miss of the site of `accessor`, by cold code that called from `from`, after so many guest instructions.
    /// Returns the block whose unit is to be translated anew because of it, and the unit.
    pub fn sample_miss(
        &mut self,
        accessor: Accessor,
        from: u64,
        instructions: u64,
    ) -> Option<(*mut Block, Translated)> {
        let (address, found) = self.accessing(accessor, from)?;
        self.restless.note(address, instructions).then_some(found)
    }

    /// Samples that the access of `accessor` is a device's. Otherwise as [`Translator::sample_miss`].
    pub fn note_device(
        &mut self,
        accessor: Accessor,
        from: u64,
        instructions: u64,
    ) -> Option<(*mut Block, Translated)> {
        // In lockstep devices are the interpreter's in any case.
        self.device_accesses = self.device_accesses.wrapping_add(1);
        if self.is_verified() || !self.device_accesses.is_multiple_of(SAMPLED_DEVICES) {
            return None;
        }
        let (address, found) = self.accessing(accessor, from)?;
        self.of_devices.note(address, instructions).then_some(found)
    }

    /// Whether the accesses of the instruction at this address are often a device's.
    pub fn accesses_devices(&self, address: Address) -> bool {
        self.of_devices.has(address)
    }

    /// The instruction of `accessor`, by cold code that called from `from`; and its unit.
    fn accessing(&mut self, accessor: Accessor, from: u64) -> Option<(Address, (*mut Block, Translated))> {
        let Made { placed: Placed { hot, .. }, block, .. } = *self.unit_of(from)?;
        // SAFETY: blocks live as long as their units do.
        let (physical, version) = unsafe { ((*block).physical, (*block).origin.version()) };
        Some((((physical & !(PAGE - 1)) + accessor.offset(), version), (block, Translated(hot))))
    }

    /// Notes that time was up in a unit, whose cold code at `from` said so, as it led to an offset in its page. Says which unit it is if most
    /// of the time is spent there, and it is not settled yet.
    pub fn sample_time(&mut self, from: u64, led_to: Option<u16>) -> Option<HotUnit> {
        self.times_up = self.times_up.wrapping_add(1);
        if !self.times_up.is_multiple_of(SAMPLED_TIMES) {
            return None;
        }
        let unit = self.unit_of(from)?;
        let first = !std::mem::replace(&mut unit.is_known, true);
        let unit = *unit;
        if first {
            self.write_down(&unit);
        }
        let Made { placed: Placed { hot, .. }, block, checks, is_settled, .. } = unit;
        // What is checked one by one is so for where it works on, not for what it is.
        if is_settled || checks == Checks::Single {
            return None;
        }
        let has_sites = checks == Checks::Sited;
        let spots = if has_sites { &mut self.hot_sited } else { &mut self.hot_spots };
        let Hot { leads_to } = spots.sample(hot, led_to)?;
        Some(HotUnit { block, unit: Translated(hot), leads_to, has_sites })
    }

    /// A unit is as good as it gets: it need not be found any more.
    pub fn settle(&mut self, Translated(hot): Translated) {
        if let Some(unit) = self.units.beginning_at_mut(hot) {
            unit.is_settled = true;
        }
    }

    /// The route of a unit.
    pub fn route(&self, Translated(hot): Translated) -> Route {
        self.units.beginning_at(hot).map(|unit| unit.route).unwrap_or_default()
    }

    /// The unit whose cold code has a call before the address `from`.
    fn unit_of(&mut self, from: u64) -> Option<&mut Made> {
        let from = u32::try_from(from.wrapping_sub(self.cache.at(0) as u64)).ok()?;
        self.units.calling_before(from)
    }

    /// Leads whoever enters `old` to `new`, which is the same code translated anew. `old` may have called: its first call lies behind
    /// the bytes that are replaced, as the check before it is longer than they are. So do its landings, which are still returned to.
    pub fn supersede(&mut self, old: Translated, new: Translated) {
        self.counters.retranslations += 1;
        // Those before it, too: whoever still enters them jumps once.
        let mut before = Some(old);
        while let Some(Translated(hot)) = before {
            self.cache.replace_by_jump(hot + emit::LINK_ENTRY, new.0 + emit::LINK_ENTRY);
            before = self.units.beginning_at(hot).and_then(|unit| unit.supersedes);
        }
        if let Some(unit) = self.units.beginning_at_mut(new.0) {
            unit.supersedes = Some(old);
        }
    }

    /// Where links enter the unit that jumps by table enter at `code`.
    pub const fn link_entry(code: *const u8) -> *const u8 {
        code.wrapping_add(emit::LINK_ENTRY as usize)
    }

    /// Where jumps by table enter a unit.
    pub fn table_entry(&self, Translated(offset): Translated) -> *const u8 {
        self.cache.at(offset)
    }

    /// Leads the jump that asked for it ([`Exit::Link`]) to a unit of `block`, if that lies in the same page of RAM: the linear page
    /// may lead to another one by now, while the jump's own code is still used.
    pub fn link(&mut self, payload: u64, block: *mut Block, Translated(target): Translated) {
        let asked = payload as *const u32;
        if asked.is_null() {
            return;
        }
        let Some(&mut Made { block: from, .. }) = self.unit_of(payload) else { return };
        // SAFETY: blocks live as long as their units do, and the caller's block is alive.
        if unsafe { (*from).physical ^ (*block).physical } >= PAGE {
            return;
        }
        // SAFETY: the address is behind the call in a unit's cold part, where four bytes of the unit follow.
        let jump = unsafe { asked.read_unaligned() };
        self.cache.redirect(jump, target + emit::LINK_ENTRY);
    }

    /// Where returns to address 0 are led, see [`RunState::set_code_at_zero`].
    pub fn code_at_zero(&self) -> *const u8 {
        self.cache.at(self.stubs.leave_for)
    }

    /// How to run translated code from a unit on.
    pub fn entry(&self, Translated(offset): Translated) -> Entry {
        // SAFETY: the stub is a function of this type.
        let enter = unsafe { std::mem::transmute::<*const u8, Enter>(self.cache.at(self.stubs.enter)) };
        Entry { enter, code: self.cache.at(offset + emit::LINK_ENTRY) }
    }
}

/// Where translated code begins to run.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    enter: Enter,
    code: *const u8,
}

/// Runs translated code from a unit at the present instruction pointer on, for at most about `budget` guest instructions.
/// Returns why it ended and how many instructions there were.
///
/// # Safety
/// `p` is a processor on its stage, which nobody else uses meanwhile; `entry` is of a unit of its translator's that was
/// current when it was looked up, and was made for the code at its instruction pointer, its mode and its view.
pub unsafe fn run(p: NonNull<Processor<SoftEnvironment>>, entry: Entry, budget: i32) -> (Exit, u64) {
    {
        // SAFETY: the caller's promise.
        let Processor { cpu, env } = unsafe { &mut *p.as_ptr() };
        cpu.gpr[BLOCK] = cpu.rip & !(PAGE - 1);
        (env.translated.budget, env.translated.granted) = (budget, budget);
        calls::prepare(cpu, env);
        env.gauge.set(Work::Translated);
    }
    // SAFETY: the unit's code keeps to the conventions of `frame`; the stage's stack is below the processor.
    unsafe { (entry.enter)(p.as_ptr().cast(), entry.code) };
    // SAFETY: the caller's promise; translated code has ended.
    let Processor { cpu, env } = unsafe { &mut *p.as_ptr() };
    env.translated.put_back_x87(cpu);
    env.gauge.set(Work::Interpreting);
    cpu.flags = env.translated.unpack_flags();
    // Offsets were added without a care for the end of 4 GiB.
    cpu.rip &= cpu.rip_mask();
    (env.translated.exit, env.translated.instructions())
}

/// Whether code of this mode is translated: 64-bit code, and code of 32 bits whose segments are all of memory.
pub fn is_translatable(mode: Mode) -> bool {
    mode.contains(Mode::LONG) || mode.contains(Mode::CODE32 | Mode::STACK32 | Mode::FLAT)
}
