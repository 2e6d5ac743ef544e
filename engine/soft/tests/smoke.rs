//! The engine from outside: a few instructions, and what the machine is asked.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use tern_engine::{Clock, Engine, GuestMemory, Vcpu, VmConfig, VmEntry, VmExit};
use tern_soft::SoftEngine;
use tern_x86::cpuid::CpuModel;
use tern_x86::state::{Segment, VcpuState};
use vm_memory::{Bytes, GuestAddress};

/// A processor in real mode at 0000:7C00, where `code` lies.
fn real_mode(code: &[u8]) -> (Box<dyn Vcpu>, GuestMemory) {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    memory.write_slice(code, GuestAddress(0x7c00)).unwrap();
    let config = VmConfig { cpu_model: CpuModel::default(), cpus: 1, clock: Arc::new(Clock::new()) };
    let vm = SoftEngine::default().create_vm(&config, memory.clone()).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut state = VcpuState::reset();
    state.segments[1] = Segment { attributes: state.segments[1].attributes, ..Segment::real_mode(0) };
    state.rip = 0x7c00;
    state.gpr[4] = 0x7000;
    vcpu.set_state(&state);
    (vcpu, memory)
}

#[test]
fn a_port_write_reaches_the_machine_and_the_guest_goes_on() {
    // mov al, 42; out 0xf4, al; inc al; out 0xf4, al
    let (mut vcpu, _) = real_mode(&[0xb0, 42, 0xe6, 0xf4, 0xfe, 0xc0, 0xe6, 0xf4]);
    let first = vcpu.run(VmEntry::Resume).unwrap();
    assert_eq!(first, VmExit::PortOut { port: 0xf4, size: 1, data: 42 });
    let second = vcpu.run(VmEntry::Resume).unwrap();
    assert_eq!(second, VmExit::PortOut { port: 0xf4, size: 1, data: 43 });
}

#[test]
fn the_machine_answers_a_port_read() {
    // in ax, 0x80; out 0xf4, ax
    let (mut vcpu, _) = real_mode(&[0xe5, 0x80, 0xe7, 0xf4]);
    assert_eq!(vcpu.run(VmEntry::Resume).unwrap(), VmExit::PortIn { port: 0x80, size: 2 });
    let echoed = vcpu.run(VmEntry::Value(0x1234)).unwrap();
    assert_eq!(echoed, VmExit::PortOut { port: 0xf4, size: 2, data: 0x1234 });
}

#[test]
fn code_that_changes_itself_is_decoded_anew() {
    // mov byte [0x7c06], 43; mov al, 42 (43 by then); out 0xf4, al
    let (mut vcpu, _) = real_mode(&[0xc6, 0x06, 0x06, 0x7c, 43, 0xb0, 42, 0xe6, 0xf4]);
    let out = vcpu.run(VmEntry::Resume).unwrap();
    assert_eq!(out, VmExit::PortOut { port: 0xf4, size: 1, data: 43 });
}

#[test]
fn a_loop_with_interrupts_off_can_be_kicked() {
    // cli; jmp $
    let (mut vcpu, _) = real_mode(&[0xfa, 0xeb, 0xfe]);
    let kicker = vcpu.kicker();
    let thread = std::thread::spawn(move || vcpu.run(VmEntry::Resume).unwrap());
    kicker.kick();
    assert_eq!(thread.join().unwrap(), VmExit::Kicked);
}

#[test]
fn a_jump_into_nothing_ends_in_a_triple_fault() {
    // lidt [0x7c20] (limit 0); jmp 0xffff:0x0010, where there is no memory
    let mut code = vec![0x0f, 0x01, 0x1e, 0x20, 0x7c, 0xea, 0x10, 0x00, 0xff, 0xff];
    code.resize(0x40, 0);
    let (mut vcpu, _) = real_mode(&code);
    assert_eq!(vcpu.run(VmEntry::Resume).unwrap(), VmExit::TripleFault);
}

#[test]
fn no_memory_of_the_process_can_be_written_and_executed() {
    // fninit; mov al, 42; out 0xf4, al: x87 is executed natively, by code of its own.
    let (mut vcpu, _) = real_mode(&[0xdb, 0xe3, 0xb0, 42, 0xe6, 0xf4]);
    vcpu.run(VmEntry::Resume).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let rights = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
    let code: Vec<_> = maps.lines().filter(|line| line.contains("tern-code")).map(rights).collect();
    assert!(code.contains(&"r-xs".to_owned()) && code.contains(&"rw-s".to_owned()), "{maps}");
    let both: Vec<_> = maps.lines().filter(|line| rights(line).starts_with("rwx")).collect();
    assert!(both.is_empty(), "{both:?}");
}

/// Has this thread refused memory that is executed, for what is new and for what it has.
fn refuse_executable_memory() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
    use seccompiler::{SeccompFilter, SeccompRule, TargetArch};
    let exec = libc::PROT_EXEC as u64;
    let rights = |argument| {
        let is_exec =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), exec)
                .unwrap();
        vec![SeccompRule::new(vec![is_exec]).unwrap()]
    };
    let rules = [
        (libc::SYS_mmap, rights(2)),
        (libc::SYS_mprotect, rights(2)),
        (libc::SYS_pkey_mprotect, rights(2)),
        (libc::SYS_memfd_create, Vec::new()),
    ];
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, refusal, TargetArch::x86_64).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn instructions_that_are_executed_natively_are_met_for_the_first_time_under_a_system_call_filter() {
    // fninit; fld1; fadd st0, st0; fistp word [0x7000]; mov al, [0x7000]; out 0xf4, al
    let code = [0xdb, 0xe3, 0xd9, 0xe8, 0xd8, 0xc0, 0xdf, 0x1e, 0, 0x70, 0xa0, 0, 0x70, 0xe6, 0xf4];
    let test = move || {
        let (mut vcpu, _) = real_mode(&code);
        refuse_executable_memory();
        let out = vcpu.run(VmEntry::Resume).unwrap();
        assert_eq!(out, VmExit::PortOut { port: 0xf4, size: 1, data: 2 });
    };
    // The filter is this thread's alone.
    std::thread::spawn(test).join().unwrap();
}
