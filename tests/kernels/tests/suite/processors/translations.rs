//! Translations that one processor takes from the others.

use iced_x86::code_asm::*;
use tern_test_kernels::device::apic;
use tern_test_kernels::long::*;

const VECTOR: u8 = 0x48;
const OTHERS: u32 = 3;
const READY: u64 = DATA;
const ACKNOWLEDGED: u64 = DATA + 0x40;
const STOP: u64 = DATA + 0x80;
/// Each other processor's errors, by APIC ID.
const ERRORS: u64 = DATA + 0x100;

#[test]
fn a_shootdown_by_interrupt_leaves_no_processor_with_the_old_page() {
    const ROUNDS: i32 = 40;
    long_with(OTHERS + 1, |g| {
        g.map(0, frame(0) | P | RW);
        g.put(frame(0), &[0]);
        // Every processor that is interrupted forgets the page, and must then see the page of this round.
        g.handler(VECTOR, |g| {
            g.push(rax)?;
            g.invlpg(ptr(rbx))?;
            g.mov(rax, qword_ptr(rbx))?;
            let mut right = g.create_label();
            g.cmp(eax, r14d)?;
            g.jae(right)?;
            g.inc(qword_ptr(r15))?;
            g.place(&mut right)?;
            g.mov(r14d, eax)?;
            apic::write(g, apic::EOI, 0)?;
            g.lock().inc(qword_ptr(ACKNOWLEDGED))?;
            g.pop(rax)?;
            g.iretq()
        })?;
        g.on_others(|g| {
            let mut again = g.create_label();
            apic::enable(g)?;
            g.mov(rbx, WINDOW)?;
            g.mov(r15d, edi)?;
            g.shl(r15d, 3)?;
            g.add(r15d, ERRORS as i32)?;
            g.xor(r14d, r14d)?;
            g.sti()?;
            g.lock().inc(qword_ptr(READY))?;
            g.place(&mut again)?;
            // The page is used all the time; what is read never goes back behind what an interrupt has shown.
            g.mov(r13, qword_ptr(rbx))?;
            g.cmp(qword_ptr(STOP), 0)?;
            g.je(again)?;
            g.cli()
        })?;
        g.start_others(OTHERS)?;
        g.wait_for(READY, OTHERS as i32)?;
        let (mut round, mut wait) = (g.create_label(), g.create_label());
        g.mov(ebp, 1)?;
        g.place(&mut round)?;
        // The page of this round holds its number, in one of two frames.
        g.mov(eax, ebp)?;
        g.and(eax, 1)?;
        g.shl(eax, 12)?;
        g.add(eax, frame(0) as i32)?;
        g.mov(dword_ptr(rax), ebp)?;
        g.or(eax, (P | RW) as i32)?;
        g.mov(qword_ptr(ACKNOWLEDGED), 0)?;
        g.mov(qword_ptr(WINDOW_TABLE), rax)?;
        apic::write(g, apic::ICR, apic::TO_OTHERS | u32::from(VECTOR))?;
        g.place(&mut wait)?;
        g.pause()?;
        g.cmp(qword_ptr(ACKNOWLEDGED), OTHERS as i32)?;
        g.jne(wait)?;
        g.inc(ebp)?;
        g.cmp(ebp, ROUNDS)?;
        g.jne(round)?;
        g.mov(qword_ptr(STOP), 1)?;
        for id in 1..=u64::from(OTHERS) {
            g.expect_memory(ERRORS + 8 * id, 0)?;
        }
        Ok(())
    });
}

#[test]
fn a_page_that_another_processor_keeps_moving_is_read_at_one_of_its_places() {
    // Many pieces of code, so that lockstep checks many runs of them: neither of its two trials may see a move alone.
    const PIECES: usize = 200;
    const ROUNDS: i32 = 100;
    const VALUE: u64 = 0x1110;
    long_with(2, |g| {
        g.map(0, frame(0) | P | RW);
        g.put(frame(0), &[VALUE]);
        g.put(frame(1), &[VALUE + 1]);
        g.on_others(|g| {
            let mut again = g.create_label();
            g.lock().inc(qword_ptr(READY))?;
            g.place(&mut again)?;
            g.xor(qword_ptr(WINDOW_TABLE), (frame(0) ^ frame(1)) as i32)?;
            g.cmp(qword_ptr(STOP), 0)?;
            g.je(again)?;
            g.lock().dec(qword_ptr(READY))
        })?;
        g.start_others(1)?;
        g.wait_for(READY, 1)?;
        let mut round = g.create_label();
        g.mov(rbx, WINDOW)?;
        g.mov(ebp, ROUNDS)?;
        g.xor(r14d, r14d)?;
        g.place(&mut round)?;
        g.invlpg(ptr(rbx))?;
        for _ in 0..PIECES {
            let mut next = g.create_label();
            g.mov(rax, qword_ptr(rbx))?;
            g.and(rax, !1)?;
            g.xor(rax, VALUE as i32)?;
            g.or(r14, rax)?;
            g.jmp(next)?;
            g.place(&mut next)?;
        }
        g.dec(ebp)?;
        g.jnz(round)?;
        g.mov(qword_ptr(STOP), 1)?;
        g.wait_for(READY, 0)?;
        g.expect(r14, 0)
    });
}

#[test]
fn accessed_and_dirty_bits_are_set_without_losing_what_others_write_into_the_entry() {
    // One processor sets and clears an available bit of the entry with locked instructions; another makes the processor
    // set Accessed and Dirty all the time. No locked change may be lost.
    const ROUNDS: u32 = 5000;
    const AVAILABLE: u32 = 9;
    long_with(2, |g| {
        g.map(0, frame(0) | P | RW);
        g.on_others(|g| {
            let mut again = g.create_label();
            g.mov(rbx, WINDOW)?;
            g.place(&mut again)?;
            g.mov(dword_ptr(rbx), ecx)?;
            g.lock().and(qword_ptr(WINDOW_TABLE), !((A | D) as i32))?;
            g.invlpg(ptr(rbx))?;
            g.cmp(qword_ptr(STOP), 0)?;
            g.je(again)?;
            g.mov(qword_ptr(READY), 1)
        })?;
        g.start_others(1)?;
        let (mut again, mut fine) = (g.create_label(), g.create_label());
        g.xor(r12d, r12d)?;
        g.mov(ecx, ROUNDS)?;
        g.place(&mut again)?;
        g.lock().bts(qword_ptr(WINDOW_TABLE), AVAILABLE)?;
        g.lock().btr(qword_ptr(WINDOW_TABLE), AVAILABLE)?;
        g.jc(fine)?;
        g.inc(r12d)?;
        g.place(&mut fine)?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.mov(qword_ptr(STOP), 1)?;
        g.wait_for(READY, 1)?;
        g.expect(r12, 0)
    });
}
