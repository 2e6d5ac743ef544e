//! SYSCALL and SYSRET (APM volume 2, section 6.1.1).

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use tern_test_kernels::device::apic;
use tern_test_kernels::expect::vector::{DB, GP, UD};
use tern_test_kernels::expect::{fault, page_fault};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
/// The page directory of the last of the 4 GiB that are mapped to themselves, and the entry that points to it.
const IDENTITY_LAST_GIB: u64 = PML4 + 0x5000;
const IDENTITY_POINTERS_LAST: u64 = PML4 + 0x1000 + 3 * 8;
const CF: u32 = 1;
const TF: u32 = 1 << 8;
const IF: u32 = 1 << 9;
const DF: u32 = 1 << 10;
const OF: u32 = 1 << 11;
const AC: u32 = 1 << 18;
/// The arithmetic flags.
const STATUS: u32 = OF | 0xd5;

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

/// Has each debug exception counted in R8.
fn count_traps(g: &mut Long) -> Emit {
    g.handler(DB, |g| {
        g.inc(r8)?;
        g.iretq()
    })?;
    g.xor(r8d, r8d)
}

/// Puts a program's code into the window's first page, and that also below 4 GiB, at the address that is returned.
fn put_below_4_gib<const LENGTH: usize>(g: &mut Long, code: [u8; LENGTH]) -> u64 {
    g.put(IDENTITY_LAST_GIB, &[0x20_0000 | P | RW | US | PS]);
    g.put(IDENTITY_POINTERS_LAST, &[IDENTITY_LAST_GIB | P | RW | US]);
    g.put_bytes(frame(0), code);
    0xc000_0000
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
        count_traps(g)?;
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
fn a_return_that_sets_the_trap_flag_traps_before_what_it_returns_to() {
    long(|g| {
        // What was stepped is in R9, how often in R8.
        g.handler(DB, |g| {
            g.inc(r8)?;
            g.add(r9, qword_ptr(rsp))?;
            g.and(dword_ptr(rsp + 16), !(TF as i32))?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        g.xor(r9d, r9d)?;
        set_up(g, TF, |g| {
            g.or(r11d, TF as i32)?;
            g.sysretq()
        })?;
        g.user(|g| {
            let mut behind = g.create_label();
            g.lea(r14, ptr(behind))?;
            g.xor(ebx, ebx)?;
            g.rounds(WARM, |g| {
                g.syscall()?;
                g.place(&mut behind)?;
                g.inc(ebx)?;
                g.sub(r9, r14)
            })
        })?;
        g.expect(rbx, WARM.into())?;
        g.expect(r8, WARM.into())?;
        g.expect(r9, 0)
    });
}

#[test]
fn a_return_of_a_program_that_is_stepped_traps_once() {
    long(|g| {
        count_traps(g)?;
        // The program's flags, TF among them, are in R11.
        set_up(g, TF, |g| g.sysretq())?;
        g.user_flags = TF | 2;
        g.user(|g| {
            g.syscall()?;
            g.mov(r9, r8)?;
            g.mov(r10, r8)
        })?;
        g.expect(r9, 1)?;
        g.expect(r10, 2)
    });
}

#[test]
fn a_return_can_go_to_compatibility_mode() {
    long(|g| {
        // INC EAX in 32-bit code, a prefix in 64-bit code; INT 0x80.
        let linear = put_below_4_gib(g, [0x40, 0xcd, 0x80]);
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

/// What a kernel's entry does in hot code: adds the flags that it has to RBX, those that the program had to RBP, its selectors to
/// R15, and changes the program's flags in `toggled`.
fn count_and_return(g: &mut Long, toggled: u32) -> Emit {
    g.pushfq()?;
    g.pop(rax)?;
    g.add(rbx, rax)?;
    g.add(rbp, r11)?;
    g.mov(eax, cs)?;
    g.add(r15, rax)?;
    g.mov(eax, ss)?;
    g.add(r15, rax)?;
    g.xor(r11d, toggled as i32)?;
    g.sysretq()
}

/// A program's subroutine: so many system calls in a loop, with arithmetic flags that follow from R13 ([`status`]). The flags that
/// it has behind them are added to R9, the selectors to R14.
fn loop_of_calls(g: &mut Long, count: u32) -> Result<CodeLabel, IcedError> {
    g.out_of_line(|g| {
        for register in [rbx, rbp, r15, r9, r14] {
            g.xor(register, register)?;
        }
        g.rounds(count, |g| {
            // Overflow by an addition, which keeps AH; the others from that.
            g.mov(eax, r13d)?;
            g.and(al, 1)?;
            g.neg(al)?;
            g.and(al, 0x7f)?;
            g.mov(edx, r13d)?;
            g.mov(ah, dl)?;
            g.add(al, 1)?;
            g.sahf()?;
            g.syscall()?;
            g.pushfq()?;
            g.pop(rax)?;
            g.add(r9, rax)?;
            g.mov(eax, cs)?;
            g.add(r14, rax)?;
            g.mov(eax, ss)?;
            g.add(r14, rax)
        })?;
        g.ret()
    })
}

/// The arithmetic flags of a round.
const fn status(round: u32) -> u32 {
    round & 0xd5 | (round & 1) << 11
}

/// The sum of what each of so many rounds adds.
fn sum(rounds: u32, of: impl Fn(u32) -> u32) -> u64 {
    (1..=rounds).map(|round| u64::from(of(round))).sum()
}

#[test]
fn hot_calls_keep_and_clear_the_flags_that_they_should() {
    const SELECTORS: u64 = CODE_SELECTOR as u64 + DATA_SELECTOR as u64;
    const USER_SELECTORS: u64 = USER_CODE_SELECTOR as u64 + USER_DATA_SELECTOR as u64;
    const TOGGLED: u32 = OF | CF | 1 << 6;
    for mask in [0, IF | DF | CF, STATUS | IF | DF | AC | TF, AC | OF] {
        for user in [IF, IF | DF, IF | AC] {
            long(|g| {
                set_up(g, mask, |g| count_and_return(g, TOGGLED))?;
                g.user_flags = user | 2;
                let rounds = if mask == 0 { HOT } else { WARM };
                let calls = loop_of_calls(g, rounds)?;
                g.user(|g| g.call(calls))?;
                let flags = |round| status(round) | user | 2;
                g.expect(rbx, sum(rounds, |round| flags(round) & !mask))?;
                g.expect(rbp, sum(rounds, flags))?;
                g.expect(r9, sum(rounds, |round| flags(round) ^ TOGGLED))?;
                g.expect(r15, SELECTORS * u64::from(rounds))?;
                g.expect(r14, USER_SELECTORS * u64::from(rounds))
            });
        }
    }
}

#[test]
fn hot_calls_go_where_the_registers_say_now() {
    long(|g| {
        let calls = loop_of_calls(g, WARM)?;
        let loops = |g: &mut Long, kernel: u16, program: u16, kernel_flags: u64| {
            g.user(|g| g.call(calls))?;
            g.expect(rbx, kernel_flags)?;
            g.expect(r15, u64::from(kernel) * u64::from(WARM))?;
            g.expect(r14, u64::from(program) * u64::from(WARM))
        };
        let kernel = CODE_SELECTOR + DATA_SELECTOR;
        let program = USER_CODE_SELECTOR + USER_DATA_SELECTOR;
        g.user_flags = IF | 2;
        set_up(g, 0, |g| count_and_return(g, 0))?;
        loops(g, kernel, program, sum(WARM, |round| status(round) | IF | 2))?;
        write_msr(g, SFMASK, (STATUS | IF).into())?;
        loops(g, kernel, program, sum(WARM, |_| 2))?;
        // Another entry, and other selectors, which are not looked up.
        set_up(g, STATUS | IF, |g| {
            g.mov(eax, cs)?;
            g.add(r15, rax)?;
            g.inc(rbx)?;
            g.sysretq()
        })?;
        let (base, user_base) = (CODE_SELECTOR + 0x100, USER_CODE_32_SELECTOR + 0x200);
        write_msr(g, STAR, u64::from(base) << 32 | u64::from(user_base) << 48)?;
        loops(g, base, program + 0x400, WARM.into())?;
        write_msr(g, EFER, 0x900)?;
        g.expect_user_fault(fault(UD).elsewhere(), |g| g.call(calls))
    });
}

#[test]
fn an_interrupt_that_waits_is_taken_right_behind_a_hot_return() {
    const VECTOR: u8 = 0x50;
    /// To the sender itself.
    const SELF: u32 = 1 << 18;
    long(|g| {
        apic::enable(g)?;
        g.handler(VECTOR, |g| {
            g.inc(r8)?;
            apic::end_of_interrupt(g)?;
            g.iretq()
        })?;
        set_up(g, IF, |g| {
            g.mov(r12, rcx)?;
            g.mov(r14, r11)?;
            apic::write(g, apic::ICR, SELF | u32::from(VECTOR))?;
            // Every other time it has waited for long.
            let mut soon = g.create_label();
            g.test(r13d, 1)?;
            g.jz(soon)?;
            g.spin(50)?;
            g.place(&mut soon)?;
            g.mov(rcx, r12)?;
            g.mov(r11, r14)?;
            g.sysretq()
        })?;
        g.xor(r8d, r8d)?;
        g.xor(ebx, ebx)?;
        g.user_flags = IF | 2;
        g.user(|g| {
            g.rounds(WARM, |g| {
                g.syscall()?;
                g.add(rbx, r8)
            })
        })?;
        g.expect(r8, WARM.into())?;
        g.expect(rbx, u64::from(WARM) * u64::from(WARM + 1) / 2)
    });
}

#[test]
fn a_hot_return_that_sets_the_trap_flag_is_followed_by_a_trap() {
    long(|g| {
        // It clears the flag in the frame.
        g.handler(DB, |g| {
            g.inc(r8)?;
            g.and(dword_ptr(rsp + 16), !(TF as i32))?;
            g.iretq()
        })?;
        set_up(g, IF, |g| {
            // Every other time.
            g.mov(eax, r13d)?;
            g.and(eax, 1)?;
            g.shl(eax, 8)?;
            g.or(r11, rax)?;
            g.sysretq()
        })?;
        g.xor(r8d, r8d)?;
        g.user(|g| g.rounds(WARM, |g| g.syscall()))?;
        g.expect(r8, u64::from(WARM) / 2)
    });
}

#[test]
fn a_hot_return_to_an_address_that_is_not_canonical_is_a_fault() {
    long(|g| {
        set_up(g, IF, |g| {
            g.mov(rax, 1_u64 << 47)?;
            g.cmp(r13d, 1)?;
            g.cmove(rcx, rax)?;
            g.sysretq()
        })?;
        g.expect_user_fault(fault(GP).elsewhere(), |g| g.rounds(WARM, |g| g.syscall()))?;
        g.expect(r13, 1)
    });
}

#[test]
fn a_hot_call_that_keeps_ac_opens_the_programs_memory_until_ac_is_cleared() {
    const SMAP: i32 = 1 << 21;
    long(|g| {
        g.map(0, frame(0) | P | RW | US);
        g.mov(rax, cr4)?;
        g.or(eax, SMAP)?;
        g.mov(cr4, rax)?;
        set_up(g, 0, |g| {
            let mut opened = g.create_label();
            g.add(rbx, qword_ptr(r12))?;
            g.cmp(r13d, 1)?;
            g.jne(opened)?;
            g.mov(rsp, r14)?;
            g.clac()?;
            g.mov(rax, qword_ptr(r12))?;
            g.place(&mut opened)?;
            g.sysretq()
        })?;
        g.mov(r12, WINDOW)?;
        g.mov(r14, rsp)?;
        g.xor(ebx, ebx)?;
        g.user_flags = AC | 2;
        g.expect_user_fault(page_fault(1, WINDOW).elsewhere(), |g| {
            g.mov(qword_ptr(r12), 7)?;
            g.rounds(WARM, |g| g.syscall())
        })?;
        g.expect(rbx, 7 * u64::from(WARM))
    });
}

#[test]
fn hot_calls_and_code_of_32_bits_alternate_at_the_same_place() {
    long(|g| {
        // In 32-bit code: INC EAX, DEC EDX, JNZ back, SYSCALL. In 64-bit code INC and DEC are prefixes.
        let linear = put_below_4_gib(g, [0x40, 0x4a, 0x75, 0xfc, 0x0f, 0x05]);
        let to_32_bits = |g: &mut Long| {
            g.mov(ecx, linear as u32)?;
            g.mov(r11d, 2)?;
            g.mov(edx, 3)?;
            g.sysret()
        };
        // From 32-bit code, back to the same place in 64-bit code, with ZF.
        set_up(g, 0, |g| {
            g.mov(ecx, linear as u32)?;
            g.mov(r11d, 0x42)?;
            g.sysretq()
        })?;
        g.mov(ecx, LSTAR)?;
        g.rdmsr()?;
        g.mov(ecx, CSTAR)?;
        g.wrmsr()?;
        set_up(g, 0, |g| {
            let mut last = g.create_label();
            g.inc(rbx)?;
            g.dec(r13d)?;
            g.jz(last)?;
            to_32_bits(g)?;
            g.place(&mut last)?;
            g.int(0x80)
        })?;
        g.mov(r13d, WARM)?;
        g.xor(ebx, ebx)?;
        g.xor(eax, eax)?;
        g.expect_fault(fault(0x80).elsewhere(), to_32_bits)?;
        g.expect(rax, 3 * u64::from(WARM))?;
        g.expect(rbx, WARM.into())
    });
}
