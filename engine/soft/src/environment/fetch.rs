//! Where the next block is: from the instruction pointer to decoded code.

use std::sync::Arc;

use tern_x86::cpu::{Cpu, Mode, canonical};
use tern_x86::decode::{BlockDecoder, MAX_INSTRUCTION_LENGTH, OpFlags};
use tern_x86::environment::Processor;
use tern_x86::exception::Stop;
use tern_x86::paging::{self, Access, AccessKind};

use super::SoftEnvironment;
use crate::blocks::{Block, MAX_OPS, Origin, SoftOp};
use crate::host;
use crate::ram::{PAGE, Ram, RamPage};

/// Bytes of one page that a block may take.
const MAX_BYTES: usize = 512;

/// Entries of the [`FetchCache`].
const ENTRIES: usize = 128;

/// Recent translations of code pages.
#[derive(Debug)]
pub struct FetchCache {
    entries: Box<[Translated; ENTRIES]>,
}

#[derive(Debug, Clone, Copy)]
struct Translated {
    linear: u64,
    context: u64,
    physical: u64,
}

impl FetchCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self { entries: Box::new([Translated { linear: 0, context: u64::MAX, physical: 0 }; ENTRIES]) }
    }
}

impl SoftEnvironment {
    /// What a translation of code is valid for: translations, privilege and mode.
    #[inline(always)]
    fn context(&self, cpu: &Cpu) -> u64 {
        self.epoch << 16 | u64::from(cpu.cpl == 3) << 8 | u64::from(cpu.mode.bits())
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
        let block = self.decode(cpu, rip, physical, MAX_OPS)?;
        let crosses = block.second.is_some();
        let block = self.blocks.insert(physical, cpu.mode, block);
        if !crosses {
            self.jumps.insert(rip, context, block);
        }
        Ok(block)
    }

    /// Drops all decoded code if another block might not find room. No block may be running.
    fn make_room(&mut self) {
        if self.blocks.is_full() || self.native.room() < MAX_OPS {
            self.blocks.clear();
            self.jumps.clear();
            self.native.clear();
            self.unchained = true;
        }
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
        let (page, context) = (linear & !(PAGE - 1), self.context(cpu));
        let slot = (linear / PAGE) as usize % ENTRIES;
        let entry = &self.fetch.entries[slot];
        if entry.linear == page && entry.context == context {
            return Ok(entry.physical + linear % PAGE);
        }
        let access = Access::explicit(cpu, AccessKind::Execute);
        let translation =
            paging::translate(cpu, &mut &*self.ram, linear, access).map_err(|fault| cpu.raise(fault))?;
        let physical = translation.physical & !(PAGE - 1);
        self.fetch.entries[slot] = Translated { linear: page, context, physical };
        Ok(translation.physical)
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
            block.origin = first.watch(&ram, &bytes[..used]);
            return Ok(block);
        }
        // The page ends inside the first instruction.
        let next = self.fetch_address(cpu, next_page(cpu, rip))?;
        let second = ram.page(next).map(|page| Source { page, offset: 0 });
        if let Some(second) = &second {
            second.read(&mut bytes[inside..MAX_INSTRUCTION_LENGTH]);
        }
        let (mut block, used) = self.decode_bytes(cpu.mode, &bytes[..MAX_INSTRUCTION_LENGTH], 1, NOWHERE);
        block.origin = first.watch(&ram, &bytes[..inside]);
        let rest = &bytes[inside..used.max(inside)];
        let origin = second.map_or(NOWHERE, |second| second.watch(&ram, rest));
        block.second = Some((next, origin));
        Ok(block)
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
        (Block { ops: ops.into(), instructions, origin, second: None, links: Block::NO_LINKS }, used)
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
        for (n, byte) in (0u64..).zip(bytes) {
            debug_assert!(self.offset + n < PAGE);
            // SAFETY: the byte lies in the page of RAM.
            *byte = unsafe { host::load::<u8>(self.page.host + self.offset + n) };
        }
    }

    /// Has writes to the bytes noticed from now on. If they are not `decoded` any more, the block is born stale.
    fn watch(&self, ram: &Ram, decoded: &[u8]) -> Origin {
        let code: *const _ = self.page.code;
        let version = ram.decode_begins(self.page.code, self.offset, decoded.len() as u64);
        let mut now = [0; MAX_BYTES];
        let now = &mut now[..decoded.len()];
        self.read(now);
        Origin::new(code, if now == decoded { version } else { version.wrapping_sub(1) })
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
