//! The interrupt vector table, and devices without protection.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::{DB, DE, UD};
use tern_test_kernels::real::{DATA, real};

#[test]
fn an_interrupt_pushes_flags_and_address_and_comes_back() {
    real(|g| {
        g.handler(0x40, |g| {
            g.push(bp)?;
            g.mov(bp, sp)?;
            g.movzx(ebx, word_ptr(bp + 6))?;
            g.movzx(edx, word_ptr(bp + 4))?;
            g.movzx(esi, word_ptr(bp + 2))?;
            g.pushf()?;
            g.pop(ax)?;
            g.movzx(edi, ax)?;
            g.pop(bp)?;
            g.iret()
        })?;
        let behind = g.mark();
        g.sti()?;
        g.stc()?;
        g.int(0x40)?;
        g.place(behind)?;
        g.setc(cl)?;
        g.cli()?;
        g.movzx(ecx, cl)?;
        g.expect(ecx, 1)?;
        g.and(ebx, 0x201)?;
        g.expect(ebx, 0x201)?;
        g.expect(edx, 0)?;
        let address = g.address(behind);
        g.expect(esi, address)?;
        // Interrupts are off inside.
        g.and(edi, 0x200)?;
        g.expect(edi, 0)
    });
}

#[test]
fn faults_are_delivered_at_their_instruction_and_without_error_code() {
    real(|g| {
        for (vector, length) in [(DE, 2), (UD, 2)] {
            g.handler(vector, |g| {
                g.push(bp)?;
                g.mov(bp, sp)?;
                g.movzx(esi, word_ptr(bp + 2))?;
                g.add(word_ptr(bp + 2), length)?;
                g.pop(bp)?;
                g.iret()
            })?;
        }
        let (first, second) = (g.mark(), g.mark());
        g.xor(cx, cx)?;
        g.place(first)?;
        g.div(cx)?;
        let address = g.address(first);
        g.expect(esi, address)?;
        g.place(second)?;
        g.ud2()?;
        let address = g.address(second);
        g.expect(esi, address)
    });
}

#[test]
fn a_return_leaves_the_flags_of_virtual_interrupts_alone() {
    const VIF_AND_VIP: u32 = 3 << 19;
    const ID: u32 = 1 << 21;
    real(|g| {
        let behind = g.mark();
        let address = g.address(behind);
        for value in [VIF_AND_VIP | ID | 2, 0, address] {
            g.mov(eax, value)?;
            g.push(eax)?;
        }
        g.iretd()?;
        g.place(behind)?;
        g.pushfd()?;
        g.pop(eax)?;
        g.and(eax, (VIF_AND_VIP | ID) as i32)?;
        g.expect(eax, ID)
    });
}

#[test]
fn lidt_moves_and_shortens_the_table() {
    real(|g| {
        g.handler(0x40, |g| {
            g.mov(ebx, 0x40)?;
            g.iret()
        })?;
        // The table moves up by four bytes: vector 0x3f finds what vector 0x40 found.
        let pointer = u32::from(DATA);
        g.mov(word_ptr(pointer), 0x3ff)?;
        g.mov(dword_ptr(pointer + 2), 4)?;
        g.lidt(ptr(pointer))?;
        g.xor(ebx, ebx)?;
        g.int(0x3f)?;
        g.expect(ebx, 0x40)?;
        g.sidt(ptr(pointer + 8))?;
        g.movzx(eax, word_ptr(pointer + 8))?;
        g.expect(eax, 0x3ff)
    });
}

#[test]
fn single_steps_and_breakpoints_work_as_elsewhere() {
    real(|g| {
        g.handler(DB, |g| {
            g.inc(ebx)?;
            g.iret()
        })?;
        g.handler(3, |g| {
            g.inc(ecx)?;
            g.iret()
        })?;
        g.xor(ebx, ebx)?;
        g.xor(ecx, ecx)?;
        g.push(0x102)?;
        g.popf()?;
        g.nop()?;
        g.nop()?;
        g.push(0x2)?;
        g.popf()?;
        g.expect(ebx, 4)?;
        g.int3()?;
        g.expect(ecx, 1)
    });
}

#[test]
fn the_interval_timer_interrupts_a_halted_processor() {
    real(|g| {
        g.handler(0x20, |g| {
            g.inc(ebx)?;
            g.push(ax)?;
            g.mov(al, 0x20)?;
            g.out(0x20, al)?;
            g.pop(ax)?;
            g.iret()
        })?;
        g.xor(ebx, ebx)?;
        let words = [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0xfe),
            (0x43, 0x34),
            (0x40, 0xff),
            (0x40, 4),
        ];
        for (port, value) in words {
            g.mov(al, value)?;
            g.out(port, al)?;
        }
        for ticks in 1..=3 {
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.expect(ebx, ticks)?;
        }
        Ok(())
    });
}

#[test]
fn ports_are_open() {
    real(|g| {
        // The real-time clock's memory keeps what is written.
        for (port, value) in [(0x70, 0x40), (0x71, 0x5c), (0x70, 0x40)] {
            g.mov(al, value)?;
            g.out(port, al)?;
        }
        g.xor(eax, eax)?;
        g.in_(al, 0x71)?;
        g.expect(eax, 0x5c)
    });
}
