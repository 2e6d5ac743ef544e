//! What is told about a guest that crashed: its processor met a triple fault (APM volume 2, section 8.2.9), or the engine
//! gave up on it.
//!
//! The report is written like a kernel's own: registers, segments, control registers, the instruction, and what to try.

use std::fmt;

use iced_x86::{Decoder, Formatter, IntelFormatter};
use vm_memory::{Bytes, GuestAddress};

use tern_engine::GuestMemory;
use tern_x86::cpu::{Cpu, Mode};
use tern_x86::cpuid::CpuModel;
use tern_x86::decode::{MAX_INSTRUCTION_LENGTH, decoder_options};
use tern_x86::paging::{Access, AccessKind, PhysicalMemory, translate};
use tern_x86::state::{Cr0, SegmentRegister, VcpuState};

/// A crashed guest.
#[derive(Debug)]
pub struct CrashReport {
    /// The processor's number.
    pub vcpu: u32,
    /// Its state.
    pub state: VcpuState,
    /// The bytes at CS:RIP, as far as they can be read; at most 15.
    pub instruction: Vec<u8>,
    /// 16, 32 or 64: what the code segment says.
    bitness: u32,
    /// Why the engine gave up, in words with the processor's number; none after a triple fault.
    reason: Option<String>,
}

impl CrashReport {
    /// After a triple fault.
    pub(crate) fn triple_fault(vcpu: u32, state: VcpuState, memory: &GuestMemory) -> Self {
        Self::new(vcpu, state, memory, None)
    }

    /// After the engine gave up for this reason.
    pub(crate) fn given_up(vcpu: u32, state: VcpuState, memory: &GuestMemory, reason: String) -> Self {
        Self::new(vcpu, state, memory, Some(reason))
    }

    fn new(vcpu: u32, state: VcpuState, memory: &GuestMemory, reason: Option<String>) -> Self {
        let mut cpu = Cpu::new(CpuModel::default());
        cpu.set_state(&state);
        let instruction = read_instruction(&cpu, memory);
        Self { vcpu, state, instruction, bitness: cpu.mode.bitness(), reason }
    }

    /// Whether the state is not the crash's: KVM on AMD's processors resets one that shuts down, before anybody can read its
    /// registers. A guest is never entered there, so no other crash looks like this.
    #[must_use]
    pub fn state_is_lost(&self) -> bool {
        let (state, reset) = (&self.state, VcpuState::reset());
        let cs = SegmentRegister::Cs as usize;
        self.reason.is_none()
            && state.rip == reset.rip
            && state.segments[cs].base == reset.segments[cs].base
            && !state.cr0.contains(Cr0::PE)
    }

    fn disassembly(&self) -> String {
        if self.instruction.is_empty() {
            return "(cannot be read: nothing is mapped there)".to_owned();
        }
        let options = decoder_options(Mode::TZCNT | Mode::LZCNT);
        let mut decoder = Decoder::with_ip(self.bitness, &self.instruction, self.state.rip, options);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return "(not an instruction)".to_owned();
        }
        let mut text = String::new();
        IntelFormatter::new().format(&instruction, &mut text);
        text
    }

    /// What may be wrong, as far as the state shows it, and what to try.
    fn advice(&self) -> Vec<&'static str> {
        let state = &self.state;
        let mut advice = Vec::new();
        if self.reason.is_some() {
            advice.push(
                "--engine soft executes every instruction, wherever it lies: try the same guest on it.",
            );
        } else if self.state_is_lost() {
            advice.push("--engine soft, which keeps the registers, shows where the same guest crashes.");
        } else if state.idtr.limit == 0
            || state.idtr == VcpuState::reset().idtr && state.cr0.contains(Cr0::PE)
        {
            advice.push(
                "The guest had not loaded an interrupt descriptor table (LIDT): any exception ends like this.",
            );
        }
        if !self.state_is_lost() && self.instruction.is_empty() {
            advice.push(
                "It ran at an address without code: a wild jump or call, or a return with a damaged stack.",
            );
        }
        advice.push("A kernel of Linux tells more with 'earlyprintk=ttyS0 console=ttyS0' on its --cmdline.");
        advice.push("If it stops before its first line: try more --memory, and see that the file is an x86-64 kernel.");
        advice.push("A test kernel can end in an orderly way through --debug-exit, instead of crashing.");
        advice
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.state_is_lost() {
            writeln!(f, "triple fault on processor {}", self.vcpu)?;
            writeln!(f, "  where is not known: the host's KVM resets a processor that shuts down")?;
        } else {
            self.write_state(f)?;
        }
        write!(f, "What to do next:")?;
        self.advice().iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl CrashReport {
    fn write_state(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &self.state;
        let cs = state.segments[SegmentRegister::Cs as usize].selector;
        match &self.reason {
            Some(reason) => write!(f, "{reason}\n  ")?,
            None => write!(f, "triple fault on processor {}, ", self.vcpu)?,
        }
        writeln!(f, "at {cs:04x}:{:016x} (CPL {})", state.rip, state.cpl)?;
        let bytes: Vec<_> = self.instruction.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(f, "  code   {}", self.disassembly())?;
        if !bytes.is_empty() {
            writeln!(f, "         {}", bytes.join(" "))?;
        }
        let names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
        let numbered = (8..16).map(|number| format!("r{number}"));
        let names: Vec<String> = names.map(str::to_owned).into_iter().chain(numbered).collect();
        for row in names.iter().zip(state.gpr).collect::<Vec<_>>().chunks(4) {
            for (name, value) in row {
                write!(f, "  {name:<3} {value:016x}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  rip {:016x}  rflags {:08x}", state.rip, state.rflags.bits())?;
        writeln!(
            f,
            "  cr0 {:016x}  cr2 {:016x}  cr3 {:016x}  cr4 {:016x}  efer {:04x}",
            state.cr0.bits(),
            state.cr2,
            state.cr3,
            state.cr4.bits(),
            state.efer.bits()
        )?;
        let system = [("ldtr", &state.ldtr), ("tr", &state.tr)];
        let names = ["es", "cs", "ss", "ds", "fs", "gs"];
        for (name, segment) in names.into_iter().zip(&state.segments).chain(system) {
            writeln!(
                f,
                "  {name:<4} {:04x}  base {:016x}  limit {:08x}  attributes {:03x}",
                segment.selector,
                segment.base,
                segment.limit,
                segment.attributes.bits()
            )?;
        }
        writeln!(f, "  gdtr base {:016x}  limit {:04x}", state.gdtr.base, state.gdtr.limit)?;
        writeln!(f, "  idtr base {:016x}  limit {:04x}", state.idtr.base, state.idtr.limit)
    }
}

/// Reads what is at CS:RIP, up to the first byte that cannot be read.
fn read_instruction(cpu: &Cpu, memory: &GuestMemory) -> Vec<u8> {
    let base = if cpu.code64() { 0 } else { cpu.segment(SegmentRegister::Cs).base };
    let start = base.wrapping_add(cpu.rip);
    let access = Access::explicit(cpu, AccessKind::Execute);
    let read = |index| {
        let linear = start.wrapping_add(index);
        let physical = translate(cpu, &mut Untouched(memory), linear, access).ok()?.physical;
        memory.read_obj::<u8>(GuestAddress(physical)).ok()
    };
    (0..MAX_INSTRUCTION_LENGTH as u64).map_while(read).collect()
}

/// Guest memory for a look at its page tables that leaves no traces in them.
struct Untouched<'a>(&'a GuestMemory);

impl PhysicalMemory for Untouched<'_> {
    fn read_u64(&mut self, physical: u64) -> Option<u64> {
        self.0.read_obj(GuestAddress(physical)).ok()
    }

    fn read_u32(&mut self, physical: u64) -> Option<u32> {
        self.0.read_obj(GuestAddress(physical)).ok()
    }

    fn exchange_u64(&mut self, _physical: u64, _old: u64, _new: u64) -> bool {
        true
    }

    fn exchange_u32(&mut self, _physical: u64, _old: u32, _new: u32) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tern_x86::state::{Attributes, Cr4, Efer, Segment};

    use super::*;
    use crate::memory;

    fn memory_with(bytes: &[u8], address: u64) -> GuestMemory {
        let memory = memory::create(1 << 20, memory::HostPages::Usual).unwrap();
        memory.write_slice(bytes, GuestAddress(address)).unwrap();
        memory
    }

    #[test]
    fn the_instruction_is_read_through_the_guests_page_tables() {
        let memory = memory_with(&[0x0f, 0x0b], 0x8123);
        // One 2 MiB page at the linear address 2 MiB, which leads to 0.
        for (table, index, entry) in [(0x1000, 0, 0x2003_u64), (0x2000, 0, 0x3003), (0x3000, 1, 0x83)] {
            memory.write_obj(entry, GuestAddress(table + index * 8)).unwrap();
        }
        let mut state = VcpuState { rip: 0x20_8123, cr3: 0x1000, ..VcpuState::reset() };
        state.cr0 = Cr0::PE | Cr0::PG;
        state.cr4 = Cr4::PAE;
        state.efer = Efer::LME | Efer::LMA;
        state.segments[1] = Segment::flat(8, Attributes::from_bits_retain(0x29b));
        let report = CrashReport::triple_fault(3, state, &memory);
        assert_eq!(report.instruction[..2], [0x0f, 0x0b]);
        let text = report.to_string();
        assert!(text.starts_with("triple fault on processor 3, at 0008:0000000000208123 (CPL 0)"), "{text}");
        assert!(text.contains("code   ud2"), "{text}");
        let dirty: u64 = memory.read_obj(GuestAddress(0x3008)).unwrap();
        assert_eq!(dirty, 0x83, "the look left a trace");
    }

    #[test]
    fn an_address_without_code_is_told_as_such() {
        let memory = memory_with(&[], 0);
        let mut state = VcpuState { rip: 0x9000_0000, ..VcpuState::reset() };
        state.cr0 |= Cr0::PE;
        state.segments[1] = Segment::flat(8, Attributes::from_bits_retain(0xc9b));
        let report = CrashReport::triple_fault(0, state, &memory);
        assert!(report.instruction.is_empty());
        let text = report.to_string();
        assert!(text.contains("nothing is mapped there") && text.contains("a wild jump"), "{text}");
        assert!(text.contains("LIDT"), "{text}");
    }

    #[test]
    fn registers_that_kvm_has_reset_are_not_shown_as_the_crashs() {
        let report = CrashReport::triple_fault(2, VcpuState::reset(), &memory_with(&[], 0));
        assert!(report.state_is_lost());
        let text = report.to_string();
        assert!(text.starts_with("triple fault on processor 2\n  where is not known"), "{text}");
        assert!(text.contains("--engine soft") && !text.contains("rax") && !text.contains("LIDT"), "{text}");
        assert!(!text.contains("wild jump"), "{text}");
    }

    #[test]
    fn an_engine_that_gave_up_says_why_and_the_registers_are_shown_wherever_it_was() {
        let reason = "KVM cannot run processor 1 any further: it does not like it".to_owned();
        let report = CrashReport::given_up(1, VcpuState::reset(), &memory_with(&[], 0), reason);
        let text = report.to_string();
        assert!(
            text.starts_with("KVM cannot run processor 1 any further: it does not like it\n  at f000:"),
            "{text}"
        );
        assert!(text.contains("rax 0000000000000000") && text.contains("--engine soft"), "{text}");
        assert!(!text.contains("LIDT"), "{text}");
    }

    #[test]
    fn real_mode_code_is_read_as_such() {
        let memory = memory_with(&[0xb8, 0x34, 0x12], 0x7c00);
        let mut state = VcpuState { rip: 0x7c00, ..VcpuState::reset() };
        state.segments[1] = Segment::real_mode(0);
        let text = CrashReport::triple_fault(0, state, &memory).to_string();
        assert!(text.contains("mov ax,1234h"), "{text}");
        assert!(!text.contains("LIDT"), "{text}");
    }
}
