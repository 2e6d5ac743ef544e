//! The code that translated code shares: entering, leaving, and asking Rust.

use super::assembler::*;
use super::calls;
use super::code_cache::CodeCache;
use super::fast_call::{FastCall, fast_call};
use super::frame::{self, Exit, Vectors};
use crate::profile::gauge::Work;
use crate::ram::PAGE;
use crate::tlb::{ENTRIES, FilledSites, LISTED, REMEMBERED, Site, VIEWS, View};
use std::mem::offset_of;

/// Guest registers that live in the host register of their own number.
const SAME: [Host; 12] = [RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, Host(12), Host(13), Host(14), Host(15)];
/// Of all that hold guest registers, those that Rust code may change.
const VOLATILE: [Host; 8] = [RAX, RCX, RDX, RSI, RDI, R8, R9, R10];
/// Those that Rust code keeps.
const KEPT: [Host; 6] = [RBX, RBP, Host(12), Host(13), Host(14), Host(15)];

/// Translated code's entry. `frame` is the processor's address, `code` where to begin.
///
/// Calling it is as unsafe as [`super::run`], whose callers promise what it needs.
pub type Enter = unsafe extern "sysv64" fn(frame: *mut u8, code: *const u8);

/// Where each stub is, as an offset in the code cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stubs {
    /// [`Enter`].
    pub enter: u32,
    /// Jumped to with a page offset in R10: [`Exit::Jump`].
    pub jump: u32,
    /// Called with a page offset in R10; behind the call, four bytes say where in the code memory the distance lies that may
    /// be led elsewhere: [`Exit::Link`].
    pub link: u32,
    /// As `link`: [`Exit::Plain`].
    pub plain: u32,
    /// Jumped to with a page offset in R10: [`Exit::Interpret`].
    pub interpret: u32,
    /// Called with a page offset in R10 when time is up: [`Exit::Jump`].
    pub time_up: u32,
    /// As `time_up`: [`Exit::Interpret`].
    pub time_up_before: u32,
    /// Called by a site that does not know its page, by view and whether it writes.
    pub miss: [[u32; 2]; REMEMBERED],
    /// Called by an access without a site whose page the table does not know, with its address in R10 and a [`calls::Accessor`] in R11;
    /// by whether it writes. Returns with the host address in R10.
    pub table_miss: [u32; 2],
    /// Jumped to with the instruction pointer in R10: [`Exit::Jump`].
    pub leave_for: u32,
    /// Called with an operation's address in R11: the interpreter executes it.
    pub operation: u32,
    /// Jumped to with an operation's address in R11: the interpreter executes it, and control goes where it leads.
    pub transfer: u32,
    /// Jumped to with an operation's address in R11, SYSCALL or SYSRET ([`FastCall`]); for SYSCALL with the offset behind it in
    /// R10.
    pub fast_calls: [u32; 2],
    /// Called with an instruction pointer in R10 that its entry in the jump table does not know, and in R11 what to do if there is
    /// no code for it ([`calls::Otherwise`]); by view. Returns with the code's address in R11.
    pub resolve: [u32; REMEMBERED],
    /// Called after a store, with its host address in R10, the page's `CodePage` in R11 and a [`calls::Accessor`] on the stack.
    pub code_written: u32,
    /// Called with a page offset in R10: loads the guest's vector registers, or leaves for the interpreter; by whether they must
    /// be YMM registers.
    pub load_vectors: [u32; 2],
    /// Loads the guest's x87 registers. Returns with 1 in R10 if they are, else 0.
    pub load_x87: u32,
}

impl Stubs {
    /// Makes them at the start of `cache`. Whether those of sites count what they find in the table is `counts_hits`.
    pub fn new(cache: &mut CodeCache, counts_hits: bool) -> Option<Self> {
        let mut stubs = Self::default();
        let mut add = |make: &dyn Fn(&mut Assembler)| {
            let mut a = Assembler::default();
            make(&mut a);
            cache.append(a.finish()?).map(|placed| placed.hot)
        };
        let leave = add(&leave)?;
        let leave_saved = add(&leave_saved)?;
        let leave_half = add(&|a| leave_half(a, leave_saved))?;
        stubs.enter = add(&enter)?;
        stubs.jump = add(&|a| leave_at_offset(a, Exit::Jump, leave))?;
        stubs.interpret = add(&|a| leave_at_offset(a, Exit::Interpret, leave))?;
        stubs.leave_for = add(&|a| leave_at_rip(a, Exit::Jump, leave))?;
        for (stub, exit) in [(&mut stubs.link, Exit::Link), (&mut stubs.plain, Exit::Plain)] {
            *stub = add(&|a| {
                a.pop(R11);
                a.store(frame::PAYLOAD, R11);
                leave_at_offset(a, exit, leave);
            })?;
        }
        for (stub, exit) in [(&mut stubs.time_up, Exit::Jump), (&mut stubs.time_up_before, Exit::Interpret)] {
            *stub = add(&|a| {
                a.pop(R11);
                a.store(frame::TIMED, R11);
                leave_at_offset(a, exit, leave);
            })?;
        }
        for view in VIEWS {
            for write in [false, true] {
                stubs.miss[view as usize][usize::from(write)] =
                    add(&|a| miss(a, Asker { view, write, counts_hits }, leave_half))?;
            }
        }
        for write in [false, true] {
            stubs.table_miss[usize::from(write)] = add(&|a| table_miss(a, write, leave_half))?;
        }
        stubs.operation = add(&|a| operation(a, leave_saved))?;
        stubs.transfer = add(&|a| transfer(a, leave_saved))?;
        for view in VIEWS {
            stubs.resolve[view as usize] = add(&|a| resolve(a, view, leave_half))?;
        }
        for call in [FastCall::Call, FastCall::Return] {
            stubs.fast_calls[call as usize] = add(&|a| fast_call(a, call, stubs.transfer, &stubs.resolve))?;
        }
        stubs.code_written = add(&|a| code_written(a, leave_half))?;
        for wide in [false, true] {
            stubs.load_vectors[usize::from(wide)] =
                add(&|a| load_vectors_or_leave(a, wide, stubs.interpret))?;
        }
        stubs.load_x87 = add(&load_x87)?;
        cache.keep();
        Some(stubs)
    }
}

/// The slot of the guest register that a host register holds.
const fn slot(register: Host) -> i32 {
    match register {
        R9 => frame::gpr(4),
        Host(number) => frame::gpr(number as usize),
    }
}

/// Where R10 is while Rust runs.
const KEPT_R10: i32 = frame::scratch(1);

/// Stores the registers that Rust code may change. RSP is `pushed` bytes below the processor.
fn store_volatile(a: &mut Assembler, pushed: i32) {
    for register in VOLATILE {
        a.store(if register == R10 { KEPT_R10 } else { slot(register) } + pushed, register);
    }
}

/// Loads them again, but for R10, which may hold an answer.
fn load_volatile_but_r10(a: &mut Assembler, pushed: i32) {
    for register in VOLATILE.into_iter().filter(|register| *register != R10) {
        a.load(register, slot(register) + pushed);
    }
}

fn enter(a: &mut Assembler) {
    for register in KEPT {
        a.push(register);
    }
    // mov [rdi + host stack], rsp; mov rsp, rdi
    a.raw(&[0x48, 0x89, 0xa7]);
    a.raw(&frame::HOST_STACK.to_le_bytes());
    a.mov(RSP, RDI);
    a.mov(R11, RSI);
    load_registers(a);
    a.jmp_register(R11);
}

fn load_registers(a: &mut Assembler) {
    for register in SAME {
        a.load(register, slot(register));
    }
    a.load(R9, slot(R9));
}

/// Stores every register and returns to whoever entered.
fn leave(a: &mut Assembler) {
    for register in SAME {
        a.store(slot(register), register);
    }
    a.store(slot(R9), R9);
    let done = a.label();
    a.cmp_byte_zero(frame::VECTORS_LOADED);
    a.jcc(EQUAL, done);
    save_vectors(a, 0);
    a.place(done);
    leave_saved(a);
}

/// Stores the registers that Rust code keeps, and returns to whoever entered; the others are stored already.
fn leave_half(a: &mut Assembler, leave_saved: u32) {
    for register in KEPT {
        a.store(slot(register), register);
    }
    a.jmp_out(leave_saved);
}

/// Returns to whoever entered; all registers are stored already.
fn leave_saved(a: &mut Assembler) {
    a.store_byte(frame::VECTORS_LOADED, Vectors::None as u8);
    a.load(RSP, frame::HOST_STACK);
    for register in KEPT.into_iter().rev() {
        a.pop(register);
    }
    a.ret();
}

fn leave_at_offset(a: &mut Assembler, exit: Exit, leave: u32) {
    a.add_frame(R10, frame::PAGE_BASE);
    leave_at_rip(a, exit, leave);
}

/// The instruction pointer is in R10.
fn leave_at_rip(a: &mut Assembler, exit: Exit, leave: u32) {
    a.store(frame::RIP, R10);
    a.store_immediate32(frame::EXIT, exit as u32);
    a.jmp_out(leave);
}

/// Stores the vector registers that are loaded and MXCSR, and gives Rust its own MXCSR, and upper halves that cost it nothing.
/// RSP is `pushed` bytes below the processor. The flags are lost.
fn save_vectors(a: &mut Assembler, pushed: i32) {
    for n in 0..16 {
        a.vector(n, frame::xmm(usize::from(n)) + pushed, true);
    }
    a.store_mxcsr(frame::GUEST_MXCSR + pushed);
    a.load_mxcsr(frame::HOST_MXCSR + pushed);
    let saved = a.label();
    a.cmp_byte(frame::VECTORS_LOADED + pushed, Vectors::Ymm as u8);
    a.jcc(NOT_EQUAL, saved);
    for n in 0..16 {
        a.upper_half(n, frame::ymm(usize::from(n)) + pushed, true);
    }
    a.vzeroupper();
    a.place(saved);
}

/// Loads the vector registers that are said to be loaded, and MXCSR. The flags are lost.
///
/// Upper halves that are clear are made so rather than loaded: SSE's instructions need not care for them then, which makes most
/// code faster that uses no AVX.
fn load_vectors(a: &mut Assembler, pushed: i32) {
    let (narrow, loaded) = (a.label(), a.label());
    a.cmp_byte(frame::VECTORS_LOADED + pushed, Vectors::Ymm as u8);
    a.jcc(NOT_EQUAL, narrow);
    a.test_upper_halves(frame::ymm(0) + pushed);
    a.vzeroupper();
    load_narrow_vectors(a, pushed);
    a.jcc(EQUAL, loaded);
    for n in 0..16 {
        a.upper_half(n, frame::ymm(usize::from(n)) + pushed, false);
    }
    a.jmp(loaded);
    a.place(narrow);
    load_narrow_vectors(a, pushed);
    a.place(loaded);
}

/// Loads XMM registers and MXCSR. The flags are kept.
fn load_narrow_vectors(a: &mut Assembler, pushed: i32) {
    for n in 0..16 {
        a.vector(n, frame::xmm(usize::from(n)) + pushed, false);
    }
    a.load_mxcsr(frame::GUEST_MXCSR + pushed);
}

fn load_vectors_or_leave(a: &mut Assembler, wide: bool, interpret: u32) {
    const PUSHED: i32 = 8;
    let (usable, needed) = (a.label(), if wide { Vectors::Ymm } else { Vectors::Xmm });
    a.cmp_byte(frame::VECTORS_USABLE + PUSHED, needed as u8);
    a.jcc(ABOVE_OR_EQUAL, usable);
    a.pop(R11);
    a.jmp_out(interpret);
    a.place(usable);
    a.load_byte(R11, frame::VECTORS_USABLE + PUSHED);
    a.store_byte_of(frame::VECTORS_LOADED + PUSHED, R11);
    load_vectors(a, PUSHED);
    a.ret();
}

/// Calls a Rust function with the processor as its first argument; the others are in place. Vectors are saved before and
/// loaded after it. RSP is `pushed` bytes, 8 more than a multiple of 16, below the processor.
fn call_rust(a: &mut Assembler, function: usize, pushed: i32, after: impl Fn(&mut Assembler, i32)) {
    let (saved, loaded) = (a.label(), a.label());
    a.cmp_byte_zero(frame::VECTORS_LOADED + pushed);
    a.jcc(EQUAL, saved);
    save_vectors(a, pushed);
    a.place(saved);
    a.lea(RDI, RSP, pushed);
    a.lea(RSP, RSP, -8);
    note(a, Work::Asked, pushed + 8);
    a.mov_immediate(R11, function as u64);
    a.call_register(R11);
    a.lea(RSP, RSP, 8);
    note(a, Work::Translated, pushed);
    after(a, pushed);
    a.cmp_byte_zero(frame::VECTORS_LOADED + pushed);
    a.jcc(EQUAL, loaded);
    load_vectors(a, pushed);
    a.place(loaded);
}

/// Notes what the processor is at, for samples; R11 is lost.
fn note(a: &mut Assembler, work: Work, pushed: i32) {
    a.load(R11, frame::GAUGE + pushed);
    // mov byte ptr [r11], work
    a.raw(&[0x41, 0xc6, 0x03, work as u8]);
}

/// Which sites a stub serves.
#[derive(Debug, Clone, Copy)]
struct Asker {
    view: View,
    write: bool,
    counts_hits: bool,
}

/// R10 is a linear address, R11 a [`calls::Accessor`]. The site is filled then, and R10 the address's offset in its page.
fn miss(a: &mut Assembler, Asker { view, write, counts_hits }: Asker, leave_half: u32) {
    const TAG: usize = offset_of!(Site, tag);
    const LIMIT: usize = offset_of!(Site, limit);
    const DELTA: usize = offset_of!(Site, delta);
    const CODE: usize = offset_of!(Site, code);
    const RETURN: i32 = 8;
    // Return address, three registers.
    const PUSHED: i32 = 32;
    const SITE_SHIFT: u8 = size_of::<Site>().trailing_zeros() as u8;
    let site = |field| frame::site(0, field) + PUSHED;
    let slow = a.label();
    for register in [RAX, RCX, RDX] {
        a.push(register);
    }
    a.store(frame::scratch(0) + PUSHED, R11);
    a.mov32(RAX, R11);
    a.shr32(RAX, calls::Accessor::SITE_SHIFT as u8);
    a.and_immediate32(RAX, calls::Accessor::SITE_MASK as i32);
    a.shl32(RAX, SITE_SHIFT);
    a.mov32(RCX, R10);
    a.shr32(RCX, 12);
    const { assert!(ENTRIES.is_power_of_two()) };
    a.and_immediate32(RCX, ENTRIES as i32 - 1);
    // The limit of an access of 2^n bytes is 4097 - 2^n.
    a.shr32(R11, calls::Accessor::SIZE_SHIFT as u8);
    a.and_immediate32(R11, calls::Accessor::SIZE_MASK as i32);
    a.mov(RDX, R11);
    a.power_of_two(R11, RDX);
    a.neg(R11);
    a.add_immediate(R11, 4097);
    a.mov(RDX, R10);
    a.sub_table(RDX, RCX, 3, frame::tags(view, write) + PUSHED);
    a.cmp(RDX, R11);
    a.jcc(ABOVE_OR_EQUAL, slow);
    a.sub_immediate32(frame::MISS_TICK + PUSHED, 1);
    a.jcc(SIGN, slow);
    if counts_hits {
        a.increment(frame::HITS + PUSHED);
    }
    a.store_table(RAX, 0, site(LIMIT), R11);
    a.sub(R10, RDX);
    a.store_table(RAX, 0, site(TAG), R10);
    a.load_table(R11, RCX, 3, frame::hosts(view) + PUSHED);
    a.sub(R11, R10);
    a.store_table(RAX, 0, site(DELTA), R11);
    a.mov(R10, RDX);
    if write {
        a.load_table(R11, RCX, 3, frame::code(view) + PUSHED);
        a.store_table(RAX, 0, site(CODE), R11);
    }
    let noted = a.label();
    let filled = |field| frame::filled_sites(view, field) + PUSHED;
    a.load(RCX, filled(offset_of!(FilledSites, fills)));
    a.increment(filled(offset_of!(FilledSites, fills)));
    a.cmp_immediate(RCX, LISTED as i32);
    a.jcc(ABOVE_OR_EQUAL, noted);
    a.store_table(RCX, 3, filled(offset_of!(FilledSites, places)), RAX);
    a.place(noted);
    for register in [RDX, RCX, RAX] {
        a.pop(register);
    }
    a.ret();

    a.place(slow);
    for register in [RDX, RCX, RAX] {
        a.pop(register);
    }
    store_volatile(a, RETURN);
    a.mov(RSI, R10);
    a.load(RDX, frame::scratch(0) + RETURN);
    a.mov_immediate(RCX, u64::from(write));
    // Where this was called from.
    a.load(R8, 0);
    call_rust(a, calls::miss as *const () as usize, RETURN, |a, _| {
        let found = a.label();
        enter_handler(a);
        a.cmp_immediate(RAX, 0);
        a.jcc(NOT_EQUAL, found);
        a.lea(RSP, RSP, RETURN);
        a.jmp_out(leave_half);
        a.place(found);
    });
    load_volatile_but_r10(a, RETURN);
    a.load(R10, KEPT_R10 + RETURN);
    // What is in one page with its address has the address's offset.
    a.and_immediate(R10, PAGE as i32 - 1);
    a.ret();
}

/// R10 is a linear address, R11 a [`calls::Accessor`]. Returns with the host address in R10.
fn table_miss(a: &mut Assembler, write: bool, leave_half: u32) {
    const RETURN: i32 = 8;
    store_volatile(a, RETURN);
    a.mov(RSI, R10);
    a.mov(RDX, R11);
    a.mov_immediate(RCX, u64::from(write));
    // Where this was called from.
    a.load(R8, 0);
    call_rust(a, calls::table_miss as *const () as usize, RETURN, |a, _| leave_if_refused(a, leave_half));
    load_volatile_but_r10(a, RETURN);
    a.ret();
}

/// Goes on in the handler that a [`calls::Reply`] has, if it has one. RSP is at a return address below the processor; the vector
/// registers are not loaded then.
fn enter_handler(a: &mut Assembler) {
    const RETURN: i32 = 8;
    let none = a.label();
    a.cmp_immediate(RDX, 0);
    a.jcc(EQUAL, none);
    a.lea(RSP, RSP, RETURN);
    a.store(frame::CALLED, RDX);
    load_volatile_but_r10(a, 0);
    a.jmp_frame(frame::CALLED);
    a.place(none);
}

/// Moves the answer to R10; if it is -1, leaves.
fn leave_if_refused(a: &mut Assembler, leave_half: u32) {
    const RETURN: i32 = 8;
    enter_handler(a);
    a.mov(R10, RAX);
    let found = a.label();
    a.cmp_immediate(R10, -1);
    a.jcc(NOT_EQUAL, found);
    a.lea(RSP, RSP, RETURN);
    a.jmp_out(leave_half);
    a.place(found);
}

/// R11 is the address of a [`calls::Operation`].
fn operation(a: &mut Assembler, leave_saved: u32) {
    const RETURN: i32 = 8;
    for register in SAME {
        a.store(slot(register) + RETURN, register);
    }
    a.store(slot(R9) + RETURN, R9);
    a.mov(RSI, R11);
    call_rust(a, calls::operation as *const () as usize, RETURN, |a, _| {
        let goes_on = a.label();
        a.cmp_immediate(RAX, 0);
        a.jcc(EQUAL, goes_on);
        a.lea(RSP, RSP, RETURN);
        a.jmp_out(leave_saved);
        a.place(goes_on);
    });
    for register in SAME {
        a.load(register, slot(register) + RETURN);
    }
    a.load(R9, slot(R9) + RETURN);
    a.ret();
}

/// R11 is the address of a [`calls::Operation`] that may lead anywhere.
fn transfer(a: &mut Assembler, leave_saved: u32) {
    const ALIGNED: i32 = 8;
    for register in SAME {
        a.store(slot(register), register);
    }
    a.store(slot(R9), R9);
    a.mov(RSI, R11);
    a.lea(RSP, RSP, -ALIGNED);
    call_rust(a, calls::transfer as *const () as usize, ALIGNED, |a, pushed| {
        let goes_on = a.label();
        a.store(frame::CALLED + pushed, RAX);
        a.cmp_immediate(RAX, 0);
        a.jcc(NOT_EQUAL, goes_on);
        a.lea(RSP, RSP, pushed);
        a.jmp_out(leave_saved);
        a.place(goes_on);
    });
    a.lea(RSP, RSP, ALIGNED);
    load_registers(a);
    a.jmp_frame(frame::CALLED);
}

/// R10 is an instruction pointer, R11 a [`calls::Otherwise`].
fn resolve(a: &mut Assembler, view: View, leave_half: u32) {
    const RETURN: i32 = 8;
    let unknown = a.label();
    a.store(frame::scratch(0) + RETURN, R11);
    frame::jump_table(view).look_beside(a, RETURN, unknown);
    a.ret();
    a.place(unknown);
    a.load(R11, frame::scratch(0) + RETURN);
    store_volatile(a, RETURN);
    a.mov(RSI, R10);
    a.mov(RDX, R11);
    call_rust(a, calls::resolve as *const () as usize, RETURN, |a, pushed| {
        let goes_on = a.label();
        a.store(frame::CALLED + pushed, RAX);
        a.cmp_immediate(RAX, 0);
        a.jcc(NOT_EQUAL, goes_on);
        a.lea(RSP, RSP, pushed);
        a.jmp_out(leave_half);
        a.place(goes_on);
    });
    load_volatile_but_r10(a, RETURN);
    a.load(R10, KEPT_R10 + RETURN);
    a.load(R11, frame::CALLED + RETURN);
    a.ret();
}

/// The flags are in memory or dead.
fn load_x87(a: &mut Assembler) {
    const RETURN: i32 = 8;
    store_volatile(a, RETURN);
    call_rust(a, calls::load_x87 as *const () as usize, RETURN, |a, _| a.mov(R10, RAX));
    load_volatile_but_r10(a, RETURN);
    a.ret();
}

/// A store hit a page that code was decoded from. The flags are in memory or dead.
fn code_written(a: &mut Assembler, leave_half: u32) {
    const RETURN: i32 = 8;
    // Return address and the accessor.
    const PUSHED: i32 = 16;
    // So that RSP is 8 more than a multiple of 16 below the processor.
    const ALIGNED: i32 = PUSHED + 8;
    store_volatile(a, PUSHED);
    a.mov(RSI, R10);
    a.mov(RDX, R11);
    // mov rcx, [rsp + 8]: the accessor.
    a.load(RCX, RETURN);
    a.lea(RSP, RSP, PUSHED - ALIGNED);
    call_rust(a, calls::code_written as *const () as usize, ALIGNED, |a, pushed| {
        let goes_on = a.label();
        a.cmp_immediate(RAX, 0);
        a.jcc(EQUAL, goes_on);
        a.lea(RSP, RSP, pushed);
        a.jmp_out(leave_half);
        a.place(goes_on);
    });
    a.lea(RSP, RSP, ALIGNED - PUSHED);
    load_volatile_but_r10(a, PUSHED);
    a.ret();
}
