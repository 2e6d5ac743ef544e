//! Delivery of exceptions and interrupts, and IRET.

use tern_x86::cpu::word::{RAX, RSP};
use tern_x86::exception::{Exception, PageFault, Vector};
use tern_x86::exec::transfer::{Interrupt, deliver_exception, deliver_interrupt};
use tern_x86::state::{Activity, Dr6, Dr7, Rflags, SegmentRegister};

use crate::machine::*;

const IRETQ: &[u8] = &[0x48, 0xcf];
const IRETD: &[u8] = &[0xcf];

fn interrupt(machine: &mut Machine, vector: u8, source: Interrupt) {
    deliver_interrupt(&mut machine.p, vector, source).expect("it can be delivered");
}

/// Fills a frame of 8-byte or 4-byte values at the stack pointer.
fn put_frame(machine: &mut Machine, values: &[u64], size: u64) {
    let top = machine.p.cpu.gpr[RSP];
    for (n, &value) in (0..).zip(values) {
        match size {
            8 => machine.write64(top + 8 * n, value),
            4 => machine.write32(top + 4 * n, value as u32),
            _ => machine.write16(top + 2 * n, value as u16),
        }
    }
}

#[test]
fn a_page_fault_in_user_code_enters_the_kernel_on_an_aligned_stack() {
    let mut machine = Machine::long_mode();
    machine.enter_user();
    machine.write64(TSS + 4, KERNEL_STACK + 7);
    machine.p.cpu.system_flags |= Rflags::IF | Rflags::TF | Rflags::NT;
    // mov rax, [0x123456789000]
    machine.run(&[0x48, 0xa1, 0, 0x90, 0x78, 0x56, 0x34, 0x12, 0, 0], 1);

    assert_eq!(machine.privilege(), (KERNEL_CODE, 0, 0));
    assert_eq!(machine.p.cpu.rip, HANDLERS + 14 * 16);
    assert_eq!(machine.p.cpu.cr2, 0x1234_5678_9000);
    let rsp = machine.p.cpu.gpr[RSP];
    assert_eq!(rsp, KERNEL_STACK - 48);
    let frame: Vec<u64> = (0..6).map(|n| machine.read64(rsp + 8 * n)).collect();
    let flags = (Rflags::FIXED | Rflags::IF | Rflags::TF | Rflags::NT | Rflags::RF).bits();
    let code = u64::from(PageFault::USER.bits());
    assert_eq!(frame, [code, CODE, USER_CODE64.into(), flags, STACK, USER_DATA.into()]);
    let cleared = Rflags::IF | Rflags::TF | Rflags::NT | Rflags::RF;
    assert!(!machine.p.cpu.system_flags.intersects(cleared));
}

#[test]
fn the_stack_table_is_used_even_without_a_change_of_privilege() {
    let mut machine = Machine::long_mode();
    machine.write64(IDT + 32, gate(KERNEL_CODE, HANDLERS, 0x8f, 1));
    machine.p.cpu.system_flags |= Rflags::IF;
    interrupt(&mut machine, 2, Interrupt::Nmi);
    assert_eq!(machine.p.cpu.gpr[RSP], IST_STACK - 40);
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
    assert!(machine.p.cpu.system_flags.contains(Rflags::IF), "a trap gate keeps IF");
    assert!(machine.p.cpu.pending.nmi_blocked);
    machine.run(IRETQ, 1);
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (CODE, STACK));
    assert!(!machine.p.cpu.pending.nmi_blocked);
}

#[test]
fn software_interrupts_need_a_gate_open_to_their_level() {
    for (mut machine, code) in [(Machine::long_mode(), USER_CODE64), (Machine::protected_mode(), USER_CODE32)]
    {
        machine.enter_user();
        machine.run_fault(&[0xcc], Exception::general_protection(3 << 3 | 2));
        machine.run_fault(&[0xcd, 0x20], Exception::general_protection(0x20 << 3 | 2));
        machine.set_gate(3, KERNEL_CODE, 0xee);
        machine.run_ok(&[0xcc]);
        assert_eq!(machine.p.cpu.rip, HANDLERS + 48);
        let size = if code == USER_CODE64 { 8 } else { 4 };
        let rsp = machine.p.cpu.gpr[RSP];
        assert_eq!(machine.read32(rsp), CODE as u32 + 1, "a trap returns behind the instruction");
        assert_eq!(machine.read16(rsp + size), code);
        assert_eq!(machine.p.cpu.cpl, 0);
    }
}

#[test]
fn an_external_interrupt_needs_no_open_gate_and_its_faults_carry_ext() {
    let mut machine = Machine::long_mode();
    machine.enter_user();
    interrupt(&mut machine, 0x30, Interrupt::External);
    assert_eq!(machine.p.cpu.rip, HANDLERS + 16 * 0x30);
    machine.enter_user();
    machine.set_gate(0x30, KERNEL_CODE, 0x0e);
    interrupt(&mut machine, 0x30, Interrupt::External);
    assert_eq!(machine.p.cpu.rip, HANDLERS + 16 * Vector::Np as u64);
    assert_eq!(machine.read64(machine.p.cpu.gpr[RSP]), 0x30 << 3 | 3);
}

#[test]
fn a_fault_in_the_delivery_of_a_fault_doubles_and_a_third_shuts_down() {
    let mut machine = Machine::long_mode();
    machine.set_gate(13, KERNEL_CODE, 0x0e);
    deliver_exception(&mut machine.p, Exception::general_protection(0)).expect("delivered");
    assert_eq!(machine.p.cpu.rip, HANDLERS + 8 * 16);
    assert_eq!(machine.read64(machine.p.cpu.gpr[RSP]), 0, "the error code of #DF");
    machine.p.cpu.idtr.limit = 0;
    let before = machine.p.cpu.state();
    deliver_exception(&mut machine.p, Exception::UNDEFINED_OPCODE).expect("ends in a shutdown");
    assert_eq!(machine.p.cpu.activity, Activity::Shutdown);
    assert_eq!(machine.p.cpu.rip, before.rip, "the registers show where it happened");
}

#[test]
fn a_debug_exception_sets_its_status_and_ends_general_detect() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.dr7 |= Dr7::GD;
    // mov rax, dr0
    machine.run(&[0x0f, 0x21, 0xc0], 1);
    assert_eq!(machine.p.cpu.rip, HANDLERS + 16);
    assert_eq!(machine.p.cpu.dr6, Dr6::FIXED | Dr6::BD);
    assert!(!machine.p.cpu.dr7.contains(Dr7::GD));
}

#[test]
fn iretq_returns_to_user_code_with_its_flags_and_drops_kernel_segments() {
    let mut machine = Machine::long_mode();
    let flags = (Rflags::FIXED | Rflags::IF | Rflags::CF | Rflags::AC | Rflags::IOPL).bits();
    put_frame(&mut machine, &[DATA, USER_CODE64.into(), flags, 0x7_0000, USER_DATA.into()], 8);
    machine.run_ok(IRETQ);
    assert_eq!(machine.privilege(), (USER_CODE64, USER_DATA, 3));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (DATA, 0x7_0000));
    assert_eq!(machine.p.cpu.rflags().bits(), flags);
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Ds).selector, 0);
}

#[test]
fn a_faulting_iretq_changes_nothing() {
    let good = [DATA, u64::from(USER_CODE64), 2, STACK, u64::from(USER_DATA)];
    let gp = Exception::general_protection;
    let cases = [
        (0, 1 << 47, gp(0)),
        (1, 0, gp(0)),
        (1, u64::from(USER_DATA), gp(USER_DATA as u32 & !3)),
        (1, u64::from(USER_CODE64 & !3), gp(USER_CODE64 as u32 & !3)),
        (4, 0, gp(0)),
        (4, u64::from(KERNEL_DATA), gp(KERNEL_DATA.into())),
    ];
    for (slot, value, expected) in cases {
        let mut machine = Machine::long_mode();
        machine.p.cpu.pending.nmi_blocked = true;
        let mut frame = good;
        frame[slot] = value;
        put_frame(&mut machine, &frame, 8);
        let before = machine.p.cpu.state();
        machine.run_fault(IRETQ, expected);
        assert_eq!(machine.p.cpu.state(), before, "slot {slot}");
    }
}

#[test]
fn iretq_accepts_a_null_stack_segment_for_the_kernel_only() {
    let mut machine = Machine::long_mode();
    put_frame(&mut machine, &[DATA, KERNEL_CODE.into(), 2, 0x7_0000, 0], 8);
    machine.run_ok(IRETQ);
    assert_eq!(machine.privilege(), (KERNEL_CODE, 0, 0));
    assert_eq!(machine.p.cpu.gpr[RSP], 0x7_0000);
}

#[test]
fn user_code_cannot_raise_its_own_privilege_by_flags() {
    let mut machine = Machine::long_mode();
    machine.enter_user();
    let asked = (Rflags::IOPL | Rflags::IF | Rflags::VIF | Rflags::DF).bits();
    put_frame(&mut machine, &[DATA, USER_CODE64.into(), asked, STACK, USER_DATA.into()], 8);
    machine.run_ok(IRETQ);
    assert_eq!(machine.p.cpu.rflags(), Rflags::FIXED | Rflags::DF);
}

#[test]
fn a_16_bit_stack_keeps_the_upper_part_of_the_stack_pointer() {
    let mut machine = Machine::long_mode();
    machine.write64(GDT + u64::from(FREE), descriptor(0, 0xffff, 0x93 | USER));
    machine.p.cpu.gpr[RSP] = 0x2_4000;
    let frame = [DATA, USER_CODE32.into(), 2, 0x1234, u64::from(FREE | 3)];
    put_frame(&mut machine, &frame, 8);
    machine.run_ok(IRETQ);
    assert_eq!(machine.p.cpu.gpr[RSP], 0x2_1234);
    assert!(!machine.p.cpu.code64());
}

#[test]
fn protected_mode_switches_to_the_stack_of_the_inner_level_and_back() {
    let mut machine = Machine::protected_mode();
    machine.enter_user();
    machine.p.cpu.system_flags |= Rflags::IF;
    interrupt(&mut machine, 0x21, Interrupt::External);
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
    assert_eq!(machine.p.cpu.gpr[RSP], KERNEL_STACK - 20);
    assert!(!machine.p.cpu.system_flags.contains(Rflags::IF));
    machine.run_ok(IRETD);
    assert_eq!(machine.privilege(), (USER_CODE32, USER_DATA, 3));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (CODE, STACK));
    assert!(machine.p.cpu.system_flags.contains(Rflags::IF));
}

#[test]
fn an_inner_stack_that_is_no_stack_is_an_invalid_tss() {
    for (selector, expected) in [(0, 1), (KERNEL_CODE, 9), (USER_DATA, 0x21)] {
        let mut machine = Machine::protected_mode();
        machine.enter_user();
        machine.write32(TSS + 8, selector.into());
        machine.set_gate(Vector::Ts as u64, USER_CODE32 & !3 | 3, 0x8e);
        interrupt(&mut machine, 0x21, Interrupt::External);
        assert_eq!(machine.p.cpu.rip, HANDLERS + 16 * Vector::Ts as u64);
        assert_eq!(machine.read32(machine.p.cpu.gpr[RSP]), expected);
    }
}

#[test]
fn virtual_8086_code_is_entered_interrupted_and_resumed() {
    let mut machine = Machine::protected_mode();
    let flags = (Rflags::FIXED | Rflags::VM | Rflags::IF).bits();
    let frame = [0x20, 0x1000, flags, 0x800, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000];
    put_frame(&mut machine, &frame, 4);
    machine.run_ok(IRETD);
    assert!(machine.p.cpu.virtual_8086());
    assert_eq!((machine.p.cpu.cpl, machine.p.cpu.linear_rip()), (3, 0x1_0020));
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Gs).base, 0x6_0000);
    machine.run_fault(&[0xcd, 0x20], Exception::general_protection(0));

    interrupt(&mut machine, 0x21, Interrupt::External);
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
    let rsp = machine.p.cpu.gpr[RSP];
    let pushed: Vec<u64> = (0..9).map(|n| machine.read32(rsp + 4 * n).into()).collect();
    assert_eq!(pushed, frame);
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Gs).selector, 0);
    machine.run_ok(IRETD);
    assert!(machine.p.cpu.virtual_8086());
    assert_eq!(machine.p.cpu.gpr[RSP], 0x800);
}

#[test]
fn real_mode_interrupts_go_through_the_vector_table_and_back() {
    let mut machine = Machine::real_mode();
    machine.write32(0x21 * 4, 0x1234_0010);
    machine.p.cpu.system_flags |= Rflags::IF;
    machine.run_ok(&[0xcd, 0x21]);
    assert_eq!(machine.p.cpu.linear_rip(), 0x1_2350);
    let sp = machine.p.cpu.gpr[RSP];
    assert_eq!((sp, machine.read16(sp), machine.read16(sp + 2)), (0x7ffa, 2, (CODE >> 4) as u16));
    assert!(!machine.p.cpu.system_flags.contains(Rflags::IF));
    machine.run_ok(IRETD);
    assert_eq!(machine.p.cpu.linear_rip(), CODE + 2);
    assert!(machine.p.cpu.system_flags.contains(Rflags::IF));
}

#[test]
fn real_mode_exceptions_push_no_error_code() {
    let mut machine = Machine::real_mode();
    machine.write32(13 * 4, 0x1000_0000);
    deliver_exception(&mut machine.p, Exception::general_protection(0)).expect("delivered");
    assert_eq!((machine.p.cpu.linear_rip(), machine.p.cpu.gpr[RSP]), (0x1_0000, 0x7ffa));
}

#[test]
fn an_interrupt_ends_a_halt_and_the_shadow_of_sti() {
    let mut machine = Machine::long_mode();
    // sti; hlt
    machine.run(&[0xfb, 0xf4], 1);
    assert!(machine.p.cpu.pending.interrupt_shadow);
    machine.step();
    assert_eq!(machine.p.cpu.activity, Activity::Halted);
    interrupt(&mut machine, 0x20, Interrupt::External);
    assert_eq!(machine.p.cpu.activity, Activity::Running);
    assert!(!machine.p.cpu.pending.interrupt_shadow);
    assert_eq!(machine.read64(machine.p.cpu.gpr[RSP]), CODE + 2);
    assert_eq!(machine.p.cpu.gpr[RAX], 0);
}
