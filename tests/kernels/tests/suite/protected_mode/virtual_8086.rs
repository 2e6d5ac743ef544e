//! Virtual-8086 mode (APM volume 2, section 10.1). The processor model has no extensions to it (VME).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::{GP, UD};
use tern_test_kernels::expect::{Fault, fault};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::protected::{Protected, protected};

use super::levels::point_sysenter_to;

/// EFLAGS: virtual-8086 mode, and the I/O privilege level 3.
const VM: u32 = 1 << 17;
const IOPL: u32 = 3 << 12;
/// Where the 16-bit code is copied to: 0x1000:0x0010.
const SEGMENT: u32 = 0x3000;
const OFFSET: u32 = 0x10;

/// Runs `code` at 0x3000:0x0010 with these flags added, a stack at 0x4000:0x0100, and FS = 0x5000; it ends by `fault`.
fn run(g: &mut Protected, flags: u32, code: &[u8], fault: Fault) -> Emit {
    let start = SEGMENT * 16 + OFFSET;
    for (n, byte) in (0_u32..).zip(code) {
        g.mov(byte_ptr(start + n), u32::from(*byte))?;
    }
    let mark = g.mark();
    g.expect_fault_elsewhere(fault, mark, |g| {
        let mut push = |value: u32| g.push(value as i32);
        for segment in [0, 0x5000, 0, 0] {
            push(segment)?; // GS, FS, DS, ES
        }
        push(0x4000)?; // SS
        push(0x100)?; // ESP
        push(flags | VM | 2)?;
        push(SEGMENT)?;
        push(OFFSET)?;
        g.iretd()?;
        g.place(mark)
    })
}

#[test]
fn segments_are_those_of_real_mode_and_an_exception_saves_them() {
    protected(|g| {
        // MOV AX, 0x1234; MOV FS:[0x20], AX; MOV BX, CS; HLT
        let code = [0xb8, 0x34, 0x12, 0x64, 0xa3, 0x20, 0x00, 0x8c, 0xcb, 0xf4];
        run(g, 0, &code, fault(GP).elsewhere())?;
        g.expect_frame(0, OFFSET + 9)?;
        g.expect_frame(1, SEGMENT)?;
        g.expect_frame(2, VM | 2 | 1 << 16)?;
        g.expect_frame(3, 0x100)?;
        g.expect_frame(4, 0x4000)?;
        g.expect_frame(7, 0x5000)?;
        g.and(ebx, 0xffff)?;
        g.expect(ebx, SEGMENT)?;
        g.expect_memory(0x5_0020, 0x1234)
    });
}

#[test]
fn without_iopl_the_interrupt_flag_and_interrupts_are_the_monitors() {
    protected(|g| {
        for code in [&[0xfa][..], &[0xfb], &[0x9c], &[0x9d], &[0xcd, 0x21], &[0xcf]] {
            run(g, 0, code, fault(GP).elsewhere())?;
            g.expect_frame(0, OFFSET)?;
        }
        Ok(())
    });
}

#[test]
fn with_iopl_they_work() {
    protected(|g| {
        // CLI; STI; PUSHF; POP DX; INT 0x80, whose gate is open.
        run(g, IOPL, &[0xfa, 0xfb, 0x9c, 0x5a, 0xcd, 0x80], fault(0x80).elsewhere())?;
        g.expect_frame(0, OFFSET + 6)?;
        g.and(edx, 0xffff)?;
        g.expect(edx, 0x3202)?;
        // Another gate is not.
        run(g, IOPL, &[0xcd, 0x40], fault(GP).code(0x40 << 3 | 2).elsewhere())
    });
}

#[test]
fn ports_need_the_permission_map_whatever_the_level() {
    protected(|g| {
        run(g, IOPL, &[0xe6, 0x80], fault(GP).elsewhere())?;
        g.expect_frame(0, OFFSET)
    });
}

#[test]
fn protected_modes_own_instructions_do_not_exist() {
    protected(|g| {
        // SLDT AX; LAR AX, AX; ARPL AX, AX
        for code in [&[0x0f, 0x00, 0xc0][..], &[0x0f, 0x02, 0xc0], &[0x63, 0xc0]] {
            run(g, IOPL, code, fault(UD).elsewhere())?;
        }
        // MOV EAX, CR0; LGDT [0]
        for code in [&[0x0f, 0x20, 0xc0][..], &[0x0f, 0x01, 0x16, 0, 0]] {
            run(g, IOPL, code, fault(GP).elsewhere())?;
        }
        Ok(())
    });
}

#[test]
fn sysenter_leaves_it() {
    protected(|g| {
        let entry = g.out_of_line(|g| g.ud2())?;
        let address = g.address(entry);
        point_sysenter_to(g, address)?;
        // SYSENTER
        run(g, 0, &[0x0f, 0x34], fault(UD).elsewhere())?;
        g.expect_frame(0, address)
    });
}
