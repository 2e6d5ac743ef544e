//! Far jumps, calls and returns; SYSCALL and SYSENTER with their returns.

use tern_x86::cpu::word::{R11, RCX, RDX, RSP};
use tern_x86::exception::Exception;
use tern_x86::state::{Activity, Cr0, Cr4, Efer, Rflags, SegmentRegister};

use crate::machine::*;

/// JMP or CALL (`reg` 5 or 3) through the far pointer at DATA. AMD's far pointers have 32-bit offsets at most.
fn indirect(reg: u8) -> Vec<u8> {
    let mut code = vec![0xff, reg << 3 | 4, 0x25];
    code.extend((DATA as u32).to_le_bytes());
    code
}

#[test]
fn a_far_jump_leaves_64_bit_code_for_compatibility_mode() {
    let mut machine = Machine::long_mode();
    machine.write32(DATA, 0x7_0000);
    machine.write16(DATA + 4, KERNEL_CODE32);
    machine.run_ok(&indirect(5));
    assert_eq!((machine.p.cpu.rip, machine.privilege().0), (0x7_0000, KERNEL_CODE32));
    assert!(machine.p.cpu.long_mode() && !machine.p.cpu.code64());
    // jmp 0x08:CODE, directly
    machine.run_ok(&[0xea, 0, 0, 4, 0, 8, 0]);
    assert!(machine.p.cpu.code64());
}

#[test]
fn far_jumps_check_their_code_segment() {
    let gp = Exception::general_protection;
    let cases = [
        (0, gp(0)),
        (KERNEL_DATA, gp(KERNEL_DATA.into())),
        (USER_CODE64, gp(USER_CODE64 as u32 & !3)),
        (0xff8, gp(0xff8)),
    ];
    for (selector, expected) in cases {
        let mut machine = Machine::long_mode();
        machine.write32(DATA, 0x7_0000);
        machine.write16(DATA + 4, selector);
        let before = machine.p.cpu.state();
        machine.run_fault(&indirect(5), expected);
        assert_eq!(machine.p.cpu.state(), before);
    }
}

#[test]
fn a_far_call_and_its_return_balance_the_stack() {
    let mut machine = Machine::long_mode();
    machine.write32(DATA, 0x7_0000);
    machine.write16(DATA + 4, KERNEL_CODE);
    machine.run_ok(&indirect(3));
    assert_eq!(machine.p.cpu.rip, 0x7_0000);
    assert_eq!(machine.read64(STACK - 8), (CODE + 7) | u64::from(KERNEL_CODE) << 32);
    // retf
    machine.run_ok(&[0xcb]);
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (CODE + 7, STACK));
}

#[test]
fn a_64_bit_call_gate_switches_to_the_kernel_stack_without_a_segment() {
    let mut machine = Machine::long_mode();
    machine.write64(GDT + u64::from(FREE), gate(KERNEL_CODE, HANDLERS, 0xec, 0));
    machine.enter_user();
    machine.write16(DATA + 4, FREE | 3);
    machine.run_ok(&indirect(3));
    assert_eq!(machine.privilege(), (KERNEL_CODE, 0, 0));
    let rsp = machine.p.cpu.gpr[RSP];
    assert_eq!(rsp, KERNEL_STACK - 32);
    let frame: Vec<u64> = (0..4).map(|n| machine.read64(rsp + 8 * n)).collect();
    assert_eq!(frame, [CODE + 7, USER_CODE64.into(), STACK, USER_DATA.into()]);
    machine.run_ok(&[0x48, 0xcb]);
    assert_eq!(machine.privilege(), (USER_CODE64, USER_DATA, 3));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (CODE + 7, STACK));
}

#[test]
fn a_call_gate_copies_parameters_and_its_return_drops_them() {
    let mut machine = Machine::protected_mode();
    machine.write64(GDT + u64::from(FREE), gate(KERNEL_CODE, HANDLERS, 0xec, 2));
    machine.enter_user();
    machine.write64(STACK, 0x2222_2222_1111_1111);
    // call FREE|3:0
    machine.run_ok(&[0x9a, 0, 0, 0, 0, FREE as u8 | 3, 0]);
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
    let rsp = machine.p.cpu.gpr[RSP];
    let frame: Vec<u32> = (0..6).map(|n| machine.read32(rsp + 4 * n)).collect();
    let expected =
        [CODE as u32 + 7, USER_CODE32.into(), 0x1111_1111, 0x2222_2222, STACK as u32, USER_DATA.into()];
    assert_eq!(frame, expected);
    // retf 8
    machine.run_ok(&[0xca, 8, 0]);
    assert_eq!(machine.privilege(), (USER_CODE32, USER_DATA, 3));
    assert_eq!(machine.p.cpu.gpr[RSP], STACK + 8);
}

#[test]
fn a_gate_closed_to_the_caller_is_refused() {
    let mut machine = Machine::protected_mode();
    machine.write64(GDT + u64::from(FREE), gate(KERNEL_CODE, HANDLERS, 0x8c, 0));
    machine.enter_user();
    machine.run_fault(&[0x9a, 0, 0, 0, 0, FREE as u8 | 3, 0], Exception::general_protection(FREE.into()));
}

#[test]
fn syscall_and_sysret_change_level_and_keep_what_the_kernel_needs() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.msrs.star = u64::from(KERNEL_CODE) << 32 | u64::from(USER_CODE32) << 48;
    machine.p.cpu.msrs.lstar = HANDLERS;
    machine.p.cpu.msrs.sfmask = (Rflags::IF | Rflags::DF | Rflags::AC).bits();
    machine.enter_user();
    machine.p.cpu.system_flags |= Rflags::IF | Rflags::DF | Rflags::ID;
    let flags = machine.p.cpu.rflags().bits();
    machine.run_ok(&[0x0f, 0x05]);
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
    assert_eq!(machine.p.cpu.rip, HANDLERS);
    assert_eq!((machine.p.cpu.gpr[RCX], machine.p.cpu.gpr[R11]), (CODE + 2, flags));
    assert_eq!(machine.p.cpu.rflags(), Rflags::FIXED | Rflags::ID);
    assert_eq!(machine.p.cpu.gpr[RSP], STACK, "the kernel's own business");
    // sysretq
    machine.run_ok(&[0x48, 0x0f, 0x07]);
    assert_eq!(machine.privilege(), (USER_CODE64, USER_DATA, 3));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.rflags().bits()), (CODE + 2, flags));
    machine.p.cpu.efer -= Efer::SCE;
    machine.run_fault(&[0x0f, 0x05], Exception::UNDEFINED_OPCODE);
}

#[test]
fn sysretd_returns_to_compatibility_mode() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.msrs.star = u64::from(USER_CODE32) << 48;
    machine.p.cpu.gpr[RCX] = 0x1_0000_1000;
    machine.p.cpu.gpr[R11] = 0x202;
    machine.run_ok(&[0x0f, 0x07]);
    assert_eq!(machine.privilege(), (USER_CODE32, USER_DATA, 3));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.code64()), (0x1000, false));
    machine.run_fault(&[0x0f, 0x07], Exception::general_protection(0));
}

#[test]
fn sysenter_exists_in_protected_mode_and_not_in_long_mode() {
    let mut machine = Machine::protected_mode();
    machine.enter_user();
    machine.run_fault(&[0x0f, 0x34], Exception::general_protection(0));
    machine.p.cpu.msrs.sysenter_cs = KERNEL_CODE.into();
    machine.p.cpu.msrs.sysenter_eip = HANDLERS;
    machine.p.cpu.msrs.sysenter_esp = KERNEL_STACK;
    machine.run_ok(&[0x0f, 0x34]);
    assert_eq!(machine.privilege(), (KERNEL_CODE, KERNEL_DATA, 0));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (HANDLERS, KERNEL_STACK));
    machine.p.cpu.gpr[RDX] = CODE;
    machine.p.cpu.gpr[RCX] = STACK;
    machine.run_ok(&[0x0f, 0x35]);
    assert_eq!(machine.privilege(), (USER_CODE32, USER_DATA, 3));
    assert_eq!((machine.p.cpu.rip, machine.p.cpu.gpr[RSP]), (CODE, STACK));
    Machine::long_mode().run_fault(&[0x0f, 0x34], Exception::UNDEFINED_OPCODE);
}

#[test]
fn real_mode_reaches_64_bit_code_by_the_textbook_sequence() {
    let mut machine = Machine::long_mode();
    let (cr3, gdtr) = (machine.p.cpu.cr3, machine.p.cpu.gdtr);
    let real = Machine::real_mode().p.cpu.state();
    machine.p.cpu.set_state(&real);
    (machine.p.cpu.cr3, machine.p.cpu.gdtr) = (cr3, gdtr);
    let code = [
        &[0x66, 0xb8, 0x20, 0, 0, 0][..], // mov eax, CR4.PAE
        &[0x0f, 0x22, 0xe0],              // mov cr4, eax
        &[0x66, 0xb9, 0x80, 0, 0, 0xc0],  // mov ecx, EFER
        &[0x66, 0xb8, 0, 1, 0, 0],        // mov eax, EFER.LME
        &[0x66, 0x31, 0xd2],              // xor edx, edx
        &[0x0f, 0x30],                    // wrmsr
        &[0x66, 0xb8, 0x11, 0, 0, 0x80],  // mov eax, PG | ET | PE
        &[0x0f, 0x22, 0xc0],              // mov cr0, eax
        &[0x66, 0xea, 0, 0, 7, 0, 8, 0],  // jmp 8:0x70000
    ]
    .concat();
    machine.run(&code, 9);
    assert_eq!(machine.p.cpu.activity, Activity::Running);
    assert!(machine.p.cpu.code64());
    assert_eq!(machine.p.cpu.rip, 0x7_0000);
    assert_eq!(machine.p.cpu.efer, Efer::LME | Efer::LMA);
    assert_eq!((machine.p.cpu.cr0, machine.p.cpu.cr4), (Cr0::PG | Cr0::PE | Cr0::ET, Cr4::PAE));
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Cs).selector, KERNEL_CODE);
}
