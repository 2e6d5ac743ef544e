//! A hostile guest: arbitrary bytes as code, in every mode, must leave the engine and the host as they were.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tern_engine::{Clock, Engine, GuestMemory, Kick, Vcpu, VmConfig, VmEntry, VmExit};
use tern_soft::{SoftEngine, Translation};
use tern_x86::cpu::Mode;
use tern_x86::cpuid::CpuModel;
use tern_x86::decode::{MAX_INSTRUCTION_LENGTH, decode};
use tern_x86::state::{Attributes, Cr0, Cr4, Efer, Segment, VcpuState, Xcr0};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of guest memory.
const MEMORY: usize = 1 << 20;
/// Where the code lies, and below it the stack.
const CODE: u64 = 0x8000;
/// The page tables of 64-bit code: three pages that identity-map 2 MiB pages, so that most addresses lead nowhere.
const TABLES: u64 = 0x1000;
/// Questions that the machine answers before it loses interest.
const PATIENCE: usize = 64;
/// How long code runs that asks nothing.
const SLICE: Duration = Duration::from_millis(1);

/// One processor, used for one input after another.
struct Guest {
    memory: GuestMemory,
    vcpu: Box<dyn Vcpu>,
}

thread_local! {
    /// As users have it; and in lockstep, where the translator and the interpreter must agree about all that is executed, with the usual
    /// processor, and with all that the host's has.
    static GUESTS: [RefCell<Guest>; 3] = [
        guest(SoftEngine::default(), CpuModel::default()),
        guest(SoftEngine::new(Translation::Verified).eager(), CpuModel::default()),
        guest(SoftEngine::new(Translation::Verified).eager(), CpuModel::by_name("host").expect("it is a model")),
    ]
    .map(RefCell::new);
}

fn guest(engine: SoftEngine, cpu_model: CpuModel) -> Guest {
    let memory =
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("the host has a little memory");
    let config = VmConfig { cpu_model, cpus: 1, clock: Arc::new(Clock::new()) };
    let vm = engine.create_vm(&config, memory.clone()).expect("the engine runs here");
    let vcpu = vm.create_vcpu(0).expect("a machine has a processor");
    let kicker: Arc<dyn Kick> = vcpu.kicker();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(SLICE);
            kicker.kick();
        }
    });
    Guest { memory, vcpu }
}

/// Decodes `bytes` in every mode.
pub fn decode_everywhere(bytes: &[u8]) {
    for mode in [Mode::empty(), Mode::CODE32, Mode::LONG] {
        if let Some(instruction) = decode(bytes, mode) {
            assert!((1..=MAX_INSTRUCTION_LENGTH).contains(&instruction.len()));
        }
    }
}

/// Executes `input`: its first byte chooses the mode (bits 2:0), and lockstep (bit 3) and there the host's processor (bit 4), the rest
/// is code.
pub fn execute(input: &[u8]) {
    let Some((&choice, code)) = input.split_first() else { return };
    let number = match choice & 0x18 {
        0x08 => 1,
        0x18 => 2,
        _ => 0,
    };
    GUESTS.with(|guests| run(&mut guests[number].borrow_mut(), choice, &code[..code.len().min(4096)]));
}

fn run(guest: &mut Guest, choice: u8, code: &[u8]) {
    let write = |at: u64, bytes: &[u8]| guest.memory.write_slice(bytes, GuestAddress(at)).expect("it is RAM");
    write(0, &[0; 0x10000]);
    write(CODE, code);
    for (table, entry) in [(0, TABLES + 0x1007), (0x1000, TABLES + 0x2007), (0x2000, 0x87)] {
        write(TABLES + table, &u64::to_le_bytes(entry));
    }
    guest.vcpu.set_state(&state(choice));
    let mut entry = VmEntry::Resume;
    for _ in 0..PATIENCE {
        entry = match guest.vcpu.run(entry).expect("a guest is no reason for the host to fail") {
            VmExit::PortIn { .. } | VmExit::MmioRead { .. } => VmEntry::Value(u64::MAX / 3),
            VmExit::PortOut { .. } | VmExit::MmioWrite { .. } => VmEntry::Resume,
            VmExit::Kicked | VmExit::TripleFault => return,
        };
    }
}

/// Real mode, 32-bit or 64-bit code, privileged or not, with everything enabled that instructions may need.
fn state(choice: u8) -> VcpuState {
    let mut state = VcpuState::reset();
    state.gpr = std::array::from_fn(|n| CODE + 0x100 * n as u64);
    state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    state.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE | Cr4::PAE | Cr4::FSGSBASE;
    if choice & 3 == 0 {
        state.segments = [Segment::real_mode(0); 6];
        state.rip = CODE;
        return state;
    }
    let long = choice & 3 == 3;
    let dpl = if choice & 4 == 0 { 0 } else { 3 };
    let code = Attributes::from_bits_retain(if long { 0xa9b } else { 0xc9b }).with_dpl(dpl);
    let data = Attributes::from_bits_retain(0xc93).with_dpl(dpl);
    state.segments = [Segment::flat(0x10 | u16::from(dpl), data); 6];
    state.segments[1] = Segment::flat(0x08 | u16::from(dpl), code);
    state.cpl = dpl;
    state.rip = CODE;
    state.cr0 = Cr0::PE | Cr0::ET | Cr0::NE;
    if long {
        state.cr0 |= Cr0::PG | Cr0::WP;
        state.cr3 = TABLES;
        state.efer = Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE;
    }
    state
}
