//! Where the next block is: from the instruction pointer to decoded code.

use std::sync::Arc;

use tern_x86::cpu::word::BLOCK;
use tern_x86::cpu::{Cpu, Mode, canonical};
use tern_x86::decode::{BlockDecoder, MAX_INSTRUCTION_LENGTH, OpFlags};
use tern_x86::environment::Processor;
use tern_x86::exception::Stop;
use tern_x86::paging::{self, Access, AccessKind, Translation};
use tern_x86::state::{Activity, Rflags};

use super::{SoftEnvironment, breakpoints_enabled};
use crate::blocks::{Block, MAX_OPS, Origin, SoftOp, Unit};
use crate::host;
use crate::ram::{PAGE, RamPage, code_changes};
use crate::tlb::View;
use crate::translator::{
    Entry, Jumps, MAX_INSTRUCTIONS, Place, Translated, Translator, is_translatable, scan,
};

/// Bytes of one page that a block may take.
const MAX_BYTES: usize = 1024;

/// How often a block is executed before it is translated.
const HOT: u32 = 8;

/// How much hotter a block becomes when translated code leads to it.
pub const HOT_PREDECESSOR: u32 = 4;

/// In lockstep, so many first runs of a unit are checked.
const FIRST_RUNS: u32 = 16;

/// In lockstep, one of so many later runs is checked.
const SAMPLED_RUNS: u32 = 61;

/// Entries of the [`FetchCache`].
const ENTRIES: usize = 128;

/// Recent translations of code pages.
#[derive(Debug)]
pub struct FetchCache {
    entries: Box<[CodePlace; ENTRIES]>,
    /// A bit for each linear page that code was fetched from, by the page number's remainder.
    pages: Box<[u64; PAGE_BITS / 64]>,
    /// Levels 0 to 2 have fetched code from pages that are not global.
    supervisor_is_local: bool,
}

/// Bits that pages are remembered by.
const PAGE_BITS: usize = 1 << 14;

#[derive(Debug, Clone, Copy)]
struct CodePlace {
    linear: u64,
    context: u64,
    physical: u64,
}

impl FetchCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            entries: Box::new([CodePlace { linear: 0, context: u64::MAX, physical: 0 }; ENTRIES]),
            pages: Box::new([0; PAGE_BITS / 64]),
            supervisor_is_local: false,
        }
    }

    /// Whether code may have been fetched from the page at `linear`.
    pub fn may_know(&self, linear: u64) -> bool {
        let bit = (linear / PAGE) as usize % PAGE_BITS;
        self.pages[bit / 64] >> (bit % 64) & 1 != 0
    }

    fn note(&mut self, linear: u64) {
        let bit = (linear / PAGE) as usize % PAGE_BITS;
        self.pages[bit / 64] |= 1 << (bit % 64);
    }

    /// Nothing that was fetched is remembered any more.
    fn forget(&mut self) {
        self.pages.fill(0);
        self.supervisor_is_local = false;
    }
}

impl SoftEnvironment {
    /// What a translation of code is valid for: translations, privilege and mode.
    #[inline(always)]
    fn context(&self, cpu: &Cpu) -> u64 {
        let user = cpu.cpl == 3;
        self.epochs[usize::from(user)] << 16 | u64::from(user) << 8 | u64::from(cpu.mode.bits())
    }

    /// The block at the present instruction pointer.
    #[inline(always)]
    pub fn block(&mut self, cpu: &mut Cpu) -> Result<*mut Block, Stop> {
        let rip = cpu.linear_rip();
        let context = self.context(cpu);
        if let Some(block) = self.jumps.find(rip, context) {
            // SAFETY: the cache holds blocks that `self.blocks` owns; it is cleared together with them.
            if unsafe { (*block).origin.is_current() } {
                return Ok(block);
            }
        }
        self.find_block(cpu, rip, context)
    }

    #[cold]
    #[inline(never)]
    fn find_block(&mut self, cpu: &mut Cpu, rip: u64, context: u64) -> Result<*mut Block, Stop> {
        let physical = self.fetch_address(cpu, rip)?;
        if let Some(block) = self.blocks.find(physical, cpu.mode) {
            // SAFETY: `self.blocks` owns it.
            let second = unsafe { (*block).second };
            match second {
                None => {
                    self.jumps.insert(rip, context, block);
                    return Ok(block);
                }
                // Not put into the jump cache, so that the second page is looked at every time.
                Some((page, origin)) => {
                    if self.fetch_address(cpu, next_page(cpu, rip))? == page && origin.is_current() {
                        return Ok(block);
                    }
                }
            }
        }
        self.make_room();
        let mut block = self.decode(cpu, rip, physical, MAX_OPS)?;
        block.physical = physical;
        let crosses = block.second.is_some();
        let block = self.blocks.insert(physical, cpu.mode, block);
        if !crosses {
            self.jumps.insert(rip, context, block);
        }
        Ok(block)
    }

    /// Drops all decoded code if another block might not find room. No block may be running.
    fn make_room(&mut self) {
        if self.blocks.is_full() || self.native.room() < MAX_OPS || std::mem::take(&mut self.must_drop_code) {
            self.drop_code();
        }
    }

    /// Drops all decoded and translated code. No block may be running.
    fn drop_code(&mut self) {
        self.blocks.clear();
        self.jumps.clear();
        self.native.clear();
        self.translator.clear();
        self.forget_jump_tables();
        // Whoever asked for a link is gone.
        self.translated.payload = 0;
        self.unchained = true;
    }

    fn forget_jump_tables(&mut self) {
        self.translated.user.forget();
        self.translated.supervisor.forget();
        self.translated.supervisor_ac.forget();
    }

    /// Translations changed: where code lies must be found out anew.
    pub(super) fn forget_code_places(&mut self) {
        self.translator.counters.code_flushes[0] += 1;
        self.epochs = self.epochs.map(|epoch| epoch + 1);
        self.forget_jump_tables();
        self.fetch.forget();
    }

    /// Translations changed that are not global: the supervisor's code most often lies in global pages.
    pub(super) fn forget_local_code_places(&mut self) {
        if self.fetch.supervisor_is_local {
            return self.forget_code_places();
        }
        self.translator.counters.code_flushes[1] += 1;
        self.epochs[1] += 1;
        self.translated.user.forget();
    }

    /// How translated code goes on from `block`, which is at the present instruction pointer, if it does. Each call makes the
    /// block hotter by `heat`. Hot ones are translated.
    #[inline(always)]
    pub fn translated(&mut self, cpu: &Cpu, block: *mut Block, heat: u32) -> Option<Translated> {
        let view = self.view as usize;
        // SAFETY: `self.blocks` owns it.
        let Block { units, heat: so_far, .. } = unsafe { &mut *block };
        match units.get(view)? {
            Unit::Translated(unit) => Some(*unit),
            Unit::Untranslatable => None,
            Unit::Cold => {
                *so_far = so_far.saturating_add(heat);
                if *so_far < HOT { None } else { self.translate(cpu, block) }
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn translate(&mut self, cpu: &Cpu, block: *mut Block) -> Option<Translated> {
        if !self.translator.has_room() {
            self.must_drop_code = true;
            return None;
        }
        let unit = self.make_unit(cpu, block, true).map_or(Unit::Untranslatable, Unit::Translated);
        // SAFETY: `self.blocks` owns it, and nothing was dropped meanwhile.
        unsafe { (*block).units[self.view as usize] = unit };
        match unit {
            Unit::Translated(unit) => Some(unit),
            _ => None,
        }
    }

    fn make_unit(&mut self, cpu: &Cpu, block: *mut Block, grouped: bool) -> Option<Translated> {
        // SAFETY: `self.blocks` owns it.
        let (origin, physical, second) = unsafe { ((*block).origin, (*block).physical, (*block).second) };
        if !is_translatable(cpu.mode) || second.is_some() || self.native.room() < MAX_INSTRUCTIONS {
            return None;
        }
        let ram = Arc::clone(&self.ram);
        let page = ram.page(physical)?;
        let mut bytes = vec![0; PAGE as usize];
        Source { page, offset: 0 }.read(&mut bytes);
        let unit = scan(self, cpu.mode, &bytes, (physical % PAGE) as usize)?;
        for &(start, end) in &unit.watched {
            let source = Source { page, offset: start as u64 };
            if self.watch(source, &bytes[start..end]) != origin {
                // Somebody is writing there; the block is stale.
                return None;
            }
        }
        self.translator.translate(&unit, block, physical, self.view, grouped)
    }

    /// A miss of a translated instruction's site is looked at: if they are too many, its unit is translated anew.
    #[cold]
    pub fn sample_miss(&mut self, cpu: &Cpu, place: Place, from: u64) {
        let instructions = self.statistics.instructions + self.translated.instructions();
        let Some((block, old)) = self.translator.sample_miss(place, from, instructions) else {
            return;
        };
        // SAFETY: blocks live as long as their units do.
        let (current, known) = unsafe { ((*block).origin.is_current(), (*block).units[self.view as usize]) };
        if !current || known != Unit::Translated(old) || !self.translator.has_room() {
            return;
        }
        if let Some(new) = self.make_unit(cpu, block, true) {
            // SAFETY: as above.
            unsafe { (*block).units[self.view as usize] = Unit::Translated(new) };
            self.translator.supersede(old, new);
        }
    }

    /// Whether the run of translated code from `block` that begins now is checked against the interpreter: in lockstep, the
    /// first ones of a unit and samples of the later ones.
    pub fn is_verified(&self, block: *mut Block) -> bool {
        if !self.translator.is_verified() {
            return false;
        }
        // SAFETY: `self.blocks` owns it.
        let runs = unsafe { &mut (*block).runs };
        *runs = runs.wrapping_add(1);
        *runs <= FIRST_RUNS || runs.is_multiple_of(SAMPLED_RUNS)
    }

    /// The bytes of the page of RAM that holds the code at the present instruction pointer.
    pub fn code_page(&mut self, cpu: &mut Cpu) -> Option<Vec<u8>> {
        let rip = cpu.linear_rip();
        let physical = self.fetch_address(cpu, rip).ok()?;
        let ram = Arc::clone(&self.ram);
        let page = ram.page(physical)?;
        let mut bytes = vec![0; PAGE as usize];
        Source { page, offset: 0 }.read(&mut bytes);
        Some(bytes)
    }

    /// Where translated code goes on at the present instruction pointer, after an operation with these flags. `None` if
    /// something must be looked at before.
    pub fn next_code(&mut self, cpu: &mut Cpu, flags: OpFlags) -> Option<*const u8> {
        let interruptible = flags.contains(OpFlags::CHECK_INTERRUPTS) && self.translated.window;
        let careful = interruptible
            || self.translated.budget <= 0
            || self.mailbox.attention()
            || !is_translatable(cpu.mode)
            || cpu.activity != Activity::Running
            || cpu.deferred.is_some()
            || cpu.pending.interrupt_shadow
            || cpu.pending.nmi
            || cpu.system_flags.contains(Rflags::TF)
            || breakpoints_enabled(cpu)
            || code_changes() != self.code_changes;
        if careful {
            return None;
        }
        cpu.system_flags.remove(Rflags::RF);
        self.update_time(cpu);
        if self.view == View::AlignedUser {
            return None;
        }
        let code = match self.translated.jumps(self.view).find(cpu.rip) {
            Some(code) => code,
            None => self.resolve(cpu, cpu.rip)?,
        };
        self.unchained = false;
        cpu.gpr[BLOCK] = cpu.rip & !(PAGE - 1);
        Some(Translator::link_entry(code))
    }

    /// The code for an instruction pointer in the present mode and view, which the jump table knows then.
    pub fn resolve(&mut self, cpu: &mut Cpu, rip: u64) -> Option<*const u8> {
        if code_changes() != self.code_changes || !canonical(rip) {
            return None;
        }
        let access = Access::explicit(cpu, AccessKind::Execute);
        let physical = self.known_fetch_address(cpu, rip).or_else(|| {
            let translation = paging::translate(cpu, &mut &*self.ram, rip, access).ok()?;
            Some(self.note_fetch_address(cpu, rip, translation))
        })?;
        let block = self.blocks.find(physical, cpu.mode)?;
        let unit = self.translated(cpu, block, HOT_PREDECESSOR)?;
        let code = self.translator.table_entry(unit);
        self.translated.jumps(self.view).insert(rip, code);
        Some(code)
    }

    /// Prepares for running translated code from `unit` on, at the present instruction pointer.
    pub fn entry(&mut self, cpu: &Cpu, unit: Translated, remember: bool) -> Entry {
        let changes = code_changes();
        if changes != self.code_changes {
            self.code_changes = changes;
            self.forget_jump_tables();
        }
        if remember {
            let code = self.translator.table_entry(unit);
            self.translated.jumps(self.view).insert(cpu.rip, code);
        }
        self.translator.entry(unit)
    }

    /// The code for `block`, which is at the present instruction pointer, whose accesses are checked one by one.
    #[cold]
    pub fn plain(&mut self, cpu: &Cpu, block: *mut Block) -> Option<Translated> {
        let view = self.view as usize;
        // SAFETY: `self.blocks` owns it.
        match *unsafe { (*block).plain_units.get(view) }? {
            Unit::Translated(unit) => return Some(unit),
            Unit::Untranslatable => return None,
            Unit::Cold if !self.translator.has_room() => {
                self.must_drop_code = true;
                return None;
            }
            Unit::Cold => {}
        }
        let unit = self.make_unit(cpu, block, false);
        // SAFETY: as above, and nothing was dropped meanwhile.
        unsafe { (*block).plain_units[view] = unit.map_or(Unit::Untranslatable, Unit::Translated) };
        unit
    }

    /// Leads the jump that translated code asked about to `unit`.
    pub fn link(&mut self, unit: Translated) {
        self.translator.link(self.translated.payload, unit);
    }

    /// The operation at the present instruction pointer alone, decoded for this one time.
    pub fn single_op(&mut self, cpu: &mut Cpu) -> Result<SoftOp, Stop> {
        self.make_room();
        let rip = cpu.linear_rip();
        let physical = self.fetch_address(cpu, rip)?;
        Ok(self.decode(cpu, rip, physical, 1)?.ops[0])
    }

    /// The physical address of code at a linear address.
    fn fetch_address(&mut self, cpu: &mut Cpu, linear: u64) -> Result<u64, Stop> {
        if cpu.code64() && !canonical(linear) {
            return Err(cpu.general_protection());
        }
        if let Some(physical) = self.known_fetch_address(cpu, linear) {
            return Ok(physical);
        }
        let access = Access::explicit(cpu, AccessKind::Execute);
        let translation =
            paging::translate(cpu, &mut &*self.ram, linear, access).map_err(|fault| cpu.raise(fault))?;
        Ok(self.note_fetch_address(cpu, linear, translation))
    }

    /// The physical address of code at a linear address, if it was asked for lately.
    fn known_fetch_address(&self, cpu: &Cpu, linear: u64) -> Option<u64> {
        let entry = &self.fetch.entries[(linear / PAGE) as usize % ENTRIES];
        let known = entry.linear == linear & !(PAGE - 1) && entry.context == self.context(cpu);
        known.then_some(entry.physical + linear % PAGE)
    }

    fn note_fetch_address(&mut self, cpu: &Cpu, linear: u64, translation: Translation) -> u64 {
        let (page, context) = (linear & !(PAGE - 1), self.context(cpu));
        let slot = (linear / PAGE) as usize % ENTRIES;
        let physical = translation.physical & !(PAGE - 1);
        self.fetch.entries[slot] = CodePlace { linear: page, context, physical };
        self.fetch.note(page);
        self.large.note(linear, translation.page_bits);
        self.fetch.supervisor_is_local |= cpu.cpl != 3 && !translation.global;
        translation.physical
    }

    fn decode(&mut self, cpu: &mut Cpu, rip: u64, physical: u64, most: usize) -> Result<Block, Stop> {
        let mut bytes = [0xff; MAX_BYTES];
        let ram = Arc::clone(&self.ram);
        let Some(page) = ram.page(physical) else {
            // Nothing answers a fetch from outside of RAM: the bus floats, all ones, which is no instruction.
            return Ok(self.decode_bytes(cpu.mode, &bytes[..MAX_INSTRUCTION_LENGTH], 1, NOWHERE).0);
        };
        let inside = ((PAGE - physical % PAGE) as usize).min(MAX_BYTES);
        let first = Source { page, offset: physical % PAGE };
        first.read(&mut bytes[..inside]);
        let (mut block, used) = self.decode_bytes(cpu.mode, &bytes[..inside], most, NOWHERE);
        if used > 0 {
            block.origin = self.watch(first, &bytes[..used]);
            return Ok(block);
        }
        // The page ends inside the first instruction.
        let next = self.fetch_address(cpu, next_page(cpu, rip))?;
        let second = ram.page(next).map(|page| Source { page, offset: 0 });
        if let Some(second) = &second {
            second.read(&mut bytes[inside..MAX_INSTRUCTION_LENGTH]);
        }
        let (mut block, used) = self.decode_bytes(cpu.mode, &bytes[..MAX_INSTRUCTION_LENGTH], 1, NOWHERE);
        block.origin = self.watch(first, &bytes[..inside]);
        let rest = &bytes[inside..used.max(inside)];
        let origin = second.map_or(NOWHERE, |second| self.watch(second, rest));
        block.second = Some((next, origin));
        Ok(block)
    }

    /// Has writes to `decoded`, the bytes of `source`, noticed from now on. If they are not that any more, what was made from
    /// them is born stale.
    fn watch(&mut self, source: Source<'_>, decoded: &[u8]) -> Origin {
        if !self.ram.has_several_processors() && !source.page.code.has_code() {
            self.tlb.forbid_writes(source.page.host);
        }
        let code: *const _ = source.page.code;
        let version = self.ram.decode_begins(source.page.code, source.offset, decoded.len() as u64);
        let mut now = [0; MAX_BYTES];
        let now = &mut now[..decoded.len()];
        source.read(now);
        Origin::new(code, if now == decoded { version } else { version.wrapping_sub(1) })
    }

    /// Decodes up to `most` operations; the second value is how many bytes they take.
    fn decode_bytes(&mut self, mode: Mode, bytes: &[u8], most: usize, origin: Origin) -> (Block, usize) {
        let mut ops: Vec<SoftOp> = Vec::new();
        let (mut instructions, mut used) = (0, 0);
        let mut decoder = BlockDecoder::<SoftEnvironment>::new(bytes, mode);
        while ops.len() < most {
            let Some((op, fused)) = decoder.next_fused(self) else { break };
            if fused {
                ops.pop();
            }
            ops.push(op);
            instructions += 1;
            used = usize::from(op.offset) + usize::from(op.length);
            if op.flags.contains(OpFlags::ENDS_BLOCK) {
                break;
            }
        }
        (Block::new(ops, instructions, origin), used)
    }
}

/// Where code bytes come from.
#[derive(Clone, Copy)]
struct Source<'a> {
    page: RamPage<'a>,
    offset: u64,
}

impl Source<'_> {
    /// Copies the bytes, which stay inside the page, out of guest memory.
    fn read(&self, bytes: &mut [u8]) {
        assert!(self.offset + bytes.len() as u64 <= PAGE, "code is read from one page");
        // SAFETY: the source lies in the page of RAM, the destination is ours.
        unsafe { host::copy(self.page.host + self.offset, bytes.as_mut_ptr() as u64, bytes.len() as u64) };
    }
}

/// A page of code that never changes, for what is decoded from outside of RAM.
static FLOATING: crate::ram::CodePage = crate::ram::CodePage::new();
const NOWHERE: Origin = Origin::new(&raw const FLOATING, 0);

/// The linear address at which the page behind `rip`'s starts.
fn next_page(cpu: &Cpu, rip: u64) -> u64 {
    let next = (rip & !(PAGE - 1)).wrapping_add(PAGE);
    if cpu.code64() { next } else { next & 0xffff_ffff }
}

/// Executes a block, or what its operations allow of it.
///
/// # Errors
/// An operation stopped; `cpu.rip` is the pointer of its instruction.
///
/// # Safety
/// `block` is owned by the processor's environment and stays there meanwhile.
#[inline(always)]
pub unsafe fn execute(p: &mut Processor<SoftEnvironment>, block: *mut Block) -> Result<OpFlags, Stop> {
    // SAFETY: the caller vouches for the block; nothing drops or changes its operations while it runs.
    unsafe {
        let ops: *const [SoftOp] = &raw const *(*block).ops;
        let first = ops.cast::<SoftOp>();
        let end = first.add(ops.len());
        p.env.block_end = end;
        p.cpu.gpr[tern_x86::cpu::word::BLOCK] = p.cpu.rip;
        let mut op = first;
        loop {
            if let Err(stop) = ((*op).run)(p, &*op) {
                p.cpu.rip = (*op).rip(&p.cpu);
                p.env.statistics.instructions += op.offset_from(first) as u64;
                return Err(stop);
            }
            op = op.add(1);
            if op >= p.env.block_end {
                break;
            }
        }
        p.env.statistics.instructions +=
            if op == end { u64::from((*block).instructions) } else { op.offset_from(first) as u64 };
        let last = &*op.sub(1);
        finish(&mut p.cpu, last);
        Ok(last.flags)
    }
}

/// Moves the instruction pointer behind an operation that does not do so itself.
#[inline(always)]
pub fn finish(cpu: &mut Cpu, op: &SoftOp) {
    if !op.flags.contains(OpFlags::SETS_RIP) {
        let next = op.next_rip(cpu);
        cpu.rip = match cpu.mode.bitness() {
            64 => next,
            32 => next & 0xffff_ffff,
            _ => next & 0xffff,
        };
    }
}
