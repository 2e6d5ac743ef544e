//! The life of a machine whose processors follow scripts.

use std::io;
use std::sync::Mutex;
use std::thread;

use vm_memory::{Bytes, GuestAddress};

use tern_engine::VmExit;
use tern_x86::state::Activity;

use super::fake::{FakeEngine, Step, Told};
use super::*;
use crate::boot::{Kernel, KernelKind};
use crate::guest::Guest;

/// Switches off: SLP_EN and SLP_TYP of S5 into PM1a_CNT.
const POWER_OFF: Step = out(0x604, 2, 0x3400);
/// Resets through the reset control register.
const RESET: Step = out(0xcf9, 1, 0x06);

const fn out(port: u16, size: u8, data: u32) -> Step {
    Step::Exit(VmExit::PortOut { port, size, data })
}

/// What the guest sends.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config() -> MachineConfig {
    let kernel = Kernel::parse(vec![0xeb, 0xfe], Some(KernelKind::BootSector)).unwrap();
    let guest = Arc::new(Guest::new(kernel));
    MachineConfig { memory: 1 << 20, ..MachineConfig::new(guest) }
}

fn machine<const N: usize>(scripts: [&[Step]; N]) -> (Machine, Arc<fake::FakeVm>, Output) {
    machine_with(config(), scripts)
}

fn machine_with<const N: usize>(
    config: MachineConfig,
    scripts: [&[Step]; N],
) -> (Machine, Arc<fake::FakeVm>, Output) {
    let engine = FakeEngine::new(scripts);
    let output = Output::default();
    let cpus = u32::try_from(N).unwrap();
    let machine = Machine::new(MachineConfig { cpus, ..config }, &engine, output.clone()).unwrap();
    (machine, engine.0, output)
}

fn end<const N: usize>(scripts: [&[Step]; N]) -> End {
    machine(scripts).0.run().unwrap().end
}

#[test]
fn a_guest_that_switches_off_ends_the_machine() {
    assert!(matches!(end([&[POWER_OFF]]), End::PowerOff));
}

#[test]
fn one_of_several_processors_ends_the_machine() {
    assert!(matches!(end([&[], &[POWER_OFF], &[]]), End::PowerOff));
}

#[test]
fn the_debug_exit_port_is_there_on_request_only() {
    let script = [out(0xf4, 4, 0x2a), POWER_OFF];
    assert!(matches!(end([&script]), End::PowerOff));
    let with_port = MachineConfig { debug_exit: true, ..config() };
    let (machine, ..) = machine_with(with_port, [&script]);
    assert!(matches!(machine.run().unwrap().end, End::DebugExit(0x55)));
}

#[test]
fn questions_are_answered_by_the_device_at_their_address() {
    let ask = |port, size| Step::Exit(VmExit::PortIn { port, size });
    let ecam = Step::Exit(VmExit::MmioRead { address: 0xe000_0000, size: 4 });
    let nowhere = Step::Exit(VmExit::MmioRead { address: 0xd000_0000, size: 8 });
    let (machine, vm, _) = machine([&[ask(0x64, 1), ask(0x80, 2), ecam, nowhere, POWER_OFF]]);
    machine.run().unwrap();
    let told = vm.log()[1..].iter().map(|(_, told)| *told).collect::<Vec<_>>();
    assert_eq!(told, [0x14, 0xffff, 0x0008_1b36, u64::MAX].map(Told::Value));
}

#[test]
fn what_the_guest_sends_reaches_the_console() {
    let script = [out(0x3f8, 1, u32::from(b'h')), out(0x3f8, 1, u32::from(b'i')), POWER_OFF];
    let (machine, _, output) = machine([&script]);
    machine.run().unwrap();
    assert_eq!(*output.0.lock().unwrap(), b"hi");
}

#[test]
fn what_is_typed_reaches_a_guest_that_listens() {
    let listen = [out(0x3fa, 1, 1), out(0x3f9, 1, 1)];
    let read = Step::Exit(VmExit::PortIn { port: 0x3f8, size: 1 });
    let (machine, vm, _) = machine([&[listen[0], listen[1], read, POWER_OFF]]);
    assert_eq!(machine.console_input().offer(b"x"), 1);
    machine.run().unwrap();
    assert_eq!(vm.log().last(), Some(&(0, Told::Value(u64::from(b'x')))));
    assert_eq!(vm.lines(), [(4, true), (4, false)]);
}

#[test]
fn the_first_processor_gets_the_boot_state_and_the_others_wait() {
    let (machine, vm, _) = machine([&[], &[]]);
    let handle = machine.handle();
    handle.stop();
    machine.run().unwrap();
    let mut log = vm.log();
    log.sort_by_key(|(index, _)| *index);
    let state = |rip, activity| Told::State { rip, activity };
    assert_eq!(log, [(0, state(0x7c00, Activity::Running)), (1, state(0xfff0, Activity::WaitForSipi))]);
}

#[test]
fn a_reboot_resets_everything_and_loads_the_guest_again() {
    let (machine, vm, _) = machine([&[RESET, POWER_OFF]]);
    let memory = machine.memory.clone();
    memory.write_slice(&[0xaa; 4], GuestAddress(0x7c00)).unwrap();
    memory.write_slice(&[0xaa; 4], GuestAddress(0x5_0000)).unwrap();
    assert!(matches!(machine.run().unwrap().end, End::PowerOff));
    assert_eq!(vm.resets(), 1);
    let state = Told::State { rip: 0x7c00, activity: Activity::Running };
    assert_eq!(vm.log(), [(0, state), (0, state)]);
    let mut seen = [0; 4];
    memory.read_slice(&mut seen, GuestAddress(0x7c00)).unwrap();
    assert_eq!(seen, [0xeb, 0xfe, 0, 0]);
    memory.read_slice(&mut seen, GuestAddress(0x5_0000)).unwrap();
    assert_eq!(seen, [0; 4]);
}

#[test]
fn a_reboot_can_be_the_end() {
    let config = MachineConfig { on_reboot: OnReboot::End, ..config() };
    let (machine, vm, _) = machine_with(config, [&[RESET], &[]]);
    assert!(matches!(machine.run().unwrap().end, End::Reboot));
    assert_eq!(vm.resets(), 0);
}

#[test]
fn a_triple_fault_is_a_crash_of_its_processor() {
    let crash = [Step::Exit(VmExit::TripleFault)];
    let End::Crash(report) = end([&[], &crash]) else { panic!("it did not crash") };
    assert_eq!(report.vcpu, 1);
}

#[test]
fn an_engine_that_fails_is_an_error() {
    let (machine, ..) = machine([&[], &[Step::Fail]]);
    assert!(matches!(machine.run(), Err(MachineError::Engine(_))));
}

#[test]
fn a_guest_that_spins_can_be_stopped() {
    let (machine, vm, _) = machine([&[], &[]]);
    let handle = machine.handle();
    thread::scope(|scope| {
        scope.spawn(|| {
            vm.wait_for_entries(2);
            handle.stop();
        });
        let outcome = machine.run().unwrap();
        assert!(matches!(outcome.end, End::Stopped));
        assert_eq!(outcome.statistics.instructions, 2);
    });
    // After the end, handles do nothing and do not wait.
    handle.pause();
    handle.resume();
}

#[test]
fn a_paused_machine_stands_still_until_it_is_resumed() {
    let (machine, vm, _) = machine([&[], &[]]);
    let (handle, clock) = (machine.handle(), Arc::clone(&machine.clock));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                handle.pause();
                assert_eq!(vm.in_guest(), 0);
                assert_eq!(clock.now(), clock.now());
                handle.pause();
                handle.resume();
            }
            handle.stop();
        });
        assert!(matches!(machine.run().unwrap().end, End::Stopped));
    });
}

#[test]
fn the_power_button_interrupts_a_guest_that_enabled_it() {
    let (machine, vm, _) = machine([&[out(0x602, 2, 0x100)]]);
    let handle = machine.handle();
    thread::scope(|scope| {
        scope.spawn(|| {
            vm.wait_for_entries(2);
            handle.press_power_button();
            handle.stop();
        });
        machine.run().unwrap();
    });
    assert_eq!(vm.lines(), [(9, true)]);
}

#[test]
fn impossible_machines_are_refused_before_anything_is_made() {
    let engine = FakeEngine::new([]);
    let refused = |config| Machine::new(config, &engine, io::sink()).err();
    assert!(matches!(refused(MachineConfig { cpus: 0, ..config() }), Some(MachineError::Config(_))));
    let kernel = Kernel::parse(vec![0xf4], Some(KernelKind::BootSector)).unwrap();
    let with_initrd = Arc::new(Guest { initrd: Some(vec![0; 8]), ..Guest::new(kernel) });
    assert!(matches!(refused(MachineConfig::new(with_initrd)), Some(MachineError::Load(_))));
}
