//! Loops that mostly go one way, which engines lay out as straight-line code, and that sometimes go another way.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::PF;
use tern_test_kernels::long::*;

/// Enough rounds for an engine to find out that most of the time is spent there.
const HOT: u32 = 100_000;

#[test]
fn every_way_through_a_loop_has_the_flags_and_registers_that_it_should() {
    long(|g| {
        let (mut often, mut joined) = (g.create_label(), g.create_label());
        let (mut odd, mut last) = (g.create_label(), g.create_label());
        for register in [r8, r9, r10, r11, r12] {
            g.xor(register, register)?;
        }
        g.rounds(HOT, |g| {
            // By the counter's low byte: above, equal or below 7.
            g.mov(eax, r13d)?;
            g.cmp(al, 7)?;
            g.ja(often)?;
            g.adc(r8, 0)?;
            g.place(&mut joined)?;
            g.test(r13d, 1)?;
            g.jnz(odd)?;
            g.inc(r9)?;
            g.place(&mut last)?;
            g.nop()
        })?;
        let mut end = g.create_label();
        g.jmp(end)?;
        g.place(&mut odd)?;
        // ZF is clear, and so is CF.
        g.setz(dl)?;
        g.movzx(edx, dl)?;
        g.adc(r10, rdx)?;
        g.inc(r11)?;
        g.jmp(last)?;
        g.place(&mut often)?;
        // CF and ZF are clear here; SF is what it is.
        g.sets(dl)?;
        g.movzx(edx, dl)?;
        g.adc(r12, rdx)?;
        g.jmp(joined)?;
        g.place(&mut end)?;
        let rounds = || 1..=HOT;
        let below = rounds().filter(|n| n % 0x100 < 7).count();
        let negative = rounds().filter(|n| n % 0x100 > 7 && (n % 0x100 - 7) & 0x80 != 0).count();
        g.expect(r8, below as u64)?;
        g.expect(r9, (HOT / 2).into())?;
        g.expect(r10, 0)?;
        g.expect(r11, (HOT / 2).into())?;
        g.expect(r12, negative as u64)
    });
}

#[test]
fn a_fault_behind_a_branch_that_is_mostly_taken_is_where_it_is() {
    long(|g| {
        const GOOD: u64 = DATA;
        let (mut often, mut access, mut next) = (g.create_label(), g.create_label(), g.create_label());
        // It counts in R12, and in R11 what is not as it should be.
        g.handler(PF, |g| {
            g.add(rsp, 8)?;
            g.inc(r12)?;
            g.lea(rax, ptr(access))?;
            g.xor(rax, qword_ptr(rsp))?;
            g.or(r11, rax)?;
            g.mov(rax, r9)?;
            g.sub(rax, r8)?;
            g.dec(rax)?;
            g.or(r11, rax)?;
            g.mov(rbx, GOOD)?;
            g.iretq()
        })?;
        for register in [r8, r9, r11, r12] {
            g.xor(register, register)?;
        }
        g.mov(qword_ptr(GOOD), 1)?;
        g.rounds(HOT, |g| {
            g.mov(rbx, GOOD)?;
            g.mov(rax, WINDOW)?;
            g.test(r13d, 0x3ff)?;
            g.cmovz(rbx, rax)?;
            g.inc(r9)?;
            g.test(r13d, 7)?;
            g.jnz(often)?;
            g.nop()?;
            g.jmp(often)?;
            g.place(&mut next)?;
            g.nop()
        })?;
        let mut end = g.create_label();
        g.jmp(end)?;
        g.nop()?;
        g.place(&mut often)?;
        g.place(&mut access)?;
        g.add(r8, qword_ptr(rbx))?;
        g.jmp(next)?;
        g.place(&mut end)?;
        g.expect(r12, (HOT / 0x400).into())?;
        g.expect(r11, 0)?;
        g.expect(r8, HOT.into())
    });
}

#[test]
fn code_behind_a_branch_that_is_mostly_taken_may_change() {
    // TEST EDI, EDI; JNZ 0x100; XOR EAX, EAX; RET. And there MOV EAX, imm32; JMP 0x200. And there INC ESI; RET.
    const FUNCTION: [u8; 11] = [0x85, 0xff, 0x0f, 0x85, 0xf8, 0, 0, 0, 0x31, 0xc0, 0xc3];
    const SECOND: [u8; 10] = [0xb8, 0, 0, 0, 0, 0xe9, 0xf6, 0, 0, 0];
    const THIRD: [u8; 3] = [0xff, 0xc6, 0xc3];
    long(|g| {
        g.put_bytes(frame(0), FUNCTION);
        g.put_bytes(frame(0) + 0x100, SECOND);
        g.put_bytes(frame(0) + 0x200, THIRD);
        g.mov(rbx, frame(0))?;
        g.mov(edi, 1)?;
        for register in [rsi, rdx, r12] {
            g.xor(register, register)?;
        }
        g.rounds(HOT, |g| {
            // Seldom enough for it to become hot in between.
            let mut same = g.create_label();
            g.test(r13d, 0x7fff)?;
            g.jnz(same)?;
            g.mov(edx, r13d)?;
            g.mov(dword_ptr(rbx + 0x101), edx)?;
            g.place(&mut same)?;
            g.call(rbx)?;
            g.xor(eax, edx)?;
            g.or(r12d, eax)
        })?;
        g.expect(r12, 0)?;
        g.expect(rsi, HOT.into())?;
        g.expect(rdx, 0x8000)
    });
}

#[test]
fn a_way_that_comes_back_to_its_middle_goes_on_there() {
    const SECOND: u64 = 0x40;
    // MOV ECX, 2; INC ESI; DEC ECX; JNZ to the second part; JMP RBX.
    const FIRST_PART: [u8; 13] = [0xb9, 2, 0, 0, 0, 0xff, 0xc6, 0xff, 0xc9, 0x75, 0x35, 0xff, 0xe3];
    // INC R8D; TEST EDI, EDI; JNZ to the INC; INC R9D; JMP RBX.
    const SECOND_PART: [u8; 12] = [0x41, 0xff, 0xc0, 0x85, 0xff, 0x75, 0xbe, 0x41, 0xff, 0xc1, 0xff, 0xe3];
    long(|g| {
        g.put_bytes(frame(0), FIRST_PART);
        g.put_bytes(frame(0) + SECOND, SECOND_PART);
        for register in [rsi, r8, r9] {
            g.xor(register, register)?;
        }
        // The second part becomes hot by itself, and then the first one.
        for start in [frame(0) + SECOND, frame(0)] {
            let mut back = g.create_label();
            g.mov(rax, start)?;
            g.lea(rbx, ptr(back))?;
            g.rounds(HOT, |g| {
                g.mov(ecx, 1)?;
                g.mov(edi, r13d)?;
                g.and(edi, 0x3f)?;
                g.jmp(rax)?;
                g.place(&mut back)?;
                g.nop()
            })?;
        }
        // One in 64 times the second part does not lead to the first one's middle.
        let seldom = u64::from(HOT / 0x40);
        g.expect(rsi, 3 * u64::from(HOT) - 2 * seldom)?;
        g.expect(r8, 2 * u64::from(HOT))?;
        g.expect(r9, 2 * seldom)
    });
}

#[test]
fn a_long_loop_of_long_instructions_is_nothing_special() {
    const PARTS: [u8; 2] = [12, 120];
    long(|g| {
        // Each part is MOV RAX, imm64 many times, and a JMP to what follows. Then INC R8D, DEC ECX, JNZ to the start, JMP RBX.
        let mut code = Vec::new();
        for part in PARTS {
            for n in 1..=part {
                code.extend([0x48, 0xb8, n, 2, 3, 4, 5, 6, 7, 8]);
            }
            code.extend([0xeb, 0]);
        }
        code.extend([0x41, 0xff, 0xc0, 0xff, 0xc9, 0x0f, 0x85]);
        code.extend((-(code.len() as i32) - 4).to_le_bytes());
        code.extend([0xff, 0xe3]);
        g.put_bytes(frame(0), code);
        let mut back = g.create_label();
        g.xor(r8d, r8d)?;
        g.lea(rbx, ptr(back))?;
        g.mov(ecx, HOT)?;
        g.mov(rdx, frame(0))?;
        g.jmp(rdx)?;
        g.place(&mut back)?;
        g.expect(r8, HOT.into())?;
        g.expect(rax, 0x0807_0605_0403_0200 | u64::from(PARTS[1]))
    });
}
