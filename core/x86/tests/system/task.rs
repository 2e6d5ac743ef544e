//! Hardware task switches.

use tern_x86::cpu::word::{RAX, RCX, RSP};
use tern_x86::exception::{Exception, Vector};
use tern_x86::exec::transfer::{Interrupt, deliver_exception, deliver_interrupt};
use tern_x86::state::{Activity, Cr0, Dr6, Rflags, SegmentRegister};

use crate::machine::*;

const JUMP: &[u8] = &[0xea, 0, 0, 0, 0, FREE as u8, 0];
const CALL: &[u8] = &[0x9a, 0, 0, 0, 0, FREE as u8, 0];

/// A second task at DATA behind the TSS descriptor FREE.
fn two_tasks() -> Machine {
    let mut machine = Machine::protected_mode();
    machine.write64(GDT + u64::from(FREE), descriptor(TSS_2 as u32, 0x67, 0x89));
    let fields = [
        (0x20, DATA as u32),
        (0x24, 0x202),
        (0x2c, 0xccc),
        (0x38, 0x7_0000),
        (0x48, KERNEL_DATA.into()),
        (0x4c, KERNEL_CODE.into()),
        (0x50, KERNEL_DATA.into()),
        (0x54, KERNEL_DATA.into()),
    ];
    for (offset, value) in fields {
        machine.write32(TSS_2 + offset, value);
    }
    machine
}

fn is_busy(machine: &Machine, selector: u16) -> bool {
    machine.read64(GDT + u64::from(selector)) >> 41 & 1 != 0
}

#[test]
fn a_jump_leaves_the_old_task_and_a_call_comes_back() {
    let mut machine = two_tasks();
    machine.p.cpu.gpr[RAX] = 0xaaa;
    machine.run_ok(JUMP);
    assert_eq!(machine.p.cpu.tr.selector, FREE);
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (DATA, 0x7_0000));
    assert_eq!((machine.p.cpu.gpr[RAX], machine.p.cpu.gpr[RCX]), (0, 0xccc));
    assert_eq!(machine.p.cpu.rflags(), Rflags::FIXED | Rflags::IF);
    assert!(machine.p.cpu.cr0.contains(Cr0::TS));
    assert_eq!((is_busy(&machine, TASK), is_busy(&machine, FREE)), (false, true));
    assert_eq!(machine.read32(TSS + 0x20), CODE as u32 + 7);
    assert_eq!(machine.read32(TSS + 0x28), 0xaaa);

    let mut machine = two_tasks();
    machine.run_ok(CALL);
    assert!(machine.p.cpu.system_flags.contains(Rflags::NT));
    assert_eq!((is_busy(&machine, TASK), is_busy(&machine, FREE)), (true, true));
    assert_eq!(machine.read16(TSS_2), TASK);
    // iretd
    machine.run_ok(&[0xcf]);
    assert_eq!((machine.p.cpu.tr.selector, machine.p.cpu.rip), (TASK, CODE + 7));
    assert!(!machine.p.cpu.system_flags.contains(Rflags::NT));
    assert_eq!((is_busy(&machine, TASK), is_busy(&machine, FREE)), (true, false));
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
}

#[test]
fn a_busy_absent_or_short_task_is_refused_before_anything_changes() {
    let cases = [
        (descriptor(TSS_2 as u32, 0x67, 0x8b), Vector::Gp),
        (descriptor(TSS_2 as u32, 0x67, 0x09), Vector::Np),
        (descriptor(TSS_2 as u32, 0x66, 0x89), Vector::Ts),
    ];
    for (tss, vector) in cases {
        let mut machine = two_tasks();
        machine.write64(GDT + u64::from(FREE), tss);
        let before = machine.p.cpu.state();
        machine.run_fault(JUMP, Exception::with_code(vector, FREE.into()));
        assert_eq!(machine.p.cpu.state(), before);
    }
}

#[test]
fn a_bad_segment_is_the_new_tasks_fault() {
    let mut machine = two_tasks();
    machine.write32(TSS_2 + 0x54, TASK.into());
    machine.run_ok(JUMP);
    assert_eq!(machine.p.cpu.tr.selector, FREE);
    assert_eq!(machine.p.cpu.rip, HANDLERS + 16 * Vector::Ts as u64);
    let rsp = machine.p.cpu.gpr[RSP];
    assert_eq!((machine.read32(rsp), machine.read32(rsp + 4)), (TASK.into(), DATA as u32));
}

#[test]
fn a_task_gate_delivers_an_interrupt_in_another_task() {
    let mut machine = two_tasks();
    machine.write64(IDT + 8 * 0x21, gate(FREE, 0, 0x85, 0));
    deliver_interrupt(&mut machine.p, 0x21, Interrupt::External).expect("delivered");
    assert_eq!((machine.p.cpu.tr.selector, machine.p.cpu.rip), (FREE, DATA));
    assert_eq!(machine.read32(TSS + 0x20), CODE as u32);
    machine.run_ok(&[0xcf]);
    assert_eq!((machine.p.cpu.tr.selector, machine.p.cpu.rip), (TASK, CODE));
}

#[test]
fn the_debug_trap_bit_stops_a_task_before_its_first_instruction() {
    let mut machine = two_tasks();
    machine.write16(TSS_2 + 0x64, 1);
    machine.run_ok(JUMP);
    assert_eq!(machine.p.cpu.rip, HANDLERS + 16);
    assert!(machine.p.cpu.dr6.contains(Dr6::BT));
    assert_eq!(machine.read32(machine.p.cpu.gpr[RSP]), DATA as u32);
}

#[test]
fn a_16_bit_task_loads_words_and_four_segments() {
    let mut machine = two_tasks();
    machine.write64(GDT + u64::from(FREE), descriptor(TSS_2 as u32, 0x2b, 0x81));
    for (offset, value) in [
        (0x0e, 0x1000),
        (0x10, 2),
        (0x14, 0xccc),
        (0x1a, 0x8000),
        (0x22, KERNEL_DATA),
        (0x24, KERNEL_CODE),
        (0x26, KERNEL_DATA),
        (0x28, 0),
        (0x2a, 0),
    ] {
        machine.write16(TSS_2 + offset, value);
    }
    machine.p.cpu.gpr[RCX] = 0x1234_0000;
    machine.run_ok(JUMP);
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RCX]), (0x1000, 0x1234_0ccc));
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Ds).selector, 0);
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Fs).selector, 0);
}

/// Two tasks, of which the second has no data segment and is entered by this vector.
fn bad_task_by(vector: u64) -> Machine {
    let mut machine = two_tasks();
    machine.write32(TSS_2 + 0x54, TASK.into());
    machine.write64(IDT + 8 * vector, gate(FREE, 0, 0x85, 0));
    machine
}

#[test]
fn faults_of_a_task_that_is_entered_from_outside_the_program_carry_ext() {
    let mut machine = bad_task_by(0x21);
    deliver_interrupt(&mut machine.p, 0x21, Interrupt::External).expect("delivered");
    let fault = |code: u32| Some(Exception::with_code(Vector::Ts, u32::from(TASK) | code));
    assert_eq!(machine.p.cpu.deferred, fault(1));

    let mut machine = bad_task_by(0x21);
    deliver_interrupt(&mut machine.p, 0x21, Interrupt::Software).expect("delivered");
    assert_eq!(machine.p.cpu.deferred, fault(0));
}

/// Delivers an exception, and what is left to be delivered then.
fn deliver_with_what_follows(machine: &mut Machine, exception: Exception) {
    let mut next = Some(exception);
    while let Some(exception) = next {
        deliver_exception(&mut machine.p, exception).expect("delivered");
        next = machine.p.cpu.deferred.take();
    }
}

#[test]
fn a_fault_of_a_task_that_a_fault_enters_doubles_as_in_any_delivery() {
    let mut machine = bad_task_by(Vector::Gp as u64);
    deliver_with_what_follows(&mut machine, Exception::general_protection(0));
    assert_eq!((machine.p.cpu.tr.selector, machine.p.cpu.rip), (FREE, HANDLERS + 16 * Vector::Df as u64));
    assert_eq!(machine.read32(machine.p.cpu.gpr[RSP]), 0, "the error code of #DF");

    let mut machine = bad_task_by(Vector::Ud as u64);
    deliver_with_what_follows(&mut machine, Exception::UNDEFINED_OPCODE);
    assert_eq!(machine.p.cpu.rip, HANDLERS + 16 * Vector::Ts as u64);
    assert_eq!(machine.read32(machine.p.cpu.gpr[RSP]), u32::from(TASK) | 1);

    let mut machine = bad_task_by(Vector::Df as u64);
    deliver_with_what_follows(&mut machine, Exception::with_code(Vector::Df, 0));
    assert_eq!(machine.p.cpu.activity, Activity::Shutdown);

    // What the task asks for is no fault.
    let mut machine = two_tasks();
    machine.write16(TSS_2 + 0x64, 1);
    machine.write64(IDT + 8 * Vector::Df as u64, gate(FREE, 0, 0x85, 0));
    deliver_exception(&mut machine.p, Exception::with_code(Vector::Df, 0)).expect("delivered");
    assert_eq!(machine.p.cpu.activity, Activity::Running);
    assert_eq!(machine.p.cpu.deferred, Some(Exception::debug(Dr6::BT.bits())));
}

#[test]
fn a_task_that_a_fault_leaves_will_resume() {
    let flags = |machine: &Machine| Rflags::from_bits_retain(machine.read32(TSS + 0x24).into());
    let mut machine = two_tasks();
    machine.write64(IDT + 8 * Vector::Ud as u64, gate(FREE, 0, 0x85, 0));
    deliver_exception(&mut machine.p, Exception::UNDEFINED_OPCODE).expect("delivered");
    assert_eq!(flags(&machine), Rflags::FIXED | Rflags::RF);

    let mut machine = two_tasks();
    machine.write64(IDT + 8 * 0x21, gate(FREE, 0, 0x85, 0));
    deliver_interrupt(&mut machine.p, 0x21, Interrupt::Software).expect("delivered");
    assert_eq!(flags(&machine), Rflags::FIXED);
}
