//! Loading segment and table registers, and questions about descriptors.

use tern_x86::cpu::word::{RAX, RBX};
use tern_x86::exception::{Exception, Vector};
use tern_x86::state::{Attributes, Rflags, SegmentRegister};

use crate::machine::*;

const MOV_DS_AX: &[u8] = &[0x8e, 0xd8];
const MOV_SS_AX: &[u8] = &[0x8e, 0xd0];

fn with_ax(mut machine: Machine, selector: u16) -> Machine {
    machine.p.cpu.gpr[RAX] = selector.into();
    machine
}

fn user(mut machine: Machine) -> Machine {
    machine.enter_user();
    machine
}

#[test]
fn a_data_segment_is_loaded_with_its_hidden_part_and_marked_accessed() {
    let mut machine = with_ax(Machine::protected_mode(), FREE);
    machine.write64(GDT + u64::from(FREE), descriptor(0x1234_5678, 0x12345, 0xc92));
    machine.run_ok(MOV_DS_AX);
    let ds = *machine.p.cpu.segment(SegmentRegister::Ds);
    assert_eq!((ds.base, ds.limit, ds.attributes.bits()), (0x1234_5678, 0x1234_5fff, 0xc93));
    assert_eq!(machine.read64(GDT + u64::from(FREE)) >> 40 & 0xff, 0x93);
}

#[test]
fn data_segments_are_checked_for_kind_privilege_and_presence() {
    let gp = |selector: u16| Exception::general_protection((selector & !3).into());
    with_ax(user(Machine::long_mode()), KERNEL_DATA).run_fault(MOV_DS_AX, gp(KERNEL_DATA));
    with_ax(Machine::long_mode(), USER_DATA).run_ok(MOV_DS_AX);
    with_ax(Machine::long_mode(), TASK).run_fault(MOV_DS_AX, gp(TASK));
    with_ax(Machine::long_mode(), 0x100).run_fault(MOV_DS_AX, gp(0x100));
    with_ax(Machine::long_mode(), FREE | 4).run_fault(MOV_DS_AX, gp(FREE | 4));
    let mut absent = with_ax(Machine::long_mode(), FREE);
    absent.write64(GDT + u64::from(FREE), descriptor(0, 0, 0x13));
    absent.run_fault(MOV_DS_AX, Exception::with_code(Vector::Np, FREE.into()));
    let mut execute_only = with_ax(Machine::long_mode(), FREE);
    execute_only.write64(GDT + u64::from(FREE), descriptor(0, 0, 0x99));
    execute_only.run_fault(MOV_DS_AX, gp(FREE));
}

#[test]
fn a_null_selector_makes_a_data_segment_unusable_and_its_base_zero() {
    let mut machine = with_ax(Machine::protected_mode(), 3);
    machine.run_ok(MOV_DS_AX);
    let ds = *machine.p.cpu.segment(SegmentRegister::Ds);
    assert_eq!((ds.selector, ds.base, ds.attributes), (3, 0, Attributes::empty()));
    // mov eax, [0]
    machine.run_fault(&[0xa1, 0, 0, 0, 0], Exception::general_protection(0));
}

#[test]
fn a_null_stack_segment_is_for_64_bit_kernels() {
    with_ax(Machine::long_mode(), 0).run_ok(MOV_SS_AX);
    with_ax(Machine::long_mode(), 3).run_fault(MOV_SS_AX, Exception::general_protection(0));
    with_ax(user(Machine::long_mode()), 3).run_fault(MOV_SS_AX, Exception::general_protection(0));
    with_ax(Machine::protected_mode(), 0).run_fault(MOV_SS_AX, Exception::general_protection(0));
}

#[test]
fn loading_the_stack_segment_holds_interrupts_off_once() {
    let mut machine = with_ax(Machine::long_mode(), KERNEL_DATA);
    machine.run_ok(MOV_DS_AX);
    assert!(!machine.p.cpu.pending.interrupt_shadow);
    machine.run_ok(MOV_SS_AX);
    assert!(machine.p.cpu.pending.interrupt_shadow);
}

#[test]
fn the_code_segment_cannot_be_loaded_by_mov() {
    with_ax(Machine::long_mode(), KERNEL_CODE).run_fault(&[0x8e, 0xc8], Exception::UNDEFINED_OPCODE);
}

#[test]
fn far_pointers_load_both_halves_or_none() {
    // lds eax, [DATA]
    let code = &[0xc5, 0x05, 0, 0, 6, 0];
    let mut machine = Machine::protected_mode();
    machine.write32(DATA, 0x8765_4321);
    machine.write16(DATA + 4, USER_CODE32);
    machine.run_ok(code);
    assert_eq!(machine.p.cpu.gpr[RAX], 0x8765_4321);
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Ds).selector, USER_CODE32);
    let mut machine = Machine::protected_mode();
    machine.write16(DATA + 4, TASK);
    let before = machine.p.cpu.state();
    machine.run_fault(code, Exception::general_protection(TASK.into()));
    assert_eq!(machine.p.cpu.state(), before);
}

#[test]
fn a_popped_segment_moves_the_stack_pointer_only_if_it_is_good() {
    let mut machine = Machine::long_mode();
    machine.write64(STACK, TASK.into());
    let before = machine.p.cpu.state();
    // pop fs
    machine.run_fault(&[0x0f, 0xa1], Exception::general_protection(TASK.into()));
    assert_eq!(machine.p.cpu.state(), before);
    machine.write64(STACK, USER_DATA.into());
    machine.run_ok(&[0x0f, 0xa1]);
    assert_eq!(machine.p.cpu.gpr[4], STACK + 8);
}

#[test]
fn table_registers_round_trip_through_memory() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.gpr[RAX] = DATA;
    machine.write16(DATA, 0x1ff);
    machine.write64(DATA + 2, 0xffff_8000_1234_5678);
    // lidt [rax]; sidt [rax + 16]
    machine.run_ok(&[0x0f, 0x01, 0x18]);
    assert_eq!((machine.p.cpu.idtr.base, machine.p.cpu.idtr.limit), (0xffff_8000_1234_5678, 0x1ff));
    machine.run_ok(&[0x0f, 0x01, 0x48, 0x10]);
    assert_eq!((machine.read16(DATA + 16), machine.read64(DATA + 18)), (0x1ff, 0xffff_8000_1234_5678));
    machine.write64(DATA + 2, 1 << 47);
    machine.run_fault(&[0x0f, 0x01, 0x18], Exception::general_protection(0));
}

#[test]
fn a_16_bit_operand_size_loads_24_bits_of_a_table_base() {
    let mut machine = Machine::real_mode();
    machine.write64(0x100, 0x1234_5678_03ff);
    // lgdt [0x100]
    machine.run_ok(&[0x0f, 0x01, 0x16, 0, 1]);
    assert_eq!((machine.p.cpu.gdtr.base, machine.p.cpu.gdtr.limit), (0x34_5678, 0x3ff));
    // data32 lgdt [0x100]
    machine.run_ok(&[0x66, 0x0f, 0x01, 0x16, 0, 1]);
    assert_eq!(machine.p.cpu.gdtr.base, 0x1234_5678);
}

#[test]
fn ltr_takes_an_available_64_bit_tss_and_makes_it_busy() {
    let ltr_ax = &[0x0f, 0x00, 0xd8];
    let mut machine = with_ax(Machine::long_mode(), TASK);
    machine.run_fault(ltr_ax, Exception::general_protection(TASK.into()));
    machine.write64(GDT + u64::from(TASK), descriptor(0x8000_0000, 0x67, 0x89));
    machine.write64(GDT + u64::from(TASK) + 8, 0xffff_8000);
    machine.run_ok(ltr_ax);
    assert_eq!(machine.p.cpu.tr.base, 0xffff_8000_8000_0000);
    assert_eq!(machine.read64(GDT + u64::from(TASK)) >> 40 & 0xf, 0xb);
}

#[test]
fn what_a_selector_names_is_told_only_to_who_may_use_it() {
    // lar ebx, eax; lsl ebx, eax; verr ax; verw ax
    let [lar, lsl] = [[0x0f, 0x02, 0xd8], [0x0f, 0x03, 0xd8]];
    let [verr, verw] = [[0x0f, 0x00, 0xe0], [0x0f, 0x00, 0xe8]];
    let answer = |machine: Machine, selector, code: &[u8]| {
        let mut machine = with_ax(machine, selector);
        machine.run_ok(code);
        (machine.p.cpu.flags.bits() & Rflags::ZF == Rflags::ZF, machine.p.cpu.gpr[RBX])
    };
    let kernel = Machine::long_mode;
    assert_eq!(answer(kernel(), KERNEL_DATA, &lar), (true, 0xcf_9300));
    assert_eq!(answer(kernel(), KERNEL_DATA, &lsl), (true, 0xffff_ffff));
    assert_eq!(answer(kernel(), TASK, &lsl), (true, 0x67));
    assert_eq!(answer(kernel(), 0, &lar), (false, 0));
    assert_eq!(answer(user(kernel()), KERNEL_DATA, &lar), (false, 0));
    assert_eq!(answer(user(kernel()), USER_DATA, &verw), (true, 0));
    assert_eq!(answer(user(kernel()), USER_CODE64, &verw), (false, 0));
    assert_eq!(answer(user(kernel()), USER_CODE64, &verr), (true, 0));
    Machine::real_mode().run_fault(&lar, Exception::UNDEFINED_OPCODE);
}
