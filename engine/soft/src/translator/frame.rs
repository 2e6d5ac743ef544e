//! What translated code shares with the rest of the engine, and where it finds it.
//!
//! While translated code runs, RSP is the address of the [`Processor`]; everything here is at a distance from it.
//!
//! | host register | holds |
//! |---|---|
//! | RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R12 to R15 | the guest's register of that name |
//! | R9 | the guest's RSP |
//! | R10, R11 | scratch; the guest's R9, R10 and R11 stay in memory, as they are used least, but see `emit/scratch` |
//! | XMM0 to XMM15, MXCSR | the guest's, if [`RunState::vectors_loaded`] says so |
//! | YMM0 to YMM15 | the guest's, if it says that; else their upper halves are anything |
//! | ST(0) to ST(7), and with them MM0 to MM7, FCW, FSW | the guest's, if [`RunState::x87_loaded`] says so |
//! | RFLAGS | the guest's arithmetic flags, where the translator says so; else they are in [`RunState::flags`], or dead |

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;

use tern_engine::TickLine;
use tern_x86::cpu::word::BLOCK;
use tern_x86::cpu::{Cpu, LazyFlags};
use tern_x86::environment::Processor;
use tern_x86::exception::Stop;
use tern_x86::state::{Cr0, Cr4, FpuState, Msrs, Mxcsr, PendingEvent, Rflags, Segment, SegmentRegister};

use super::assembler::{Assembler, Label, NOT_EQUAL, R10, R11};
use super::fast_call::FastCalls;
use super::frequent::SAMPLED;
use super::jumps::{self, JumpTable, Jumps};
use super::returns::ReturnPlace;
use super::x87;
use crate::code_page::CodePage;
use crate::environment::SoftEnvironment;
use crate::profile::gauge::Gauge;
use crate::stage;
use crate::tlb::{REMEMBERED, View, place};
use crate::vcpu::STOP_WEIGHT;

type P = Processor<SoftEnvironment>;

/// Why translated code gave control back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// To go on at `Cpu::rip`.
    Jump = 0,
    /// As [`Exit::Jump`], and a jump in the same page may be led there: [`RunState::payload`] tells which.
    Link = 1,
    /// The instruction at `Cpu::rip` is the interpreter's.
    Interpret = 2,
    /// It raised an exception, which is in `Cpu::exception`.
    Exception = 3,
    /// It needs an answer from outside.
    Question = 4,
    /// It did a part of its work.
    Restart = 5,
    /// As [`Exit::Link`], to code without groups: one would reach into a second page.
    Plain = 6,
}

impl From<Stop> for Exit {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Exception => Self::Exception,
            Stop::Exit => Self::Question,
            Stop::Restart => Self::Restart,
        }
    }
}

/// Entries of the jump table of level 3, which is forgotten at every switch of address spaces.
const USER_JUMPS: usize = 1 << 14;
/// Entries of the jump table of levels 0 to 2.
const SUPERVISOR_JUMPS: usize = 1 << 14;
/// Entries of the jump table of levels 0 to 2 with the override of SMAP, under which little code runs.
const SUPERVISOR_AC_JUMPS: usize = 1 << 9;

/// Which of the guest's vector registers the host's are, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Vectors {
    /// None.
    None = 0,
    /// XMM registers.
    Xmm = 1,
    /// YMM registers: the guest has enabled AVX.
    Ymm = 2,
}

/// The part of the processor's surroundings that is translated code's own.
#[derive(Debug)]
#[repr(C)]
pub struct RunState {
    /// The arithmetic flags in memory: OF in bit 0, and bits 15:8 as LAHF gives them.
    pub flags: u16,
    /// Which of the host's vector registers are the guest's, and with them MXCSR.
    pub vectors_loaded: Vectors,
    /// Which of them the guest may use; none if MXCSR does not mask every exception.
    pub vectors_usable: Vectors,
    /// The host's x87 registers are the guest's. They may be used then.
    pub x87_loaded: bool,
    /// The guest may use them, and no exception is unmasked.
    pub x87_usable: bool,
    /// Misses of sites until one is looked at.
    pub miss_tick: i32,
    /// The straight line on which the guest's time-stamp counter is for a while, which code may read by itself.
    pub time_stamps: TickLine,
    /// What SYSCALL and SYSRET do to the processor.
    pub fast_calls: FastCalls,
    /// Set when the run loop should look at what has come from outside.
    pub attention: *const AtomicBool,
    /// By view of memory: its jump table is for 64-bit code, else for code of 32 bits.
    pub jumps_are_wide: [bool; REMEMBERED],
    /// Guest instructions until time must be looked at; negative when it must.
    pub budget: i32,
    /// What the budget was at the start.
    pub granted: i32,
    /// An interrupt may wait for RFLAGS.IF.
    pub window: bool,
    /// Why control came back.
    pub exit: Exit,
    /// The host's MXCSR for Rust code.
    host_mxcsr: u32,
    /// For [`Exit::Link`], the address behind the call that asked.
    pub payload: u64,
    /// When time was up, the address behind the call that said so, in the unit that ran then; else 0.
    pub timed: u64,
    /// The stack pointer of whoever entered.
    host_stack: u64,
    /// Where it is noted what the processor is at.
    pub gauge: *const Gauge,
    /// Checks of accesses that found their page, if units count them. A group has one check; that of a group in two pages counts
    /// neither here nor as a miss.
    pub hits: u64,
    scratch: [u64; 6],
    groups: [Group; GROUPS],
    /// Indirect jumps of level 3.
    pub user: JumpTable<USER_JUMPS>,
    /// Indirect jumps of levels 0 to 2.
    pub supervisor: JumpTable<SUPERVISOR_JUMPS>,
    /// The same with the override of SMAP.
    pub supervisor_ac: JumpTable<SUPERVISOR_AC_JUMPS>,
}

/// How many groups of a unit have a place here.
pub const GROUPS: usize = 16;

/// SF, ZF, AF, PF and CF.
pub const LOW_FLAGS: i32 = 0xd5;
/// OF's bit in RFLAGS.
pub const OVERFLOW_SHIFT: u8 = 11;

/// The arithmetic flags as [`RunState::flags`] has them.
#[inline]
pub const fn pack(flags: Rflags) -> u16 {
    (flags.bits() as u16 & LOW_FLAGS as u16) << 8 | (flags.bits() >> OVERFLOW_SHIFT) as u16 & 1
}

/// Jumps to a place if an interrupt waits for IF, or anything has come since translated code was entered. R10 is lost.
pub fn jump_if_waiting(a: &mut Assembler, to: Label) {
    a.cmp_byte_zero(WINDOW);
    a.jcc(NOT_EQUAL, to);
    a.load(R10, ATTENTION);
    a.cmp_byte_at_zero(R10);
    a.jcc(NOT_EQUAL, to);
}

/// Stores RFLAGS to a place in the frame: R10, which has all but the arithmetic flags, with those of [`RunState::flags`]. R11 is lost.
pub fn store_rflags(a: &mut Assembler, to: i32) {
    a.load_byte(R11, FLAGS + 1);
    a.and_immediate32(R11, LOW_FLAGS);
    a.or(R11, R10);
    a.store(to, R11);
    a.load_byte(R11, FLAGS);
    a.shl32(R11, OVERFLOW_SHIFT);
    a.or_frame(to, R11);
}

/// What the first member of a group found, for the others.
#[derive(Debug)]
#[repr(C)]
struct Group {
    /// How far host addresses are from linear ones.
    delta: u64,
    /// Where writers look for decoded code.
    code: *const CodePage,
}

/// Where a group's things are.
#[derive(Debug, Clone, Copy)]
pub struct GroupPlace {
    /// How far host addresses are from linear ones.
    pub delta: i32,
    /// Where writers look for decoded code.
    pub code: i32,
}

/// The place of group `number`, less than [`GROUPS`], of the running unit.
pub const fn group(number: usize) -> GroupPlace {
    assert!(number < GROUPS);
    let place = STATE + offset_of!(RunState, groups) + number * size_of::<Group>();
    GroupPlace { delta: at(place + offset_of!(Group, delta)), code: at(place + offset_of!(Group, code)) }
}

impl RunState {
    /// Nothing loaded and empty jump tables, in zeroed memory at `place`. What a return to address 0 leads to is still to be said
    /// ([`RunState::set_code_at_zero`]).
    ///
    /// # Safety
    /// There is room for it, zeroed, aligned and nobody else's.
    pub unsafe fn make_at(place: NonNull<Self>) {
        // SAFETY: all-zero bytes are a state with nothing loaded and tables of zeroes.
        let state = unsafe { &mut *place.as_ptr() };
        state.miss_tick = SAMPLED;
        state.jumps_are_wide = [true; REMEMBERED];
        state.host_mxcsr = Mxcsr::MASKS.bits();
        state.user.make_empty();
        state.supervisor.make_empty();
        state.supervisor_ac.make_empty();
    }

    /// Where returns to address 0 are led ([`super::stubs::Stubs::leave_for`]), which must be said before code runs.
    pub fn set_code_at_zero(&mut self, code: *const u8) {
        self.user.returns.make_empty(code);
        self.supervisor.returns.make_empty(code);
        self.supervisor_ac.returns.make_empty(code);
    }

    /// Takes the arithmetic flags over from the processor.
    #[inline]
    pub fn pack_flags(&mut self, flags: LazyFlags) {
        self.flags = pack(flags.bits());
    }

    /// The arithmetic flags as the processor keeps them.
    #[inline]
    pub fn unpack_flags(&self) -> LazyFlags {
        let low = u64::from(self.flags >> 8) & LOW_FLAGS as u64;
        let bits = low | u64::from(self.flags & 1) << OVERFLOW_SHIFT;
        LazyFlags::from_bits(Rflags::from_bits_truncate(bits))
    }

    /// An exception was delivered: it is one instruction, and as much work as [`STOP_WEIGHT`] of them. By how much the grant is less
    /// then, time is to be looked at sooner.
    pub const fn charge_exception(&mut self) {
        self.budget -= STOP_WEIGHT as i32;
        self.granted -= STOP_WEIGHT as i32 - 1;
    }

    /// Guest instructions since translated code was entered.
    pub fn instructions(&self) -> u64 {
        u64::try_from(i64::from(self.granted) - i64::from(self.budget)).unwrap_or_default()
    }

    /// The jump table of a view. Code is not translated for the view that demands alignment; it may have any.
    #[inline]
    pub fn jumps(&mut self, view: View) -> &mut dyn Jumps {
        match view {
            View::User | View::AlignedUser => &mut self.user,
            View::Supervisor => &mut self.supervisor,
            View::SupervisorAc => &mut self.supervisor_ac,
        }
    }

    /// Where an instruction leads that stores before it jumps.
    pub const fn jump_target(&self) -> u64 {
        self.scratch[5]
    }

    /// Notes where an access that the table was asked about, and that writes, looks for code.
    pub fn note_written(&mut self, code: *const CodePage) {
        self.scratch[3] = code as u64;
    }

    /// What may run as it is: which vector registers, and whether x87.
    pub const fn usable(&self) -> (Vectors, bool) {
        (self.vectors_usable, self.x87_usable)
    }

    /// Looks whether vector and x87 instructions may run as they are.
    #[inline]
    pub fn update_usable(&mut self, cpu: &Cpu) {
        let enabled = !cpu.cr0.intersects(Cr0::EM.union(Cr0::TS));
        self.x87_usable = enabled && x87::is_loadable(&cpu.fpu);
        let usable = enabled && cpu.cr4.contains(Cr4::OSFXSR) && cpu.fpu.mxcsr().contains(Mxcsr::MASKS);
        self.vectors_usable = match usable {
            false => Vectors::None,
            true if cpu.avx_enabled() => Vectors::Ymm,
            true => Vectors::Xmm,
        };
    }
}

/// The x87 registers, which are the host's or the processor's.
impl RunState {
    /// Makes them the host's if they may be used.
    pub fn load_x87(&mut self, cpu: &Cpu) {
        if self.x87_usable && !self.x87_loaded {
            // SAFETY: they are loadable, and `put_back_x87` comes before anything that uses x87.
            unsafe { x87::load(&cpu.fpu) };
            self.x87_loaded = true;
        }
    }

    /// Makes them the processor's. Returns whether they were the host's.
    pub fn put_back_x87(&mut self, cpu: &mut Cpu) -> bool {
        let were = std::mem::take(&mut self.x87_loaded);
        if were {
            // SAFETY: they are loaded.
            unsafe { x87::save(&mut cpu.fpu) };
        }
        were
    }
}

const fn at(offset: usize) -> i32 {
    assert!(offset < i32::MAX as usize);
    offset as i32
}

const STATE: usize = stage::RUN_STATE;
const TLB: usize = stage::TLB;
const FPU: usize = offset_of!(P, cpu) + offset_of!(Cpu, fpu);

/// `Cpu::rip`.
pub const RIP: i32 = at(offset_of!(P, cpu) + offset_of!(Cpu, rip));
/// The linear address of the page that the code lies in.
pub const PAGE_BASE: i32 = gpr(BLOCK);
/// [`RunState::flags`].
pub const FLAGS: i32 = at(STATE + offset_of!(RunState, flags));
/// [`RunState::vectors_loaded`].
pub const VECTORS_LOADED: i32 = at(STATE + offset_of!(RunState, vectors_loaded));
/// [`RunState::vectors_usable`].
pub const VECTORS_USABLE: i32 = at(STATE + offset_of!(RunState, vectors_usable));
/// [`RunState::x87_loaded`].
pub const X87_LOADED: i32 = at(STATE + offset_of!(RunState, x87_loaded));
/// A part of [`RunState::time_stamps`]; `field` is its distance from the line's start.
pub const fn time_stamps(field: usize) -> i32 {
    at(STATE + offset_of!(RunState, time_stamps) + field)
}

/// A part of [`RunState::fast_calls`]; `field` is its distance from their start.
pub const fn fast_calls(field: usize) -> i32 {
    at(STATE + offset_of!(RunState, fast_calls) + field)
}

/// Whether the jump table of a view, one of the [`REMEMBERED`], is for 64-bit code.
pub const fn jumps_are_wide(view: View) -> i32 {
    assert!((view as usize) < REMEMBERED);
    at(STATE + offset_of!(RunState, jumps_are_wide) + view as usize)
}

/// [`RunState::attention`].
pub const ATTENTION: i32 = at(STATE + offset_of!(RunState, attention));
/// Who accesses memory: a [`View`], of which the lower half is written.
pub const VIEW: i32 = at(offset_of!(P, env) + SoftEnvironment::VIEW);
/// LSTAR.
pub const LSTAR: i32 = at(offset_of!(P, cpu) + offset_of!(Cpu, msrs) + offset_of!(Msrs, lstar));
/// TSC_AUX.
pub const TSC_AUX: i32 = at(offset_of!(P, cpu) + offset_of!(Cpu, msrs) + offset_of!(Msrs, tsc_aux));
/// [`RunState::budget`].
pub const BUDGET: i32 = at(STATE + offset_of!(RunState, budget));
/// Where a call leads, while it pushes: an instruction pointer.
pub const LEADS_TO: i32 = scratch(5);
/// What is pushed that no guest register holds.
pub const PUSHED: i32 = scratch(4);
/// [`RunState::miss_tick`].
pub const MISS_TICK: i32 = at(STATE + offset_of!(RunState, miss_tick));
/// The code page of the page that an access has written which the table was asked about.
pub const WRITTEN: i32 = scratch(3);
/// [`RunState::exit`].
pub const EXIT: i32 = at(STATE + offset_of!(RunState, exit));
/// The host's MXCSR.
pub const HOST_MXCSR: i32 = at(STATE + offset_of!(RunState, host_mxcsr));
/// [`RunState::payload`].
pub const PAYLOAD: i32 = at(STATE + offset_of!(RunState, payload));
/// [`RunState::timed`].
pub const TIMED: i32 = at(STATE + offset_of!(RunState, timed));
/// The stack pointer of whoever entered.
pub const HOST_STACK: i32 = at(STATE + offset_of!(RunState, host_stack));
/// [`RunState::gauge`].
pub const GAUGE: i32 = at(STATE + offset_of!(RunState, gauge));
/// [`RunState::hits`].
pub const HITS: i32 = at(STATE + offset_of!(RunState, hits));
/// MXCSR in the guest's FXSAVE image.
pub const GUEST_MXCSR: i32 = at(FPU + FpuState::MXCSR_OFFSET);

/// Where a call will go, while it pushes: the address of host code.
pub const CALLED: i32 = scratch(2);

/// The privilege level.
pub const CPL: i32 = at(offset_of!(P, cpu) + offset_of!(Cpu, cpl));
/// RFLAGS without the arithmetic flags.
pub const SYSTEM_FLAGS: i32 = at(offset_of!(P, cpu) + offset_of!(Cpu, system_flags));
/// A segment register.
pub const fn segment(register: SegmentRegister) -> i32 {
    segment_by_number(register as usize)
}

const fn segment_by_number(number: usize) -> i32 {
    at(offset_of!(P, cpu) + offset_of!(Cpu, segments) + number * size_of::<Segment>())
}

/// The selector in a segment register, by its number in encodings.
pub const fn selector(number: usize) -> i32 {
    segment_by_number(number) + at(offset_of!(Segment, selector))
}

/// The base of GS in the segment register.
pub const GS_BASE: i32 = segment(SegmentRegister::Gs) + offset_of!(Segment, base) as i32;
/// The base that SWAPGS exchanges it with.
pub const KERNEL_GS_BASE: i32 =
    at(offset_of!(P, cpu) + offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base));
/// Interrupts are held off for one instruction.
pub const INTERRUPT_SHADOW: i32 =
    at(offset_of!(P, cpu) + offset_of!(Cpu, pending) + offset_of!(PendingEvent, interrupt_shadow));
/// [`RunState::window`].
pub const WINDOW: i32 = at(STATE + offset_of!(RunState, window));

/// One of the places in memory that keep nothing between guest instructions. What is called has the first for a
/// [`super::calls::Accessor`], and code for a control word; the second is R10's, of both; the others have names of their own.
pub const fn scratch(number: usize) -> i32 {
    at(STATE + offset_of!(RunState, scratch) + 8 * number)
}

/// A general-purpose register's slot.
pub const fn gpr(number: usize) -> i32 {
    at(offset_of!(P, cpu) + offset_of!(Cpu, gpr) + 8 * number)
}

/// An XMM register in the guest's FXSAVE image.
pub const fn xmm(number: usize) -> i32 {
    at(FPU + FpuState::XMM_OFFSET + 16 * number)
}

/// The upper half of a YMM register in the guest's state.
pub const fn ymm(number: usize) -> i32 {
    at(FPU + FpuState::YMM_OFFSET + 16 * number)
}

/// The base of a segment, by its number in `Cpu::address_base`.
pub const fn segment_base(number: usize) -> i32 {
    at(offset_of!(P, cpu) + offset_of!(Cpu, address_base) + 8 * number)
}

/// A part of a site of the TLB; `field` is its distance from the site's start.
pub const fn site(number: usize, field: usize) -> i32 {
    at(TLB + place::site(number) + field)
}

/// A part of what is noted of the sites of a view that were filled; `field` is its distance from the start.
pub const fn filled_sites(view: View, field: usize) -> i32 {
    at(TLB + place::filled_sites(view, field))
}

/// The tags of a view's table.
pub const fn tags(view: View, write: bool) -> i32 {
    at(TLB + place::tags(view, write))
}

/// The host pages of a view's table.
pub const fn hosts(view: View) -> i32 {
    at(TLB + place::hosts(view))
}

/// The code pages of a view's table.
pub const fn code(view: View) -> i32 {
    at(TLB + place::code(view))
}

/// Where the jump table is that code of a view uses.
#[derive(Debug, Clone, Copy)]
pub struct JumpPlace {
    /// The instruction pointers.
    rips: i32,
    /// The code for them.
    code: i32,
    /// Where returns look first.
    pub returns: ReturnPlace,
    /// How far an instruction pointer's product is shifted.
    shift: u8,
}

impl JumpPlace {
    /// The address of the code for the instruction pointer in R10 into R11, if its entry knows it; else goes to `unknown`.
    pub fn look_up(self, a: &mut Assembler, unknown: Label) {
        self.entry(a);
        self.code_at_entry(a, 0, unknown);
    }

    /// The same if the entry beside knows it. RSP is `pushed` bytes below the processor.
    pub fn look_beside(self, a: &mut Assembler, pushed: i32, unknown: Label) {
        self.entry(a);
        a.xor_immediate32(R11, jumps::BESIDE as i32);
        self.code_at_entry(a, pushed, unknown);
    }

    /// The entry's number into R11.
    fn entry(self, a: &mut Assembler) {
        a.multiply32(R11, R10, jumps::MULTIPLIER as i32);
        a.shr32(R11, self.shift);
    }

    fn code_at_entry(self, a: &mut Assembler, pushed: i32, unknown: Label) {
        a.cmp_table(R11, 3, self.rips + pushed, R10);
        a.jcc(NOT_EQUAL, unknown);
        a.load_table(R11, R11, 3, self.code + pushed);
    }
}

const fn jump_place<const ENTRIES: usize>(table: usize) -> JumpPlace {
    JumpPlace {
        rips: at(STATE + table + offset_of!(JumpTable<ENTRIES>, rips)),
        code: at(STATE + table + offset_of!(JumpTable<ENTRIES>, code)),
        returns: ReturnPlace(at(STATE + table + offset_of!(JumpTable<ENTRIES>, returns))),
        shift: JumpTable::<ENTRIES>::SHIFT,
    }
}

/// The jump table that code of a view uses.
pub const fn jump_table(view: View) -> JumpPlace {
    match view {
        View::User | View::AlignedUser => jump_place::<USER_JUMPS>(offset_of!(RunState, user)),
        View::Supervisor => jump_place::<SUPERVISOR_JUMPS>(offset_of!(RunState, supervisor)),
        View::SupervisorAc => jump_place::<SUPERVISOR_AC_JUMPS>(offset_of!(RunState, supervisor_ac)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_survive_being_packed() {
        // SAFETY: all-zero bytes are a state.
        let mut state = unsafe { Box::<RunState>::new_zeroed().assume_init() };
        for n in 0..64u64 {
            let places = [0, 2, 4, 6, 7, 11];
            let bits = (0..6).filter(|i| n >> i & 1 != 0).map(|i| 1u64 << places[i]).sum();
            let flags = Rflags::from_bits_truncate(bits);
            state.pack_flags(LazyFlags::from_bits(flags));
            assert_eq!(state.unpack_flags().bits(), flags);
        }
    }
}
