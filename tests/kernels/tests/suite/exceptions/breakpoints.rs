//! Debug registers (APM volume 2, section 13.1).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{DB, GP, UD};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// DR6: the bits that are always one.
const DR6_FIXED: u64 = 0xffff_0ff0;
/// DR7: breakpoint 0 is enabled.
const ENABLE_0: u32 = 1 << 1;
/// DR7, breakpoint 0: execution, one byte.
const EXECUTE: u32 = 0;
/// DR7, breakpoint 0: writes of 4 bytes.
const WRITE_4: u32 = 0xd << 16;
/// DR7, breakpoint 0: reads and writes of 8 bytes.
const ACCESS_8: u32 = 0xb << 16;
/// DR7, breakpoint 0: port accesses, one byte.
const PORT_1: u32 = 2 << 16;
/// DR7, breakpoint 0: reads and writes of 2 bytes.
const ACCESS_2: u32 = 7 << 16;
/// DR7: accesses to debug registers.
const GD: u32 = 1 << 13;
/// RFLAGS: breakpoints on the next instruction are not met.
const RF: u64 = 1 << 16;

/// The handler counts in R8, notes DR6 in R9 and the distance of RIP from R10 in R11, and lets execution resume.
fn count_hits(g: &mut Long) -> Emit {
    g.handler(DB, |g| {
        g.inc(r8)?;
        g.push(rax)?;
        g.mov(r9, dr6)?;
        g.xor(eax, eax)?;
        g.mov(dr6, rax)?;
        g.pop(rax)?;
        g.mov(r11, qword_ptr(rsp))?;
        g.sub(r11, r10)?;
        g.or(dword_ptr(rsp + 16), RF as i32)?;
        g.iretq()
    })?;
    g.xor(r8d, r8d)
}

/// Breakpoint 0 at `address` under `condition`. RAX is lost.
fn set_breakpoint(g: &mut Long, address: u64, condition: u32) -> Emit {
    g.mov(rax, address)?;
    g.mov(dr0, rax)?;
    g.mov(eax, ENABLE_0 | condition)?;
    g.mov(dr7, rax)
}

#[test]
fn an_instruction_breakpoint_is_a_fault_that_resume_passes() {
    long(|g| {
        count_hits(g)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.mov(dr0, r10)?;
        g.mov(eax, ENABLE_0 | EXECUTE)?;
        g.mov(dr7, rax)?;
        g.xor(ebx, ebx)?;
        g.mov(ecx, 3)?;
        g.place(&mut here)?;
        g.inc(ebx)?;
        g.dec(ecx)?;
        g.jnz(here)?;
        g.expect(r8, 3)?;
        g.expect(rbx, 3)?;
        g.expect(r9, DR6_FIXED | 1)?;
        g.expect(r11, 0)
    });
}

#[test]
fn a_write_breakpoint_is_a_trap_behind_the_write() {
    long(|g| {
        count_hits(g)?;
        set_breakpoint(g, frame(0) + 4, WRITE_4)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.mov(ebx, frame(0) as u32)?;
        g.mov(eax, dword_ptr(rbx + 4))?;
        g.mov(dword_ptr(rbx), eax)?;
        g.mov(dword_ptr(rbx + 8), eax)?;
        g.expect(r8, 0)?;
        g.mov(byte_ptr(rbx + 7), 1)?;
        g.place(&mut here)?;
        g.expect(r8, 1)?;
        g.expect(r11, 0)?;
        g.expect(r9, DR6_FIXED | 1)?;
        g.mov(qword_ptr(rbx), rax)?;
        g.lock().inc(dword_ptr(rbx + 4))?;
        g.expect(r8, 3)
    });
}

#[test]
fn a_breakpoint_on_accesses_sees_reads_and_every_kind_of_write() {
    long(|g| {
        count_hits(g)?;
        set_breakpoint(g, frame(0), ACCESS_8)?;
        g.mov(ebx, frame(0) as u32)?;
        g.mov(al, byte_ptr(rbx + 3))?;
        g.expect(r8, 1)?;
        g.movups(xmm0, xmmword_ptr(rbx - 8))?;
        g.expect(r8, 2)?;
        g.mov(esi, ebx)?;
        g.mov(edi, frame(1) as u32)?;
        g.mov(ecx, 4)?;
        g.rep().movsd()?;
        // Two of the four elements; a processor may tell of several iterations at once.
        g.expect_such(r8, |hits| (3..=4).contains(&hits))?;
        g.xor(r8d, r8d)?;
        g.mov(rbp, rsp)?;
        g.lea(rsp, ptr(rbx + 8))?;
        g.push(rbp)?;
        g.mov(rsp, rbp)?;
        g.expect(r8, 1)
    });
}

#[test]
fn port_breakpoints_exist_with_debug_extensions() {
    long(|g| {
        const DE: u32 = 1 << 3;
        count_hits(g)?;
        g.mov(rax, cr4)?;
        g.or(eax, DE)?;
        g.mov(cr4, rax)?;
        set_breakpoint(g, 0x80, PORT_1)?;
        g.out(0x81, al)?;
        g.expect(r8, 0)?;
        g.out(0x80, al)?;
        g.expect(r8, 1)?;
        // DR4 and DR5 are no other names then.
        g.expect_fault(fault(UD), |g| g.db(&[0x0f, 0x21, 0xe0]))
    });
}

#[test]
fn a_port_breakpoint_sees_each_iteration_of_a_repeated_access() {
    const DE: u32 = 1 << 3;
    long(|g| {
        // The handler adds up what is left to do.
        g.handler(DB, |g| {
            g.inc(r8)?;
            g.add(r9, rcx)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        g.xor(r9d, r9d)?;
        g.mov(rax, cr4)?;
        g.or(eax, DE)?;
        g.mov(cr4, rax)?;
        set_breakpoint(g, 0x80, PORT_1)?;
        g.mov(edx, 0x80)?;
        g.mov(rsi, frame(0))?;
        g.mov(ecx, 4)?;
        g.rep().outsb()?;
        g.expect(r8, 4)?;
        g.expect(r9, 3 + 2 + 1)?;
        // There is none where nothing is left to do.
        g.rep().outsb()?;
        g.expect(r8, 4)
    });
}

#[test]
fn disabled_breakpoints_hit_nothing() {
    long(|g| {
        count_hits(g)?;
        set_breakpoint(g, frame(0), WRITE_4)?;
        g.xor(eax, eax)?;
        g.mov(dr7, rax)?;
        g.mov(dword_ptr(frame(0)), 1)?;
        g.expect(r8, 0)
    });
}

#[test]
fn general_detect_guards_the_debug_registers_once() {
    long(|g| {
        const BD: u64 = 1 << 13;
        g.mov(eax, GD)?;
        g.mov(dr7, rax)?;
        g.expect_fault(fault(DB), |g| g.mov(rax, dr7))?;
        g.mov(rax, dr6)?;
        g.expect(rax, DR6_FIXED | BD)?;
        g.mov(rax, dr7)?;
        g.expect(rax, 0x400)
    });
}

#[test]
fn general_detect_leaves_the_resume_flag_as_it_is() {
    long(|g| {
        g.xor(r8d, r8d)?;
        g.xor(r12d, r12d)?;
        g.handler(DB, |g| {
            g.inc(r8d)?;
            g.or(r12, qword_ptr(rsp + 16))?;
            // A second one is too many; it must not be met for ever.
            let mut first = g.create_label();
            g.cmp(r8d, 2)?;
            g.jb(first)?;
            g.or(dword_ptr(rsp + 16), RF as i32)?;
            g.place(&mut first)?;
            g.iretq()
        })?;
        // A breakpoint on an instruction that general detect stops, too, and that is gone on with behind the breakpoint.
        let mut at = g.create_label();
        g.lea(rax, ptr(at))?;
        g.mov(dr0, rax)?;
        g.mov(ebx, ENABLE_0 | EXECUTE | GD)?;
        g.mov(dr7, rbx)?;
        return_to(g, at, RF)?;
        g.place(&mut at)?;
        g.mov(rcx, dr6)?;
        g.and(r12d, RF as i32)?;
        g.expect(r12, RF)?;
        g.expect(r8, 1)
    });
}

#[test]
fn the_handler_of_int1_may_use_the_debug_registers() {
    long(|g| {
        g.mov(eax, GD)?;
        g.mov(dr7, rax)?;
        g.expect_fault(fault(DB).at(1), |g| g.int1())?;
        g.mov(rax, dr7)?;
        g.expect(rax, 0x400)
    });
}

#[test]
fn which_breakpoints_were_met_is_told_of_the_last_exception_only() {
    const B0: u64 = 1;
    const B1: u64 = 1 << 1;
    const BS: u64 = 1 << 14;
    long(|g| {
        count_hits(g)?;
        set_breakpoint(g, frame(0), WRITE_4)?;
        g.mov(rax, DR6_FIXED | BS | B1)?;
        g.mov(dr6, rax)?;
        g.mov(rbx, frame(0))?;
        g.mov(dword_ptr(rbx), eax)?;
        g.expect(r8, 1)?;
        g.expect(r9, DR6_FIXED | BS | B0)
    });
}

#[test]
fn the_upper_halves_of_dr6_and_dr7_must_be_zero() {
    long(|g| {
        g.mov(rax, 1_u64 << 32)?;
        g.expect_fault(fault(GP), |g| g.mov(dr6, rax))?;
        g.expect_fault(fault(GP), |g| g.mov(dr7, rax))?;
        g.mov(dr3, rax)?;
        g.mov(rbx, dr3)?;
        g.expect(rbx, 1 << 32)
    });
}

#[test]
fn a_breakpoint_in_the_kernel_is_hit_by_user_code_too() {
    long(|g| {
        count_hits(g)?;
        set_breakpoint(g, USER + frame(0), WRITE_4)?;
        g.mov(rbx, USER + frame(0))?;
        g.user(|g| g.mov(dword_ptr(rbx), 5))?;
        g.expect(r8, 1)?;
        g.expect_memory(frame(0), 5)
    });
}

/// Breakpoint 0 at an instruction. RAX is lost.
fn set_breakpoint_at(g: &mut Long, label: CodeLabel) -> Emit {
    g.lea(rax, ptr(label))?;
    g.mov(dr0, rax)?;
    g.mov(eax, ENABLE_0 | EXECUTE)?;
    g.mov(dr7, rax)
}

#[test]
fn a_breakpoint_that_a_load_of_ss_meets_is_told_of_behind_the_next_instruction() {
    long(|g| {
        count_hits(g)?;
        g.mov(rbx, frame(0))?;
        g.mov(word_ptr(rbx), i32::from(DATA_SELECTOR))?;
        set_breakpoint(g, frame(0), ACCESS_2)?;
        let mut behind = g.create_label();
        g.lea(r10, ptr(behind))?;
        g.mov(ss, word_ptr(rbx))?;
        g.mov(ecx, 1)?;
        g.place(&mut behind)?;
        g.expect(r8, 1)?;
        g.expect(r9, DR6_FIXED | 1)?;
        g.expect(r11, 0)?;
        // A fault of the next instruction is all that is told of.
        g.handler(UD, |g| {
            g.add(qword_ptr(rsp), 2)?;
            g.iretq()
        })?;
        g.mov(ss, word_ptr(rbx))?;
        g.ud2()?;
        g.nop()?;
        g.expect(r8, 1)
    });
}

#[test]
fn a_breakpoint_that_a_load_of_ss_meets_is_told_of_in_the_handler_of_the_next_instruction() {
    long(|g| {
        count_hits(g)?;
        g.mov(rbx, frame(0))?;
        g.mov(word_ptr(rbx), i32::from(DATA_SELECTOR))?;
        let mut entry = g.create_label();
        g.handler(0x40, |g| {
            g.place(&mut entry)?;
            g.mov(r12, r8)?;
            g.iretq()
        })?;
        g.lea(r10, ptr(entry))?;
        set_breakpoint(g, frame(0), ACCESS_2)?;
        g.mov(ss, word_ptr(rbx))?;
        g.int(0x40)?;
        g.expect(r12, 1)?;
        g.expect(r8, 1)?;
        g.expect(r11, 0)?;
        g.expect(r9, DR6_FIXED | 1)
    });
}

#[test]
fn breakpoints_on_the_instruction_behind_a_load_of_ss_are_not_met() {
    long(|g| {
        count_hits(g)?;
        g.mov(ebx, u32::from(DATA_SELECTOR))?;
        let (mut behind, mut next) = (g.create_label(), g.create_label());
        set_breakpoint_at(g, behind)?;
        g.mov(ss, ebx)?;
        g.place(&mut behind)?;
        g.mov(ecx, 1)?;
        g.expect(r8, 0)?;
        set_breakpoint_at(g, next)?;
        g.mov(ss, ebx)?;
        g.mov(ecx, 1)?;
        g.place(&mut next)?;
        g.mov(ecx, 1)?;
        g.expect(r8, 1)
    });
}

/// Pushes what IRETQ pops to go on at `label` on the same stack, with these flags beyond those that are always set. RAX is lost.
fn push_return(g: &mut Long, label: CodeLabel, flags: u64) -> Emit {
    g.mov(rax, rsp)?;
    g.push(i32::from(DATA_SELECTOR))?;
    g.push(rax)?;
    g.push((flags | 2) as i32)?;
    g.push(i32::from(CODE_SELECTOR))?;
    g.lea(rax, ptr(label))?;
    g.push(rax)
}

/// Goes on at `label` by IRETQ. RAX is lost.
fn return_to(g: &mut Long, label: CodeLabel, flags: u64) -> Emit {
    push_return(g, label, flags)?;
    g.iretq()
}

#[test]
fn a_repeated_instruction_that_is_resumed_does_not_meet_its_breakpoint_again() {
    long(|g| {
        count_hits(g)?;
        let mut repeated = g.create_label();
        set_breakpoint_at(g, repeated)?;
        g.mov(rdi, frame(0))?;
        g.mov(ecx, 4)?;
        g.place(&mut repeated)?;
        g.rep().stosb()?;
        g.expect(r8, 1)
    });
}

#[test]
fn the_resume_flag_is_over_when_a_software_interrupt_saves_the_flags() {
    long(|g| {
        g.handler(0x40, |g| {
            g.mov(r12, qword_ptr(rsp + 16))?;
            g.iretq()
        })?;
        let mut interrupt = g.create_label();
        set_breakpoint_at(g, interrupt)?;
        return_to(g, interrupt, RF)?;
        g.place(&mut interrupt)?;
        g.int(0x40)?;
        g.and(r12d, RF as i32)?;
        g.expect(r12, 0)
    });
}

#[test]
fn the_resume_flag_that_iret_sets_stays_also_where_iret_itself_was_resumed() {
    long(|g| {
        count_hits(g)?;
        let (mut again, mut end) = (g.create_label(), g.create_label());
        set_breakpoint_at(g, end)?;
        // What the second return pops.
        push_return(g, end, RF)?;
        return_to(g, again, RF)?;
        g.place(&mut again)?;
        g.iretq()?;
        g.ud2()?;
        g.place(&mut end)?;
        g.nop()?;
        g.expect(r8, 0)
    });
}

#[test]
fn a_breakpoint_that_a_delivery_meets_is_told_of_before_the_handlers_first_instruction() {
    long(|g| {
        count_hits(g)?;
        g.handler(UD, |g| {
            g.mov(r12, r8)?;
            g.add(qword_ptr(rsp), 2)?;
            g.iretq()
        })?;
        // Where SS is pushed.
        g.mov(rax, rsp)?;
        g.and(rax, !0xf)?;
        g.sub(rax, 8)?;
        g.mov(dr0, rax)?;
        g.mov(eax, ENABLE_0 | WRITE_4)?;
        g.mov(dr7, rax)?;
        g.ud2()?;
        // What reports pushes there, too.
        g.xor(eax, eax)?;
        g.mov(dr7, rax)?;
        g.expect(r12, 1)?;
        g.expect(r8, 1)?;
        g.expect(r9, DR6_FIXED | 1)
    });
}
