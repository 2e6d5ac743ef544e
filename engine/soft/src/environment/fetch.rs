//! Where the next block is: from the instruction pointer to decoded code.

use std::sync::Arc;

use tern_x86::cpu::{Cpu, Mode, canonical};
use tern_x86::decode::{BlockDecoder, MAX_INSTRUCTION_LENGTH, OpFlags};
use tern_x86::environment::Processor;
use tern_x86::exception::Stop;
use tern_x86::paging::{self, Access, AccessKind, Translation};

use super::SoftEnvironment;
use crate::blocks::{Block, MAX_OPS, Origin, SoftOp};
use crate::code_page::CodePage;
use crate::host;
use crate::ram::{PAGE, RamPage};
use crate::translator::{Jumps, MAX_TRACE_INSTRUCTIONS};

/// Bytes of one page that a block may take.
const MAX_BYTES: usize = 256;

/// Entries of the [`FetchCache`].
const ENTRIES: usize = 1024;

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
        let physical = self.instruction_address(cpu, rip)?;
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

    /// Drops all decoded and translated code if there was no room for more. No block may be running.
    #[inline(always)]
    pub fn drop_code_if_asked(&mut self) {
        // Much of what `make_room` looks at is seldom in the host's first cache.
        if self.must_drop_code {
            self.make_room();
        }
    }

    /// Drops all decoded and translated code if another block might not find room, or if the translator asked for it. No block may be
    /// running.
    fn make_room(&mut self) {
        const { assert!(MAX_OPS <= MAX_TRACE_INSTRUCTIONS) };
        let is_full = self.blocks.is_full() || self.native.room() < MAX_TRACE_INSTRUCTIONS;
        if is_full || std::mem::take(&mut self.must_drop_code) {
            self.drop_code();
        }
    }

    /// Drops all decoded and translated code. No block may be running.
    fn drop_code(&mut self) {
        self.hot_after = self.hot_after_drop;
        self.blocks.clear();
        self.jumps.clear();
        self.units.clear();
        self.native.clear();
        self.translator.clear();
        self.forget_jump_tables();
        // Whoever asked for a link is gone.
        self.translated.payload = 0;
        self.unchained = true;
    }

    pub(super) fn forget_jump_tables(&mut self) {
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

    /// The operation at the present instruction pointer alone, decoded for this one time.
    pub fn single_op(&mut self, cpu: &mut Cpu) -> Result<SoftOp, Stop> {
        self.make_room();
        let rip = cpu.linear_rip();
        let physical = self.instruction_address(cpu, rip)?;
        let op = self.decode(cpu, rip, physical, 1)?.ops[0];
        if cpu.code_is_within_limit(op.length.into()) { Ok(op) } else { Err(cpu.general_protection()) }
    }

    /// The physical address of the instruction at the instruction pointer, which is `rip` as a linear address. CS's limit comes before
    /// paging.
    fn instruction_address(&mut self, cpu: &mut Cpu, rip: u64) -> Result<u64, Stop> {
        if !cpu.code_is_within_limit(1) {
            return Err(cpu.general_protection());
        }
        self.fetch_address(cpu, rip)
    }

    /// The physical address of code at a linear address.
    pub(super) fn fetch_address(&mut self, cpu: &mut Cpu, linear: u64) -> Result<u64, Stop> {
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
    pub(super) fn known_fetch_address(&self, cpu: &Cpu, linear: u64) -> Option<u64> {
        let entry = &self.fetch.entries[(linear / PAGE) as usize % ENTRIES];
        let known = entry.linear == linear & !(PAGE - 1) && entry.context == self.context(cpu);
        known.then_some(entry.physical + linear % PAGE)
    }

    pub(super) fn note_fetch_address(&mut self, cpu: &Cpu, linear: u64, translation: Translation) -> u64 {
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
        if !cpu.code_is_within_limit(inside as u64 + 1) {
            return Err(cpu.general_protection());
        }
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
    pub(super) fn watch(&mut self, source: Source<'_>, decoded: &[u8]) -> Origin {
        if self.ram.readers().is_one() && !source.page.code.has_code() {
            self.tlb.forbid_writes(source.page.host);
        }
        let code: *const _ = source.page.code;
        let version = source.page.code.decode_begins(source.offset, decoded.len() as u64, self.ram.readers());
        let mut now = [0; MAX_BYTES];
        let mut parts = (0..).step_by(MAX_BYTES).zip(decoded.chunks(MAX_BYTES));
        let is_the_same = parts.all(|(at, part)| {
            let now = &mut now[..part.len()];
            Source { offset: source.offset + at, ..source }.read(now);
            now == part
        });
        Origin::new(code, if is_the_same { version } else { version.wrapping_sub(1) })
    }

    /// Decodes up to `most` operations; the second value is how many bytes they take.
    fn decode_bytes(&mut self, mode: Mode, bytes: &[u8], most: usize, origin: Origin) -> (Block, usize) {
        let mut ops = std::mem::take(&mut self.decoded);
        ops.clear();
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
        let block = Block::new(&ops, instructions, mode, origin);
        self.decoded = ops;
        (block, used)
    }
}

/// Where code bytes come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) page: RamPage<'a>,
    pub(super) offset: u64,
}

impl Source<'_> {
    /// Copies the bytes, which stay inside the page, out of guest memory.
    pub(super) fn read(&self, bytes: &mut [u8]) {
        assert!(self.offset + bytes.len() as u64 <= PAGE, "code is read from one page");
        // SAFETY: the source lies in the page of RAM, the destination is ours.
        unsafe {
            host::copy::<u8>(self.page.host + self.offset, bytes.as_mut_ptr() as u64, bytes.len() as u64)
        };
    }
}

/// A page of code that never changes, for what is decoded from outside of RAM.
static FLOATING: CodePage = CodePage::new();
const NOWHERE: Origin = Origin::new(&raw const FLOATING, 0);

/// The linear address at which the page behind `rip`'s starts.
pub(super) fn next_page(cpu: &Cpu, rip: u64) -> u64 {
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
        cpu.rip = op.next_rip(cpu) & cpu.rip_mask();
    }
}
