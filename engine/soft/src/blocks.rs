//! Decoded code: blocks of straight-line operations, found by the physical address and the mode they were decoded for.
//!
//! A block never reaches into a second page, except for one that consists of a single instruction across the boundary.
//! It is stale when the version of a page it was decoded from has moved on ([`crate::code_page`]).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use tern_x86::cpu::Mode;
use tern_x86::decode::Op;

use crate::code_page::CodePage;
use crate::environment::SoftEnvironment;
use crate::tlb::REMEMBERED;
use crate::translator::{Route, Translated};

/// The operation type of this engine.
pub type SoftOp = Op<SoftEnvironment>;

/// Most operations of a block.
pub const MAX_OPS: usize = 64;
/// What a block itself takes, in operations.
const BLOCK_WEIGHT: usize = 5;

/// The page a block was decoded from, as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    page: *const CodePage,
    version: u32,
}

impl Origin {
    /// Code decoded from `page` at `version`.
    pub const fn new(page: *const CodePage, version: u32) -> Self {
        Self { page, version }
    }

    /// The page's version, which tells the code apart that has been there.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Whether the page's code is still what was decoded.
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        // SAFETY: it points into the `Ram` that the environment, which also owns the blocks, keeps alive.
        unsafe { (*self.page).version() == self.version }
    }
}

/// The pages a block was decoded from, one or two.
#[derive(Debug, Clone, Copy)]
pub struct Origins([Origin; 2]);

impl Origins {
    /// Whether the code is still what was decoded.
    pub fn are_current(&self) -> bool {
        self.0.iter().all(Origin::is_current)
    }
}

/// A remembered successor: the block that starts `delta` bytes from this one's start, in the same page.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Distance of the instruction pointers.
    pub delta: u64,
    /// The successor; null if there is none.
    pub block: *mut Block,
}

/// Straight-line code.
pub struct Block {
    /// The operations, at least one.
    pub ops: Box<[SoftOp]>,
    /// How many guest instructions they are.
    pub instructions: u32,
    /// The mode that they were decoded for.
    pub mode: Mode,
    /// Where they were decoded from.
    pub origin: Origin,
    /// The second page and its physical address, of an instruction across a page boundary.
    pub second: Option<(u64, Origin)>,
    /// The last two successors in the same page.
    pub links: [Link; 2],
    /// The physical address of its first byte.
    pub physical: u64,
    /// How often it was executed, roughly, while it was not translated.
    pub heat: u32,
    /// Which way control mostly goes from it on, as far as that is known.
    pub route: Route,
    /// How often one of its units has run, in lockstep.
    pub runs: u32,
    /// The translated units that begin where it begins, by view of memory.
    pub units: [UnitState; REMEMBERED],
    /// The same without groups of accesses.
    pub plain_units: [UnitState; REMEMBERED],
}

/// What became of a block's translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// It was not tried.
    Cold,
    /// It is not possible.
    Untranslatable,
    /// There it is.
    Translated(Translated),
}

impl UnitState {
    /// The unit, if there is one.
    pub const fn translated(self) -> Option<Translated> {
        match self {
            Self::Translated(unit) => Some(unit),
            Self::Cold | Self::Untranslatable => None,
        }
    }
}

impl Block {
    /// A block without successors, whose physical address is not known yet.
    pub fn new(ops: &[SoftOp], instructions: u32, mode: Mode, origin: Origin) -> Self {
        Self {
            ops: ops.into(),
            instructions,
            mode,
            origin,
            second: None,
            links: [Link { delta: 0, block: std::ptr::null_mut() }; 2],
            physical: 0,
            heat: 0,
            route: Route::default(),
            runs: 0,
            units: [UnitState::Cold; REMEMBERED],
            plain_units: [UnitState::Cold; REMEMBERED],
        }
    }

    /// How many bytes of code it was made from.
    pub fn bytes(&self) -> u64 {
        self.ops.last().map_or(0, |op| u64::from(op.offset) + u64::from(op.length))
    }

    /// Where all of it was decoded from.
    pub fn origins(&self) -> Origins {
        Origins([self.origin, self.second.map_or(self.origin, |(_, second)| second)])
    }
}

/// Multiplies; keys are addresses and differ in their low bits.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed");
    }
    fn write_u64(&mut self, key: u64) {
        let product = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}

/// All blocks of one processor.
pub struct Blocks {
    map: HashMap<u64, *mut Block, BuildHasherDefault<AddressHasher>>,
    /// Owns the blocks, stale ones included, until everything is dropped: links may lead to any of them.
    all: Vec<*mut Block>,
    operations: usize,
    capacity: usize,
}

// SAFETY: the blocks are reachable from this owner only; what they point to beyond is `Ram`, which any thread may read.
unsafe impl Send for Blocks {}

fn key(physical: u64, mode: Mode) -> u64 {
    physical << 8 | u64::from(mode.bits())
}

impl Blocks {
    /// No blocks, which may take about so many bytes.
    pub fn new(bytes: usize) -> Self {
        let capacity = bytes / size_of::<SoftOp>();
        Self { map: HashMap::default(), all: Vec::new(), operations: 0, capacity }
    }

    /// The block at `physical`, if there is a current one.
    pub fn find(&self, physical: u64, mode: Mode) -> Option<*mut Block> {
        let block = *self.map.get(&key(physical, mode))?;
        // SAFETY: every pointer in the map is owned by `all`.
        unsafe { (*block).origin.is_current() }.then_some(block)
    }

    /// Whether [`Blocks::clear`] is due. It may be called only while no block runs.
    pub const fn is_full(&self) -> bool {
        self.operations >= self.capacity
    }

    /// Drops every block. No pointer to one may be used afterwards.
    pub fn clear(&mut self) {
        self.map.clear();
        self.operations = 0;
        for block in self.all.drain(..) {
            // SAFETY: it came from `Box::into_raw` and leaves the list that owns it.
            drop(unsafe { Box::from_raw(block) });
        }
    }

    /// Keeps a block and makes it the one at `physical`.
    pub fn insert(&mut self, physical: u64, mode: Mode, block: Block) -> *mut Block {
        self.operations += block.ops.len() + BLOCK_WEIGHT;
        let block = Box::into_raw(Box::new(block));
        self.all.push(block);
        self.map.insert(key(physical, mode), block);
        block
    }

    /// How many blocks are kept.
    pub const fn len(&self) -> usize {
        self.all.len()
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Entries of the [`JumpCache`]: 384 KiB of host memory, once they are used. A large program's code is executed a few times and then no
/// more, and what is not found here takes three lines of the host's memory.
const JUMPS: usize = 1 << 14;

/// From a linear instruction pointer straight to its block, as long as no translation has changed.
pub struct JumpCache {
    entries: Box<[Jump; JUMPS]>,
}

#[derive(Clone, Copy)]
struct Jump {
    rip: u64,
    /// What the entry is valid for: the environment's epoch, the mode and the privilege. Epochs begin at 1: zero is no context.
    context: u64,
    block: *mut Block,
}

// SAFETY: as for `Blocks`, which owns what the entries point to.
unsafe impl Send for JumpCache {}

impl JumpCache {
    /// An empty cache.
    pub fn new() -> Self {
        // SAFETY: zeroes are entries without a context, whose pointers nobody follows.
        Self { entries: unsafe { Box::new_zeroed().assume_init() } }
    }

    const fn index(rip: u64) -> usize {
        (rip ^ rip >> 12) as usize % JUMPS
    }

    /// The block for `rip` in `context`.
    #[inline(always)]
    pub fn find(&self, rip: u64, context: u64) -> Option<*mut Block> {
        let entry = &self.entries[Self::index(rip)];
        (entry.rip == rip && entry.context == context).then_some(entry.block)
    }

    /// Remembers a block.
    #[inline]
    pub fn insert(&mut self, rip: u64, context: u64, block: *mut Block) {
        self.entries[Self::index(rip)] = Jump { rip, context, block };
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}
