//! SYSCALL and SYSRET (APM volume 2, section 6.1.1).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{DB, GP, UD};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SFMASK: u32 = 0xc000_0084;
/// The page directory of the last of the 4 GiB that are mapped to themselves, and the entry that points to it.
const IDENTITY_LAST_GIB: u64 = PML4 + 0x5000;
const IDENTITY_POINTERS_LAST: u64 = PML4 + 0x1000 + 3 * 8;
const CF: u32 = 1;
const TF: u32 = 1 << 8;
const IF: u32 = 1 << 9;
const DF: u32 = 1 << 10;

/// Writes a register. RAX, RCX and RDX are lost.
fn write_msr(g: &mut Long, number: u32, value: u64) -> Emit {
    g.mov(ecx, number)?;
    g.mov(eax, value as u32)?;
    g.mov(edx, (value >> 32) as u32)?;
    g.wrmsr()
}

/// System calls go to `entry`; flags in `mask` are cleared.
fn set_up(g: &mut Long, mask: u32, entry: impl FnOnce(&mut Long) -> Emit) -> Emit {
    let entry = g.out_of_line(entry)?;
    g.lea(rax, ptr(entry))?;
    g.mov(rdx, rax)?;
    g.shr(rdx, 32)?;
    g.mov(ecx, LSTAR)?;
    g.wrmsr()?;
    // SYSRET's selectors begin with that of compatibility-mode code.
    let star = u64::from(CODE_SELECTOR) << 32 | u64::from(USER_CODE_32_SELECTOR) << 48;
    write_msr(g, STAR, star)?;
    write_msr(g, SFMASK, mask.into())
}

#[test]
fn a_call_enters_the_kernel_and_returns_behind_itself() {
    long(|g| {
        set_up(g, IF | DF, |g| {
            g.mov(r8, cs)?;
            g.mov(r9, ss)?;
            g.mov(r12, rsp)?;
            g.pushfq()?;
            g.pop(r10)?;
            g.mov(r13, r11)?;
            g.sysretq()
        })?;
        g.user_flags = IF | DF | CF | 2;
        g.user(|g| {
            g.mov(r15, rsp)?;
            let mut behind = g.create_label();
            g.lea(r14, ptr(behind))?;
            g.syscall()?;
            g.place(&mut behind)?;
            g.sub(r14, rcx)?;
            g.mov(rax, cs)?;
            g.mov(rbx, ss)
        })?;
        g.expect(r8, CODE_SELECTOR.into())?;
        g.expect(r9, DATA_SELECTOR.into())?;
        g.sub(r12, r15)?;
        g.expect(r12, 0)?;
        g.expect(r10, (CF | 2).into())?;
        g.expect(r13, (IF | DF | CF | 2).into())?;
        g.expect(r14, 0)?;
        g.expect(rax, USER_CODE_SELECTOR.into())?;
        g.expect(rbx, USER_DATA_SELECTOR.into())
    });
}

#[test]
fn without_sce_there_is_none() {
    long(|g| {
        write_msr(g, EFER, 0x900)?;
        g.expect_user_fault(fault(UD), |g| g.syscall())?;
        g.expect_fault(fault(UD), |g| g.sysretq())
    });
}

#[test]
fn user_code_may_not_return_from_calls() {
    long(|g| g.expect_user_fault(fault(GP), |g| g.sysretq()));
}

#[test]
fn a_call_whose_mask_clears_the_trap_flag_is_not_stepped_into() {
    long(|g| {
        g.handler(DB, |g| {
            g.inc(r8)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        set_up(g, TF, |g| {
            g.mov(r9, r8)?;
            g.nop()?;
            g.mov(r10, r8)?;
            g.sysretq()
        })?;
        g.user_flags = TF | 2;
        g.user(|g| {
            g.nop()?;
            g.syscall()?;
            g.nop()
        })?;
        g.expect(r9, 1)?;
        g.expect(r10, 1)
    });
}

#[test]
fn a_return_can_go_to_compatibility_mode() {
    long(|g| {
        // The window's first page also lies below 4 GiB: INC EAX in 32-bit code, a prefix in 64-bit code; INT 0x80.
        let linear = 0xc000_0000_u64;
        g.put(IDENTITY_LAST_GIB, &[0x20_0000 | P | RW | US | PS]);
        g.put(IDENTITY_POINTERS_LAST, &[IDENTITY_LAST_GIB | P | RW | US]);
        g.put_bytes(frame(0), [0x40, 0xcd, 0x80]);
        set_up(g, 0, |g| g.ud2())?;
        g.mov(ecx, linear as u32)?;
        g.mov(r11d, 2)?;
        g.mov(eax, 6)?;
        g.expect_fault(fault(0x80).elsewhere(), |g| g.sysret())?;
        g.expect(rax, 7)?;
        g.expect_frame(0, linear + 3)?;
        g.expect_frame(1, USER_CODE_32_SELECTOR.into())
    });
}
