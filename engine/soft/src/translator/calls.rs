//! What translated code asks of Rust.
//!
//! Each function gets the processor as translated code left it. Of the general registers, those that Rust keeps across
//! calls may still be in host registers; only [`operation`] and [`transfer`] find all of them in the processor.

use tern_engine::ExitKind;
use tern_x86::cpu::Cpu;
use tern_x86::cpu::word::BLOCK;
use tern_x86::decode::{MAX_INSTRUCTION_LENGTH, OpFlags};
use tern_x86::environment::Processor;
use tern_x86::exec::transfer::deliver_exception;
use tern_x86::state::SegmentRegister;

use super::frame::{Exit, Vectors};
use super::frequent::SAMPLED;
use crate::blocks::SoftOp;
use crate::code_page::CodePage;
use crate::environment::{Answer, SoftEnvironment, finish};
use crate::ram::PAGE;
use crate::tlb::{ALL_SITES, Hit};

/// Who accesses memory, as translated code tells with a question about it: where in the page the instruction is, or where control goes
/// on behind a store that is done, which site it has and how wide its access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accessor(pub u32);

impl Accessor {
    const OFFSET_MASK: u32 = 0x1fff;
    /// The site's number.
    pub const SITE_SHIFT: u32 = 13;
    /// The access's size in bytes.
    pub const SIZE_SHIFT: u32 = 26;
    /// The bits of the size's logarithm.
    pub const SIZE_MASK: u32 = 0xf;
    const GROUP: u32 = 1 << 30;
    /// The site's bits.
    pub const SITE_MASK: u32 = 0x1fff;
    const STACK: u32 = 1 << 31;
    /// In place of an offset, which is never so large.
    const JUMPS: u32 = 0x1fff;

    /// An access of `size` bytes, a power of two up to 256, by the instruction at `offset`: in the page, or where one ends that
    /// begins there.
    pub fn new(offset: usize, site: usize, size: usize, stack: bool) -> Self {
        debug_assert!(offset < PAGE as usize + MAX_INSTRUCTION_LENGTH);
        debug_assert!(site < ALL_SITES && size <= 256 && size.is_power_of_two());
        let stack = if stack { Self::STACK } else { 0 };
        Self(
            offset as u32 & Self::OFFSET_MASK
                | (site as u32) << Self::SITE_SHIFT
                | (size.trailing_zeros() & Self::SIZE_MASK) << Self::SIZE_SHIFT
                | stack,
        )
    }

    /// A store of `size` bytes before control goes to [`super::frame::LEADS_TO`].
    pub fn jumping(size: usize) -> Self {
        Self(Self::new(0, 0, size, false).0 | Self::JUMPS)
    }

    /// The same for all accesses of a group.
    pub const fn for_group(self) -> Self {
        Self(self.0 | Self::GROUP)
    }

    /// Whether it is [`Accessor::for_group`].
    pub const fn is_group(self) -> bool {
        self.0 & Self::GROUP != 0
    }

    /// Whether it is [`Accessor::jumping`].
    pub const fn jumps(self) -> bool {
        self.0 & Self::OFFSET_MASK == Self::JUMPS
    }

    /// The offset in the page, of the instruction or behind it.
    pub const fn offset(self) -> u64 {
        (self.0 & Self::OFFSET_MASK) as u64
    }

    /// The site's number.
    pub const fn site(self) -> usize {
        (self.0 >> Self::SITE_SHIFT & Self::SITE_MASK) as usize % ALL_SITES
    }

    /// The access's size in bytes.
    pub const fn size(self) -> u64 {
        1 << (self.0 >> Self::SIZE_SHIFT & Self::SIZE_MASK)
    }

    /// The segment that a non-canonical address is told by.
    pub const fn segment(self) -> SegmentRegister {
        if self.0 & Self::STACK != 0 { SegmentRegister::Ss } else { SegmentRegister::Ds }
    }
}

/// Operations at addresses that stay: translated code refers to them.
pub type Operations = Vec<Box<Operation>>;

/// An operation that translated code leaves to the interpreter and goes on after.
pub struct Operation {
    /// The operation, with offsets that count from the page's start.
    pub op: SoftOp,
    /// It reads or writes the arithmetic flags.
    pub touches_flags: bool,
    /// It may read or write the x87 registers ([`super::x87::touches`]).
    pub touches_x87: bool,
}

fn leave(p: &mut Processor<SoftEnvironment>, exit: Exit, offset: u64) {
    p.cpu.rip = p.cpu.gpr[BLOCK].wrapping_add(offset);
    p.env.translated.exit = exit;
}

/// What came of a question for a page.
#[repr(C)]
pub struct Reply {
    /// The answer, or what says that there is none.
    answer: u64,
    /// Where there is none, the code of the handler that goes on; null to leave.
    handler: *const u8,
}

impl Reply {
    const fn found(answer: u64) -> Self {
        Self { answer, handler: std::ptr::null() }
    }
}

/// A site does not know the page at `linear`, or does not remember it; `from` is where that was found out. Answers 1 if it does
/// now, else 0.
///
/// # Safety
/// `p` is the processor that runs, and no reference to it is in use.
pub unsafe extern "sysv64" fn miss(
    p: *mut Processor<SoftEnvironment>,
    linear: u64,
    accessor: u64,
    write: u64,
    from: u64,
) -> Reply {
    // SAFETY: the caller's promise.
    let p = unsafe { &mut *p };
    let accessor = Accessor(accessor as u32);
    if p.env.translated.miss_tick < 0 {
        p.env.translated.miss_tick = SAMPLED;
        // The table knew it.
        p.env.translated.hits += 1;
        p.env.sample_miss(&p.cpu, accessor, from);
    } else {
        p.env.translator.counters.misses += 1;
    }
    match ask(p, linear, accessor, write != 0, from) {
        Ok(hit) => {
            p.env.tlb.fill_site(accessor.site(), accessor.size(), linear, hit);
            Reply::found(1)
        }
        Err(handler) => Reply { answer: 0, handler },
    }
}

/// Where an access hits; or where an exception's handler goes on, null to leave. It was asked for at `from`.
fn ask(
    p: &mut Processor<SoftEnvironment>,
    linear: u64,
    accessor: Accessor,
    write: bool,
    from: u64,
) -> Result<Hit, *const u8> {
    let exit = match p.env.find_page(&mut p.cpu, linear, accessor, write) {
        Answer::Hit(hit) => return Ok(hit),
        // What a group's members do one by one is the interpreter's to find out.
        Answer::Stop(stop) if !accessor.is_group() => stop.into(),
        Answer::Device => {
            p.env.note_device(&p.cpu, accessor, from);
            Exit::Interpret
        }
        Answer::Interpret | Answer::Stop(_) => Exit::Interpret,
    };
    leave(p, exit, accessor.offset());
    Err(if exit == Exit::Exception { enter_handler(p) } else { std::ptr::null() })
}

/// Delivers the exception that translated code is to be left for, and returns the code of its handler; null to leave. In lockstep that
/// is the interpreter's; and outside of long mode, where it may be a task's, which has all registers of its own.
fn enter_handler(p: &mut Processor<SoftEnvironment>) -> *const u8 {
    if p.env.translator.is_verified() || !p.cpu.long_mode() {
        return std::ptr::null();
    }
    let exception = p.cpu.exception;
    p.cpu.flags = p.env.translated.unpack_flags();
    if deliver_exception(p, exception).is_err() {
        // Its stack is in a device that must be asked: the run loop begins once more.
        p.cpu.exception = exception;
        return std::ptr::null();
    }
    p.env.statistics.count(ExitKind::Exception);
    p.env.translated.charge_exception();
    go_on(p, OpFlags::CHECK_INTERRUPTS)
}

/// The code at the instruction pointer, where translated code goes on behind something with these flags; null to leave.
fn go_on(p: &mut Processor<SoftEnvironment>, flags: OpFlags) -> *const u8 {
    p.env.forget_answers();
    let Some(code) = p.env.next_code(&mut p.cpu, flags) else {
        p.env.translated.exit = Exit::Jump;
        // Whoever runs the processor looks at everything.
        p.env.unchained = true;
        return std::ptr::null();
    };
    p.env.translated.update_usable(&p.cpu);
    // The code that goes on loads them if it needs them.
    p.env.translated.vectors_loaded = Vectors::None;
    if !p.env.translated.x87_usable {
        p.env.translated.put_back_x87(&mut p.cpu);
    }
    code
}

/// The table does not know the page of an access without a site at `linear`; `from` is where that was found out. Answers with its
/// host address, or `u64::MAX`.
///
/// # Safety
/// As [`miss`].
pub unsafe extern "sysv64" fn table_miss(
    p: *mut Processor<SoftEnvironment>,
    linear: u64,
    accessor: u64,
    write: u64,
    from: u64,
) -> Reply {
    // SAFETY: the caller's promise.
    let p = unsafe { &mut *p };
    p.env.translator.counters.misses += 1;
    match ask(p, linear, Accessor(accessor as u32), write != 0, from) {
        Ok(hit) => {
            p.env.translated.note_written(hit.code);
            Reply::found(hit.host)
        }
        Err(handler) => Reply { answer: u64::MAX, handler },
    }
}

/// The interpreter executes an operation. Returns 0 to go on behind it, 1 to leave.
///
/// # Safety
/// `p` is the processor that runs, and no reference to it is in use; `operation` is the running code's.
pub unsafe extern "sysv64" fn operation(
    p: *mut Processor<SoftEnvironment>,
    operation: *const Operation,
) -> u64 {
    // SAFETY: the caller's promise.
    let (p, Operation { op, touches_flags, touches_x87 }) = unsafe { (&mut *p, &*operation) };
    if *touches_flags {
        p.cpu.flags = p.env.translated.unpack_flags();
    }
    p.env.translator.counters.operations += 1;
    // An operation that writes over code that may be the running one's puts a null there.
    p.env.block_end = op;
    let x87_was_loaded = *touches_x87 && p.env.translated.put_back_x87(&mut p.cpu);
    let before = (p.env.translated.usable(), p.cpu.mode);
    let ran = (op.run)(p, op);
    if *touches_flags {
        p.env.translated.pack_flags(p.cpu.flags);
    }
    match ran {
        Ok(()) => {
            p.env.forget_answers();
            p.env.translated.update_usable(&p.cpu);
            // It may have taken long, or have done something to interrupts or to code.
            let goes_on = !p.env.block_end.is_null()
                && !p.env.unchained
                && !p.env.mailbox.attention()
                && !p.env.code_was_written()
                && before == (p.env.translated.usable(), p.cpu.mode);
            if !goes_on {
                leave(p, Exit::Jump, u64::from(op.offset) + u64::from(op.length));
            } else if x87_was_loaded {
                p.env.translated.load_x87(&p.cpu);
            }
            u64::from(!goes_on)
        }
        Err(stop) => {
            leave(p, stop.into(), u64::from(op.offset));
            1
        }
    }
}

/// The interpreter executes an operation that may lead anywhere. Returns where translated code goes on; null to leave.
///
/// # Safety
/// As [`operation`].
pub unsafe extern "sysv64" fn transfer(
    p: *mut Processor<SoftEnvironment>,
    operation: *const Operation,
) -> *const u8 {
    // SAFETY: the caller's promise.
    let (p, Operation { op, touches_x87, .. }) = unsafe { (&mut *p, &*operation) };
    if *touches_x87 {
        p.env.translated.put_back_x87(&mut p.cpu);
    }
    p.cpu.flags = p.env.translated.unpack_flags();
    p.env.translator.counters.operations += 1;
    p.env.block_end = op;
    let ran = (op.run)(p, op);
    p.env.translated.pack_flags(p.cpu.flags);
    match ran {
        Ok(()) => {
            finish(&mut p.cpu, op);
            go_on(p, op.flags)
        }
        Err(stop) => {
            leave(p, stop.into(), u64::from(op.offset));
            std::ptr::null()
        }
    }
}

/// Returns 1 if the host's x87 registers are the guest's now, 0 if they cannot be.
///
/// # Safety
/// As [`miss`].
pub unsafe extern "sysv64" fn load_x87(p: *mut Processor<SoftEnvironment>) -> u64 {
    // SAFETY: the caller's promise.
    let p = unsafe { &mut *p };
    p.env.translated.load_x87(&p.cpu);
    u64::from(p.env.translated.x87_loaded)
}

/// What to do where there is no code for an instruction pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Otherwise(u32);

impl Otherwise {
    const JUMP: u32 = 1 << 31;

    /// To leave for it.
    pub const fn jump() -> Self {
        Self(Self::JUMP)
    }

    /// To let the interpreter execute the instruction at `offset` of the page.
    pub const fn interpret(offset: usize) -> Self {
        Self(offset as u32 & Accessor::OFFSET_MASK)
    }

    /// As translated code passes it.
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }
}

/// Where the code for the instruction pointer `rip` is, which the jump table knows then; null to leave.
///
/// # Safety
/// As [`miss`].
pub unsafe extern "sysv64" fn resolve(
    p: *mut Processor<SoftEnvironment>,
    rip: u64,
    otherwise: u64,
) -> *const u8 {
    // SAFETY: the caller's promise.
    let p = unsafe { &mut *p };
    if let Some(code) = p.env.resolve(&mut p.cpu, rip) {
        return code;
    }
    match Otherwise(otherwise as u32) {
        Otherwise(Otherwise::JUMP) => {
            p.cpu.rip = rip;
            p.env.translated.exit = Exit::Jump;
        }
        Otherwise(offset) => leave(p, Exit::Interpret, u64::from(offset)),
    }
    std::ptr::null()
}

/// A store to `host` is done, in a page that code was decoded from. Returns 0 to go on, 1 to leave.
///
/// # Safety
/// `p` is the processor that runs, and no reference to it is in use; `code` is what its TLB has for the page.
pub unsafe extern "sysv64" fn code_written(
    p: *mut Processor<SoftEnvironment>,
    host: u64,
    code: *const CodePage,
    accessor: u64,
) -> u64 {
    // SAFETY: the caller's promise.
    let (p, code) = unsafe { (&mut *p, &*code) };
    let accessor = Accessor(accessor as u32);
    let must_look = p.env.note_code_write(code, host % PAGE, accessor.size());
    if must_look {
        leave(p, Exit::Jump, accessor.offset());
        if accessor.jumps() {
            p.cpu.rip = p.env.translated.jump_target();
        }
    }
    u64::from(must_look)
}

/// What may run as it is, and the flags, noted for translated code.
pub fn prepare(cpu: &Cpu, env: &mut SoftEnvironment) {
    env.translated.update_usable(cpu);
    env.translated.pack_flags(cpu.flags);
}
