//! Code that is written while it is used (APM volume 2, section 7.6.1).

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use tern_test_kernels::guest::{Emit, place};
use tern_test_kernels::long::*;

/// MOV EAX, imm32; RET: the immediate is at offset 1.
const FUNCTION: [u8; 6] = [0xb8, 0, 0, 0, 0, 0xc3];
const READY: u64 = DATA;
const ANSWER: u64 = DATA + 0x40;
const STOP: u64 = DATA + 0x80;

/// Calls the function at `at` (in RBX) 500 times, counted down in ECX, after a `change` that leaves in EDX what it must answer then.
fn changes_count(at: u64, change: impl Fn(&mut Long) -> Emit) {
    long(|g| {
        g.put_bytes(at, FUNCTION);
        let (mut again, mut fine) = (g.create_label(), g.create_label());
        g.mov(ebx, at as u32)?;
        g.xor(r12d, r12d)?;
        g.mov(ecx, 500)?;
        g.place(&mut again)?;
        change(g)?;
        g.call(rbx)?;
        g.cmp(eax, edx)?;
        g.je(fine)?;
        g.inc(r12d)?;
        g.place(&mut fine)?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.expect(r12, 0)
    });
}

#[test]
fn a_processor_sees_its_own_changes_at_once() {
    changes_count(frame(0), |g| {
        g.mov(edx, ecx)?;
        g.mov(dword_ptr(rbx + 1), edx)
    });
}

#[test]
fn a_change_of_an_instructions_second_page_counts() {
    // The immediate's upper three bytes lie there. The function is hot before it is changed again.
    changes_count(frame(0) + 0xffe, |g| {
        g.mov(edx, ecx)?;
        g.shr(edx, 7)?;
        g.mov(word_ptr(rbx + 2), dx)?;
        g.shl(edx, 8)
    });
}

#[test]
fn a_change_of_what_is_returned_to_counts() {
    const TIMES: u32 = 2000;
    // CALL RSI; MOV EAX, imm32; RET.
    let function = [0xff, 0xd6, 0xb8, TIMES as u8, (TIMES >> 8) as u8, 0, 0, 0xc3];
    for other_page in [0, 0x1000] {
        long(|g| {
            g.put_bytes(frame(0), function);
            // Seldom enough for it to become hot in between. The changing function lies elsewhere, or beside it.
            let change = g.out_of_line(|g| {
                let mut same = g.create_label();
                g.test(r13d, 0xff)?;
                g.jnz(same)?;
                g.mov(edx, r13d)?;
                g.mov(dword_ptr(rbx + 3), edx)?;
                g.place(&mut same)?;
                g.ret()
            })?;
            // JMP RDI.
            g.put_bytes(frame(0) + 0x800 + other_page, [0xff, 0xe7]);
            g.mov(rsi, frame(0) + 0x800 + other_page)?;
            g.lea(rdi, ptr(change))?;
            g.mov(rbx, frame(0))?;
            g.mov(edx, TIMES)?;
            g.xor(r12d, r12d)?;
            g.rounds(TIMES, |g| {
                g.call(rbx)?;
                g.xor(eax, edx)?;
                g.or(r12d, eax)
            })?;
            g.expect(r12, 0)?;
            g.expect(rdx, 0x100)
        });
    }
}

#[test]
fn a_change_of_the_very_next_instruction_counts() {
    long(|g| {
        let mut target = g.create_label();
        g.xor(ebx, ebx)?;
        g.lea(rcx, ptr(target))?;
        for value in [5, 6] {
            g.mov(edx, value)?;
            let mut back = g.create_label();
            g.lea(r14, ptr(back))?;
            let mut write = g.create_label();
            g.jmp(write)?;
            g.place(&mut back)?;
            g.expect(rax, u64::from(value as u32))?;
            let mut over = g.create_label();
            g.jmp(over)?;
            g.place(&mut write)?;
            g.mov(dword_ptr(rcx + 1), edx)?;
            if value == 5 {
                // Straight ahead into what was just written.
                g.place(&mut target)?;
                g.mov(eax, 0x1111_1111)?;
                g.jmp(r14)?;
            } else {
                g.jmp(rcx)?;
            }
            g.place(&mut over)?;
        }
        Ok(())
    });
}

#[test]
fn a_change_through_another_address_counts_after_serialisation() {
    long(|g| {
        g.put_bytes(frame(0), FUNCTION);
        g.map(0, frame(0) | P);
        g.map(1, frame(0) | P | RW);
        g.mov(r13, WINDOW)?;
        let (mut again, mut fine) = (g.create_label(), g.create_label());
        g.xor(r12d, r12d)?;
        g.mov(ebp, 500)?;
        g.place(&mut again)?;
        g.mov(dword_ptr(r13 + 0x1001), ebp)?;
        g.xor(eax, eax)?;
        g.cpuid()?;
        g.call(r13)?;
        g.cmp(eax, ebp)?;
        g.je(fine)?;
        g.inc(r12d)?;
        g.place(&mut fine)?;
        g.dec(ebp)?;
        g.jnz(again)?;
        g.expect(r12, 0)
    });
}

#[test]
fn string_stores_and_locked_instructions_change_code_too() {
    long(|g| {
        g.put_bytes(frame(0), FUNCTION);
        g.mov(ebx, frame(0) as u32)?;
        g.call(rbx)?;
        g.expect(rax, 0)?;
        g.lea(edi, ptr(rbx + 1))?;
        g.mov(al, 0x22)?;
        g.mov(ecx, 4)?;
        g.rep().stosb()?;
        g.call(rbx)?;
        g.expect(rax, 0x2222_2222)?;
        g.mov(qword_ptr(frame(1)), 0x3333_3333)?;
        g.mov(esi, frame(1) as u32)?;
        g.lea(edi, ptr(rbx + 1))?;
        g.movsd()?;
        g.call(rbx)?;
        g.expect(rax, 0x3333_3333)?;
        g.lock().xor(dword_ptr(rbx + 1), 0x1111_1111)?;
        g.call(rbx)?;
        g.expect(rax, 0x2222_2222)?;
        g.mov(eax, 0x4444_4444)?;
        g.movd(xmm0, eax)?;
        g.movd(dword_ptr(rbx + 1), xmm0)?;
        g.call(rbx)?;
        g.expect(rax, 0x4444_4444)
    });
}

/// In so many rounds a function is changed by one processor, and called by another one: once, and as often again as `again` says. All of
/// a round's calls must be answered as the change wants it.
fn changes_count_elsewhere(rounds: i32, again: u32) {
    long_with(2, |g| {
        g.put_bytes(frame(0), FUNCTION);
        // The other processor: waits for the next round, serialises, calls, answers; also with what its later answers differed in.
        g.on_others(|g| {
            let (mut next, mut wait, mut call) = (g.create_label(), g.create_label(), g.create_label());
            g.mov(r13d, frame(0) as u32)?;
            g.mov(ebp, 1)?;
            g.place(&mut next)?;
            g.place(&mut wait)?;
            g.pause()?;
            g.cmp(dword_ptr(READY), ebp)?;
            g.jne(wait)?;
            g.xor(eax, eax)?;
            g.cpuid()?;
            g.call(r13)?;
            g.mov(edi, eax)?;
            g.xor(esi, esi)?;
            if again > 0 {
                g.mov(ecx, again)?;
                g.place(&mut call)?;
                g.call(r13)?;
                g.xor(eax, edi)?;
                g.or(esi, eax)?;
                g.dec(ecx)?;
                g.jnz(call)?;
            }
            g.mov(dword_ptr(ANSWER + 4), edi)?;
            g.mov(dword_ptr(ANSWER + 8), esi)?;
            g.mov(dword_ptr(ANSWER), ebp)?;
            g.inc(ebp)?;
            g.cmp(ebp, rounds)?;
            g.jbe(next)
        })?;
        g.start_others(1)?;
        let (mut next, mut wait) = (g.create_label(), g.create_label());
        g.xor(r12d, r12d)?;
        g.mov(ebx, 1)?;
        g.place(&mut next)?;
        g.mov(eax, ebx)?;
        g.not(eax)?;
        g.mov(dword_ptr(frame(0) + 1), eax)?;
        g.mov(dword_ptr(READY), ebx)?;
        g.place(&mut wait)?;
        g.pause()?;
        g.cmp(dword_ptr(ANSWER), ebx)?;
        g.jne(wait)?;
        g.xor(eax, dword_ptr(ANSWER + 4))?;
        g.or(r12d, eax)?;
        g.or(r12d, dword_ptr(ANSWER + 8))?;
        g.inc(ebx)?;
        g.cmp(ebx, rounds)?;
        g.jbe(next)?;
        g.expect(r12, 0)
    });
}

#[test]
fn another_processors_change_counts_after_serialisation() {
    changes_count_elsewhere(1000, 0);
}

#[test]
fn another_processors_change_of_hot_code_counts_after_serialisation() {
    // It is hot before it is changed again.
    changes_count_elsewhere(300, 200);
}

#[test]
fn code_that_is_changed_while_another_processor_runs_it_is_the_old_or_the_new() {
    // The immediate is aligned, so that it changes as a whole. What is seen never goes back.
    const LAST: u32 = 20_000;
    long_with(2, |g| {
        g.put_bytes(frame(0) + 3, FUNCTION);
        g.on_others(|g| {
            let mut again = g.create_label();
            g.xor(ecx, ecx)?;
            g.place(&mut again)?;
            g.mov(dword_ptr(frame(0) + 4), ecx)?;
            g.inc(ecx)?;
            g.cmp(ecx, LAST)?;
            g.jbe(again)?;
            g.mov(qword_ptr(STOP), 1)
        })?;
        g.start_others(1)?;
        let (mut again, mut fine) = (g.create_label(), g.create_label());
        g.mov(r13d, (frame(0) + 3) as u32)?;
        g.xor(r12d, r12d)?;
        g.xor(ebx, ebx)?;
        g.place(&mut again)?;
        g.call(r13)?;
        g.cmp(eax, ebx)?;
        g.jae(fine)?;
        g.inc(r12d)?;
        g.place(&mut fine)?;
        g.mov(ebx, eax)?;
        g.cmp(qword_ptr(STOP), 0)?;
        g.je(again)?;
        g.xor(eax, eax)?;
        g.cpuid()?;
        g.call(r13)?;
        g.expect(rax, LAST.into())?;
        g.expect(r12, 0)
    });
}

#[test]
fn what_was_changed_before_a_serialisation_is_seen_while_changes_go_on() {
    // One processor changes two functions and then says so, again and again. The other one looks what was said, serialises, and calls
    // them: the one beside its loop by its distance, the other, in another page, by a register.
    const LAST: i32 = 30_000;
    const ELSEWHERE: u64 = frame(0) + 3;
    const LOOP: u64 = frame(1);
    const BESIDE: u64 = LOOP + 0x803;
    let reader = || -> Result<Vec<u8>, IcedError> {
        let mut g = CodeAssembler::new(64)?;
        let (mut again, mut fine) = (g.create_label(), [g.create_label(), g.create_label()]);
        place(&mut g, &mut again)?;
        g.mov(ebp, dword_ptr(READY))?;
        g.xor(eax, eax)?;
        g.cpuid()?;
        for (fine, function) in fine.iter_mut().zip([BESIDE, ELSEWHERE]) {
            match function {
                BESIDE => g.call(BESIDE)?,
                _ => g.call(r13)?,
            }
            g.cmp(eax, ebp)?;
            g.jae(*fine)?;
            g.inc(r12d)?;
            place(&mut g, fine)?;
        }
        g.cmp(ebp, LAST)?;
        g.jne(again)?;
        g.ret()?;
        g.assemble(LOOP)
    };
    long_with(2, |g| {
        g.put_bytes(LOOP, reader()?);
        g.put_bytes(BESIDE, FUNCTION);
        g.put_bytes(ELSEWHERE, FUNCTION);
        g.on_others(|g| {
            let mut again = g.create_label();
            g.mov(edx, 1)?;
            g.place(&mut again)?;
            g.mov(dword_ptr(BESIDE + 1), edx)?;
            g.mov(dword_ptr(ELSEWHERE + 1), edx)?;
            g.mov(dword_ptr(READY), edx)?;
            // At times long enough for the other processor to be in the midst of anything.
            g.mov(ecx, edx)?;
            g.and(ecx, 0x3f)?;
            g.inc(ecx)?;
            let mut wait = g.create_label();
            g.place(&mut wait)?;
            g.pause()?;
            g.dec(ecx)?;
            g.jnz(wait)?;
            g.inc(edx)?;
            g.cmp(edx, LAST)?;
            g.jbe(again)
        })?;
        g.start_others(1)?;
        g.xor(r12d, r12d)?;
        g.mov(r13d, ELSEWHERE as u32)?;
        g.mov(eax, LOOP as u32)?;
        g.call(rax)?;
        g.expect(r12, 0)
    });
}

#[test]
fn a_processor_sees_its_own_changes_at_once_while_another_one_writes_beside_them() {
    const ROUNDS: i32 = 20_000;
    const AT: u64 = frame(0) + 3;
    const CHANGER: u64 = frame(0) + 0x40;
    // In the function's line of 64 bytes, and in that of the changing code, which is another line of the same page.
    const BESIDE: [u64; 2] = [frame(0) + 0x20, frame(0) + 0x60];
    let changer = || -> Result<Vec<u8>, IcedError> {
        let mut g = CodeAssembler::new(64)?;
        let (mut again, mut fine) = (g.create_label(), g.create_label());
        place(&mut g, &mut again)?;
        g.mov(dword_ptr(rbx + 1), ecx)?;
        g.call(rbx)?;
        g.cmp(eax, ecx)?;
        g.je(fine)?;
        g.inc(r12d)?;
        place(&mut g, &mut fine)?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.ret()?;
        g.assemble(CHANGER)
    };
    for beside in BESIDE {
        long_with(2, |g| {
            g.put_bytes(AT, FUNCTION);
            g.put_bytes(CHANGER, changer()?);
            g.on_others(|g| {
                let mut again = g.create_label();
                g.place(&mut again)?;
                g.inc(dword_ptr(beside))?;
                g.pause()?;
                g.cmp(qword_ptr(STOP), 0)?;
                g.je(again)
            })?;
            g.start_others(1)?;
            g.xor(r12d, r12d)?;
            g.mov(ebx, AT as u32)?;
            g.mov(ecx, ROUNDS)?;
            g.mov(eax, CHANGER as u32)?;
            g.call(rax)?;
            g.mov(qword_ptr(STOP), 1)?;
            g.expect(r12, 0)
        });
    }
}

#[test]
fn data_in_the_page_of_the_code_that_writes_it_is_just_data() {
    long(|g| {
        // INC dword [RBX + 0x40]; DEC ECX; JNZ back; RET
        g.put_bytes(frame(0), [0xff, 0x43, 0x40, 0xff, 0xc9, 0x75, 0xf9, 0xc3]);
        g.mov(ebx, frame(0) as u32)?;
        g.mov(ecx, 200_000)?;
        g.call(rbx)?;
        g.expect_memory(frame(0) + 0x40, 200_000)
    });
}

#[test]
fn code_that_is_copied_over_other_code_in_the_same_place_is_what_runs() {
    // As boot loaders and decompressors do: the same page holds one function after the other.
    long(|g| {
        // MOV EAX, 1; RET. NOP; ADD EAX, 2; RET.
        g.put_bytes(frame(1), [0xb8, 1, 0, 0, 0, 0xc3]);
        g.put_bytes(frame(2), [0x90, 0x83, 0xc0, 2, 0xc3]);
        for _ in 0..3 {
            for (source, expected) in [(1, 1), (2, 3)] {
                g.mov(esi, frame(source) as u32)?;
                g.mov(edi, frame(0) as u32)?;
                g.mov(ecx, 8)?;
                g.rep().movsq()?;
                g.mov(ebx, frame(0) as u32)?;
                g.call(rbx)?;
                g.expect(rax, expected)?;
            }
        }
        Ok(())
    });
}
