//! Control, debug and model-specific registers, and other privileged instructions.

use tern_x86::cpu::word::{RAX, RBX, RCX, RDX};
use tern_x86::environment::Stale;
use tern_x86::exception::Exception;
use tern_x86::state::{Cr0, Cr4, Efer, Rflags, SegmentRegister, Xcr0};

use crate::machine::*;

const GP: Exception = Exception::general_protection(0);
const MOV_CR0_RAX: &[u8] = &[0x0f, 0x22, 0xc0];
const MOV_CR3_RAX: &[u8] = &[0x0f, 0x22, 0xd8];
const MOV_CR4_RAX: &[u8] = &[0x0f, 0x22, 0xe0];
const WRMSR: &[u8] = &[0x0f, 0x30];
const RDMSR: &[u8] = &[0x0f, 0x32];

fn with_rax(value: u64) -> Machine {
    let mut machine = Machine::long_mode();
    machine.p.cpu.gpr[RAX] = value;
    machine
}

fn write_msr(machine: &mut Machine, number: u32, value: u64) {
    machine.p.cpu.gpr[RCX] = number.into();
    machine.p.cpu.gpr[RAX] = value & 0xffff_ffff;
    machine.p.cpu.gpr[RDX] = value >> 32;
}

#[test]
fn cr0_refuses_combinations_that_have_no_meaning() {
    let on = (Cr0::PE | Cr0::PG).bits();
    for value in [Cr0::PG.bits(), on | Cr0::NW.bits(), on | 1 << 32, Cr0::PE.bits()] {
        let mut machine = with_rax(value);
        let before = machine.p.cpu.state();
        machine.run_fault(MOV_CR0_RAX, GP);
        assert_eq!(machine.p.cpu.state(), before, "{value:#x}");
    }
    let mut machine = with_rax(on | Cr0::WP.bits());
    machine.run_ok(MOV_CR0_RAX);
    assert!(machine.p.env.forgotten.is_empty(), "nothing changed that translations depend on");
}

#[test]
fn paging_with_lme_needs_pae_and_starts_long_mode() {
    let mut machine = Machine::protected_mode();
    machine.p.cpu.efer = Efer::LME;
    machine.p.cpu.gpr[RAX] = (Cr0::PE | Cr0::PG).bits();
    machine.run_fault(MOV_CR0_RAX, GP);
    machine.p.cpu.cr4 = Cr4::PAE;
    machine.run_ok(MOV_CR0_RAX);
    assert!(machine.p.cpu.long_mode());
    assert_eq!(machine.p.env.forgotten, [Stale::All]);
}

#[test]
fn cr4_takes_only_what_the_model_offers_and_the_mode_allows() {
    for value in [Cr4::VME.bits() | Cr4::PAE.bits(), 0, 1 << 22 | Cr4::PAE.bits(), 1 << 40] {
        with_rax(value).run_fault(MOV_CR4_RAX, GP);
    }
    let pcids = (Cr4::PAE | Cr4::PCIDE).bits();
    let mut machine = with_rax(pcids);
    machine.p.cpu.cr3 |= 1;
    machine.run_fault(MOV_CR4_RAX, GP);
    with_rax(pcids).run_ok(MOV_CR4_RAX);
}

#[test]
fn cr3_keeps_its_no_flush_bit_to_itself_and_refuses_reserved_ones() {
    let keep = 1 << 63 | PAGE_TABLES | 5;
    with_rax(keep).run_fault(MOV_CR3_RAX, GP);
    with_rax(1 << 46).run_fault(MOV_CR3_RAX, GP);
    let mut machine = with_rax(keep);
    machine.p.cpu.cr4 |= Cr4::PCIDE;
    machine.run_ok(MOV_CR3_RAX);
    assert_eq!(machine.p.cpu.cr3, PAGE_TABLES | 5);
    assert_eq!(machine.p.env.forgotten, [Stale::NonGlobal]);
}

#[test]
fn privileged_instructions_fault_in_user_code() {
    let privileged: [&[u8]; 12] = [
        MOV_CR0_RAX,
        &[0x0f, 0x20, 0xc0], // mov rax, cr0
        &[0x0f, 0x21, 0xc0], // mov rax, dr0
        &[0x0f, 0x06],       // clts
        &[0x0f, 0x01, 0x10], // lgdt [rax]
        &[0x0f, 0x00, 0xd8], // ltr ax
        &[0x0f, 0x01, 0x38], // invlpg [rax]
        &[0x0f, 0x09],       // wbinvd
        &[0x0f, 0x01, 0xf8], // swapgs
        RDMSR,
        &[0xfa], // cli
        &[0xf4], // hlt
    ];
    for code in privileged {
        let mut machine = Machine::long_mode();
        machine.enter_user();
        machine.run_fault(code, GP);
    }
    let mut machine = Machine::long_mode();
    machine.enter_user();
    machine.p.cpu.system_flags |= Rflags::IOPL;
    machine.run_ok(&[0xfa]);
}

#[test]
fn umip_hides_system_registers_from_user_code() {
    // sldt eax; str eax; smsw eax; sgdt [rax]
    for code in [&[0x0f, 0x00, 0xc0][..], &[0x0f, 0x00, 0xc8], &[0x0f, 0x01, 0xe0], &[0x0f, 0x01, 0x00]] {
        let mut machine = with_rax(DATA);
        machine.enter_user();
        machine.p.cpu.gpr[RAX] = DATA;
        machine.run_ok(code);
        machine.p.cpu.cr4 |= Cr4::UMIP;
        machine.run_fault(code, GP);
    }
}

#[test]
fn efer_refuses_unknown_bits_and_lme_under_paging() {
    for value in [1 << 12, Efer::SCE.bits(), 1 << 1] {
        let mut machine = Machine::long_mode();
        write_msr(&mut machine, 0xc000_0080, value);
        machine.run_fault(WRMSR, GP);
    }
    let mut machine = Machine::long_mode();
    write_msr(&mut machine, 0xc000_0080, (Efer::LME | Efer::AUTOIBRS).bits());
    machine.run_ok(WRMSR);
    assert_eq!(machine.p.cpu.efer, Efer::LME | Efer::LMA | Efer::AUTOIBRS);
    assert_eq!(machine.p.env.forgotten, [Stale::All], "NXE was cleared");
}

#[test]
fn msrs_of_the_environment_are_asked_there_and_unknown_ones_fault() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.gpr[RCX] = 0x1b;
    machine.run_ok(RDMSR);
    assert_eq!((machine.p.cpu.gpr[RAX], machine.p.cpu.gpr[RDX]), (0xfee0_0900, 0));
    machine.run_fault(WRMSR, GP);
    machine.p.cpu.gpr[RCX] = 0x1234_5678;
    machine.run_fault(RDMSR, GP);
}

#[test]
fn bases_of_fs_and_gs_must_be_canonical_and_are_used_at_once() {
    let mut machine = Machine::long_mode();
    write_msr(&mut machine, 0xc000_0100, 1 << 47);
    machine.run_fault(WRMSR, GP);
    write_msr(&mut machine, 0xc000_0100, DATA - 8);
    machine.run_ok(WRMSR);
    machine.write64(DATA, 0x1122_3344_5566_7788);
    // mov rbx, fs:[8]
    machine.run_ok(&[0x64, 0x48, 0x8b, 0x1c, 0x25, 8, 0, 0, 0]);
    assert_eq!(machine.p.cpu.gpr[RBX], 0x1122_3344_5566_7788);
}

#[test]
fn swapgs_exchanges_the_bases() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.msrs.kernel_gs_base = 0x1000;
    machine.run_ok(&[0x0f, 0x01, 0xf8]);
    assert_eq!(machine.p.cpu.segment(SegmentRegister::Gs).base, 0x1000);
    assert_eq!((machine.p.cpu.address_base[5], machine.p.cpu.msrs.kernel_gs_base), (0x1000, 0));
}

#[test]
fn fsgsbase_instructions_need_their_enable() {
    let wrfsbase_rax = &[0xf3, 0x48, 0x0f, 0xae, 0xd0];
    let mut machine = with_rax(DATA);
    machine.run_fault(wrfsbase_rax, Exception::UNDEFINED_OPCODE);
    machine.p.cpu.cr4 |= Cr4::FSGSBASE;
    machine.run_ok(wrfsbase_rax);
    // rdfsbase rbx
    machine.run_ok(&[0xf3, 0x48, 0x0f, 0xae, 0xc3]);
    assert_eq!(machine.p.cpu.gpr[RBX], DATA);
}

#[test]
fn the_time_stamp_counter_is_moved_by_writes_and_hidden_by_tsd() {
    let mut machine = Machine::long_mode();
    machine.p.env.ticks = 1000;
    write_msr(&mut machine, 0x10, 5000);
    machine.run_ok(WRMSR);
    machine.p.env.ticks = 1010;
    machine.run_ok(&[0x0f, 0x31]);
    assert_eq!(machine.p.cpu.gpr[RAX], 5010);
    machine.p.cpu.gpr[RCX] = 0x3b;
    machine.run_ok(RDMSR);
    assert_eq!(machine.p.cpu.gpr[RAX], 4000, "TSC_ADJUST follows");
    machine.p.cpu.cr4 |= Cr4::TSD;
    machine.enter_user();
    machine.run_fault(&[0x0f, 0x31], GP);
}

#[test]
fn clac_and_stac_are_the_kernels_and_reach_cached_translations() {
    let mut machine = Machine::long_mode();
    machine.p.cpu.cr4 |= Cr4::SMAP;
    machine.run_ok(&[0x0f, 0x01, 0xcb]);
    assert!(machine.p.cpu.system_flags.contains(Rflags::AC));
    machine.run_ok(&[0x0f, 0x01, 0xca]);
    assert_eq!(machine.p.env.forgotten, [Stale::Privilege; 2]);
    machine.enter_user();
    machine.run_fault(&[0x0f, 0x01, 0xcb], Exception::UNDEFINED_OPCODE);
}

#[test]
fn xsetbv_keeps_x87_and_takes_only_offered_components() {
    let xsetbv = &[0x0f, 0x01, 0xd1];
    let mut machine = with_rax(3);
    machine.run_fault(xsetbv, Exception::UNDEFINED_OPCODE);
    machine.p.cpu.cr4 |= Cr4::OSXSAVE;
    machine.run_ok(xsetbv);
    assert_eq!(machine.p.cpu.xcr0, Xcr0::X87 | Xcr0::SSE);
    for value in [2, 7] {
        machine.p.cpu.gpr[RAX] = value;
        machine.run_fault(xsetbv, GP);
    }
    // xgetbv
    machine.run_ok(&[0x0f, 0x01, 0xd0]);
    assert_eq!(machine.p.cpu.gpr[RAX], 3);
}

#[test]
fn cpuid_shows_osxsave_and_clears_the_upper_halves() {
    let mut machine = with_rax(1 | 0xffff_ffff << 32);
    machine.p.cpu.cr4 |= Cr4::OSXSAVE;
    machine.run_ok(&[0x0f, 0xa2]);
    assert_eq!(machine.p.cpu.gpr[RAX], 0x00a1_0f11);
    assert_ne!(machine.p.cpu.gpr[RCX] & 1 << 27, 0);
}

#[test]
fn random_numbers_come_with_carry_alone() {
    let mut machine = with_rax(u64::MAX);
    // rdrand ax
    machine.run_ok(&[0x66, 0x0f, 0xc7, 0xf0]);
    assert_eq!(machine.p.cpu.gpr[RAX], 0xffff_ffff_ffff_cdef);
    assert_eq!(machine.p.cpu.flags.bits(), Rflags::CF);
}

#[test]
fn the_task_priority_has_four_bits() {
    let mov_cr8_rax = &[0x44, 0x0f, 0x22, 0xc0];
    with_rax(16).run_fault(mov_cr8_rax, GP);
    let mut machine = with_rax(9);
    machine.run_ok(mov_cr8_rax);
    // mov rbx, cr8
    machine.run_ok(&[0x44, 0x0f, 0x20, 0xc3]);
    assert_eq!(machine.p.cpu.gpr[RBX], 9);
}

#[test]
fn invpcid_checks_its_descriptor() {
    // invpcid rax, [rbx]
    let code = &[0x66, 0x0f, 0x38, 0x82, 0x03];
    let mut machine = with_rax(0);
    machine.p.cpu.gpr[RBX] = DATA;
    machine.write64(DATA + 8, 0x1234_5000);
    machine.run_ok(code);
    machine.p.cpu.gpr[RAX] = 2;
    machine.run_ok(code);
    assert_eq!(machine.p.env.forgotten, [Stale::Page(0x1234_5000), Stale::All]);
    machine.p.cpu.gpr[RAX] = 4;
    machine.run_fault(code, GP);
    machine.p.cpu.gpr[RAX] = 1;
    machine.write64(DATA, 7);
    machine.run_fault(code, GP);
}

#[test]
fn user_code_reaches_the_ports_that_the_bitmap_opens() {
    let in_al_dx = &[0xec];
    let mut machine = Machine::long_mode();
    machine.write16(TSS + 0x66, 0x68);
    machine.write16(TSS + 0x68, 0b1111_1110 | 0xff << 8);
    machine.p.cpu.tr.limit = 0x6a;
    machine.enter_user();
    machine.run_ok(in_al_dx);
    machine.p.cpu.gpr[RDX] = 1;
    machine.run_fault(in_al_dx, GP);
    machine.p.cpu.gpr[RDX] = 0;
    machine.run_fault(&[0x66, 0xed], GP);
    machine.p.cpu.gpr[RDX] = 0x3f8;
    machine.run_fault(in_al_dx, GP);
    machine.p.cpu.system_flags |= Rflags::IOPL;
    machine.run_ok(in_al_dx);
}
