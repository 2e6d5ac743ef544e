//! The trial: a tiny guest that proves that KVM runs ordinary code, not only that it answers.
//!
//! In 64-bit mode it executes what KVM's instruction emulator cannot: CMPXCHG16B, an SSE addition, and a breakpoint
//! through an interrupt descriptor table. Where the hardware runs it, it sums up what these did and writes the sum to a
//! port. Where KVM works without hardware (PVM, with guests that were not made for it), it fails or gives another sum.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tern_engine::{Clock, EngineError, GuestMemory, THREAD_STACK, Vcpu, VmConfig, VmEntry, VmExit};
use tern_x86::cpuid::CpuModel;
use tern_x86::state::{Attributes, Cr0, Cr4, DescriptorTable, Efer, Segment, SegmentRegister, VcpuState};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::host::{Finding, Host, is_pvm};
use crate::vm::KvmVm;

/// The guest's memory.
const MEMORY: usize = 0x1_0000;
/// One page each.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;
const DATA: u64 = 0x6000;
const STACK_TOP: u64 = 0x8000;
const CODE: u64 = 0x8000;

/// Present and writable.
const TABLE: u64 = 0b11;
/// The same, and a page of 2 MiB.
const LARGE_PAGE: u64 = 0x83;
/// Flat 64-bit code and flat data of privilege level 0.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
/// A present 64-bit interrupt gate of privilege level 0, in bits 47:40.
const INTERRUPT_GATE: u64 = 0x8e << 40;

/// Where the sum goes.
const PORT: u16 = 0x80;
/// What CMPXCHG16B stores.
const STORED: u32 = 0x4e52_4554;
/// The sum: what was stored, one breakpoint, and 5 + 5.
const SUM: u32 = STORED + 1 + 10;

const PROGRAM: &[u8] = &[
    0x31, 0xc0, // xor eax, eax
    0x31, 0xd2, // xor edx, edx
    0x31, 0xc9, // xor ecx, ecx
    0xbb, 0x54, 0x45, 0x52, 0x4e, // mov ebx, STORED
    0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x60, 0x00, 0x00, // lock cmpxchg16b [DATA]
    0x45, 0x31, 0xc0, // xor r8d, r8d
    0xcc, // int3
    0xb8, 0x05, 0x00, 0x00, 0x00, // mov eax, 5
    0x66, 0x0f, 0x6e, 0xc0, // movd xmm0, eax
    0x66, 0x0f, 0xfe, 0xc0, // paddd xmm0, xmm0
    0x66, 0x0f, 0x7e, 0xc0, // movd eax, xmm0
    0x44, 0x01, 0xc0, // add eax, r8d
    0x03, 0x04, 0x25, 0x00, 0x60, 0x00, 0x00, // add eax, [DATA]
    0xe7, 0x80, // out PORT, eax
    0xf4, // hlt
];

/// Where the breakpoint's handler is.
const HANDLER: u64 = CODE + 0x100;
const HANDLER_PROGRAM: &[u8] = &[
    0x41, 0xff, 0xc0, // inc r8d
    0x48, 0xcf, // iretq
];

/// How long the trial may take. It takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the trial.
///
/// # Errors
/// The host does not run the guest as it should.
pub fn run(host: Host) -> Result<(), Finding> {
    run_program(host, PROGRAM)
}

/// Runs `program` in the trial's place, which is to come to the same sum.
fn run_program(host: Host, program: &[u8]) -> Result<(), Finding> {
    match outcome(host, program) {
        Ok(VmExit::PortOut { port: PORT, size: 4, data: SUM }) => Ok(()),
        Ok(VmExit::Kicked) => Err(failed(&format!("it did not end within {} s", PATIENCE.as_secs()))),
        Ok(VmExit::TripleFault) => Err(failed("it ended in a triple fault")),
        Ok(other) => Err(failed(&format!("it computed something else ({other:?})"))),
        Err(EngineError::GaveUp { reason, .. }) => Err(failed(&reason)),
        Err(error) => Err(failed(&with_sources(&error))),
    }
}

/// An error with what is behind it, in one line.
fn with_sources(error: &EngineError) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The finding in a few words, with the evidence behind the remedy: the first is what falls back in one line.
fn failed(how: &str) -> Finding {
    let finding = "/dev/kvm answers, but does not run ordinary code";
    let (why, remedy) = if is_pvm() {
        (
            "it is PVM (the module kvm_pvm), which has no virtualization hardware",
            "PVM runs guests with kernels made for it only: use `--engine soft` here, or a host with AMD-V or VT-x.",
        )
    } else {
        (
            "a trial guest failed",
            "Look into the kernel's log (dmesg). Inside a virtual machine, let its host offer nested virtualization.",
        )
    };
    Finding::new(format!("{finding}: {why}"), format!("{remedy} (The trial guest: {how}.)"))
}

fn outcome(host: Host, program: &[u8]) -> Result<VmExit, EngineError> {
    let unreachable =
        |error: &dyn std::fmt::Display| EngineError::Unsupported(format!("no memory for the trial: {error}"));
    let memory =
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).map_err(|error| unreachable(&error))?;
    load(&memory, program).map_err(|error| unreachable(&error))?;
    let config = VmConfig { cpu_model: CpuModel::default(), cpus: 1, clock: Arc::new(Clock::new()) };
    let vm = KvmVm::without_chipset(host, &config, memory)?;
    let (mut vcpu, _) = vm.make_vcpu(0)?;
    vcpu.set_state(&first_state());
    let kick = vcpu.kicker();
    let (done, waiting) = channel::<()>();
    thread::scope(|scope| {
        let watch = move || {
            if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                kick.kick();
            }
        };
        thread::Builder::new()
            .stack_size(THREAD_STACK)
            .spawn_scoped(scope, watch)
            .map_err(|source| EngineError::Host { action: "start a thread", source })?;
        let exit = vcpu.run(VmEntry::Resume);
        drop(done);
        exit
    })
}

fn load(memory: &GuestMemory, program: &[u8]) -> Result<(), GuestMemoryError> {
    let [low, high] = [HANDLER & 0xffff, HANDLER >> 16 & 0xffff];
    let gate = low | u64::from(CODE_SELECTOR) << 16 | INTERRUPT_GATE | high << 48;
    let words = [
        (PML4, PDPT | TABLE),
        (PDPT, PAGE_DIRECTORY | TABLE),
        (PAGE_DIRECTORY, LARGE_PAGE),
        (IDT + 3 * 16, gate),
        (GDT + u64::from(CODE_SELECTOR), CODE_DESCRIPTOR),
        (GDT + u64::from(DATA_SELECTOR), DATA_DESCRIPTOR),
        (DATA, 0),
    ];
    for (address, word) in words {
        memory.write_obj(word, GuestAddress(address))?;
    }
    memory.write_slice(program, GuestAddress(CODE))?;
    memory.write_slice(HANDLER_PROGRAM, GuestAddress(HANDLER))
}

/// 64-bit mode at the program's start.
fn first_state() -> VcpuState {
    let data = Segment::flat(DATA_SELECTOR, Attributes::from_bits_retain(0xc93));
    let mut state = VcpuState { rip: CODE, ..VcpuState::reset() };
    state.gpr[4] = STACK_TOP;
    state.segments = [data; 6];
    state.segments[SegmentRegister::Cs as usize] =
        Segment::flat(CODE_SELECTOR, Attributes::from_bits_retain(0xa9b));
    state.gdtr = DescriptorTable { base: GDT, limit: 23 };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    state.cr0 = Cr0::PE | Cr0::ET | Cr0::MP | Cr0::NE | Cr0::PG;
    state.cr3 = PML4;
    state.cr4 = Cr4::PAE | Cr4::OSFXSR;
    state.efer = Efer::LME | Efer::LMA;
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_trial_says_so_in_a_few_words_and_what_it_was_behind_the_remedy() {
        let Finding { reason, remedy } = failed("it ended in a triple fault");
        assert!(reason.starts_with("/dev/kvm answers, but does not run ordinary code: "), "{reason}");
        assert!(!reason.contains("triple fault") && remedy.contains("triple fault"), "{remedy}");
    }

    /// Where KVM runs ordinary code, these guests fail by themselves.
    #[test]
    #[ignore = "needs a /dev/kvm that runs ordinary code: it runs in the rig"]
    fn each_way_in_which_a_trial_fails_is_told() {
        let fails: [(&[u8], &str); 4] = [
            // mov eax, 1; out PORT, eax
            (&[0xb8, 1, 0, 0, 0, 0xe7, 0x80], "it computed something else"),
            // lidt of an empty table at DATA; int3
            (&[0x0f, 0x01, 0x1c, 0x25, 0x00, 0x60, 0x00, 0x00, 0xcc], "it ended in a triple fault"),
            // jmp to itself
            (&[0xeb, 0xfe], "it did not end within 5 s"),
            // paddd xmm0, [0x100000], where there is no memory: only the emulator could answer that
            (&[0x66, 0x0f, 0xfe, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00], "it cannot emulate"),
        ];
        run(Host::open().unwrap()).unwrap();
        for (program, how) in fails {
            let Finding { reason, remedy } = run_program(Host::open().unwrap(), program).unwrap_err();
            assert_eq!(reason, "/dev/kvm answers, but does not run ordinary code: a trial guest failed");
            assert!(remedy.contains(how), "{remedy}");
        }
    }

    #[test]
    fn the_program_names_its_own_places() {
        let word = |at: usize| u32::from_le_bytes(PROGRAM[at..at + 4].try_into().unwrap());
        assert_eq!(word(7), STORED);
        assert_eq!(u64::from(word(17)), DATA);
        assert_eq!(u64::from(word(PROGRAM.len() - 7)), DATA);
        assert_eq!(u16::from(PROGRAM[PROGRAM.len() - 2]), PORT);
        assert!(CODE + (PROGRAM.len() as u64) < HANDLER);
    }
}
