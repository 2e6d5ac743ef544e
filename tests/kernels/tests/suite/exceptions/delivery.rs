//! Gates, stacks and frames; exceptions during the delivery of others.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::*;
use tern_test_kernels::expect::{fault, page_fault};
use tern_test_kernels::long::*;
use tern_vmm::machine::End;

#[test]
fn the_frame_holds_where_it_came_from_and_its_stack_is_aligned() {
    long(|g| {
        g.mov(rbp, rsp)?;
        g.sub(rsp, 3)?;
        g.mov(rbx, rsp)?;
        g.expect_fault(fault(UD), |g| g.ud2())?;
        g.mov(rsp, rbp)?;
        g.expect_frame(1, CODE_SELECTOR.into())?;
        g.expect_frame(3, STACK - 3)?;
        g.expect_frame(4, DATA_SELECTOR.into())?;
        // Five words below the aligned stack pointer.
        g.expect_frame(5, ((STACK - 3) & !15) - 40)
    });
}

#[test]
fn entries_from_user_mode_use_the_stack_of_the_tss() {
    long(|g| {
        g.expect_user_fault(fault(UD), |g| g.ud2())?;
        g.expect_frame(1, USER_CODE_SELECTOR.into())?;
        g.expect_frame(3, USER_STACK)?;
        g.expect_frame(4, USER_DATA_SELECTOR.into())?;
        g.expect_frame(5, RSP0 - 40)
    });
}

#[test]
fn flags_in_the_frame_are_those_of_the_fault_with_resume_set() {
    const CF: u64 = 1;
    const RF: u64 = 1 << 16;
    long(|g| {
        g.xor(eax, eax)?;
        g.stc()?;
        g.expect_fault(fault(UD), |g| g.ud2())?;
        g.load_frame(rax, 2)?;
        g.and(eax, (CF | RF) as u32)?;
        g.expect(rax, CF | RF)?;
        // A trap goes on behind its instruction: nothing is to be resumed.
        g.expect_fault(fault(BP).at(1), |g| g.int3())?;
        g.load_frame(rax, 2)?;
        g.and(eax, RF as u32)?;
        g.expect(rax, 0)
    });
}

#[test]
fn the_interrupt_stack_table_replaces_the_stack_at_every_privilege() {
    long(|g| {
        g.xor(ebx, ebx)?;
        g.handler_on(0x40, 2, |g| {
            g.lea(rbx, ptr(rsp + 40))?;
            g.iretq()
        })?;
        g.last_gate(3, false);
        g.mov(rbp, rsp)?;
        g.int(0x40)?;
        g.expect(rbx, IST[1])?;
        g.sub(rbp, rsp)?;
        g.expect(rbp, 0)?;
        g.user(|g| {
            g.xor(ebx, ebx)?;
            g.int(0x40)
        })?;
        g.expect(rbx, IST[1])
    });
}

#[test]
fn interrupt_gates_clear_the_interrupt_flag_and_trap_gates_keep_it() {
    const IF: u32 = 1 << 9;
    long(|g| {
        for vector in [0x40, 0x41] {
            g.handler(vector, |g| {
                g.pushfq()?;
                g.pop(rbx)?;
                g.iretq()
            })?;
            g.last_gate(0, vector == 0x41);
        }
        for (vector, kept) in [(0x40, 0), (0x41, IF)] {
            g.sti()?;
            g.int(vector)?;
            g.cli()?;
            g.and(ebx, IF)?;
            g.expect(rbx, kept.into())?;
        }
        Ok(())
    });
}

#[test]
fn a_gate_that_is_not_present_or_leads_to_no_code_is_its_own_fault() {
    long(|g| {
        // The gates are built before the guest starts; it damages them itself.
        g.and(byte_ptr(IDT + 0x50 * 16 + 5), 0x7f)?;
        g.expect_fault(fault(NP).code(0x50 << 3 | 2), |g| g.int(0x50))?;
        g.mov(word_ptr(IDT + 0x51 * 16 + 2), i32::from(DATA_SELECTOR))?;
        g.expect_fault(fault(GP).code(DATA_SELECTOR.into()), |g| g.int(0x51))?;
        g.mov(word_ptr(IDT + 0x52 * 16 + 2), 0)?;
        g.expect_fault(fault(GP), |g| g.int(0x52))?;
        // An exception's own delivery adds EXT.
        g.and(byte_ptr(IDT + u64::from(UD) * 16 + 5), 0x7f)?;
        g.expect_fault(fault(NP).code(u32::from(UD) << 3 | 3), |g| g.ud2())
    });
}

#[test]
fn two_contributory_faults_are_a_double_fault() {
    long(|g| {
        g.and(byte_ptr(IDT + u64::from(GP) * 16 + 5), 0x7f)?;
        g.mov(rbx, 1_u64 << 63)?;
        g.expect_fault(fault(DF), |g| g.mov(eax, dword_ptr(rbx)))
    });
}

#[test]
fn a_page_fault_on_the_handlers_stack_is_a_double_fault() {
    long(|g| {
        g.handler_on(DF, 1, |g| {
            g.mov(r15d, 0xdf)?;
            g.mov(rbx, cr2)?;
            g.mov(rsp, rbp)?;
            g.jmp(r14)
        })?;
        let mut after = g.create_label();
        g.mov(rbp, rsp)?;
        g.lea(r14, ptr(after))?;
        g.mov(rsp, WINDOW + 0x2000)?;
        g.ud2()?;
        g.place(&mut after)?;
        g.expect(r15, 0xdf)?;
        g.expect(rbx, WINDOW + 0x1ff8)
    });
}

#[test]
fn a_page_fault_while_an_interrupt_is_delivered_takes_its_place() {
    long(|g| {
        // Gates 0 to 0x1f stay; those behind lie in a page that is not there.
        let idt = WINDOW + 0x1000 - 0x200;
        g.map(0, frame(0) | P | RW);
        g.put(frame(1), &[0xfff | idt << 16, idt >> 48]);
        g.mov(esi, IDT as u32)?;
        g.mov(edi, (frame(0) + 0xe00) as u32)?;
        g.mov(ecx, 0x40)?;
        g.rep().movsq()?;
        g.lidt(ptr(frame(1)))?;
        g.expect_fault(page_fault(0, WINDOW + 0x1000), |g| g.int(0x20))
    });
}

#[test]
fn a_third_fault_is_a_crash_with_the_registers_of_that_moment() {
    for ended in long_ended(|g| {
        g.lidt(ptr(frame(0)))?;
        g.mov(rbx, 0x1234_5678_9abc_u64)?;
        g.ud2()
    }) {
        let End::Crash(report) = ended.end else { panic!("it did not crash: {:?}", ended.end) };
        assert_eq!(report.vcpu, 0);
        assert_eq!(report.state.gpr[3], 0x1234_5678_9abc);
        assert_eq!(report.instruction[..2], [0x0f, 0x0b]);
    }
}
