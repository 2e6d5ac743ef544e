//! A processor with two pages of memory, the rest unmapped, and a vector unit that does what a test says.

use iced_x86::Instruction;

use crate::cpu::{Cpu, Word};
use crate::cpuid::CpuModel;
use crate::decode::BlockDecoder;
use crate::environment::{Environment, MsrAnswer, Processor, Stale, VectorOperand};
use crate::exception::{Exception, PageFault, Stop, Vector};
use crate::state::{Attributes, Cr0, Cr4, Efer, SegmentRegister, Xcr0};
use crate::vector::VectorInfo;

/// Where the mapped memory begins and ends.
pub const MAPPED: core::ops::Range<u64> = 0x1000..0x3000;

/// What the vector unit does.
pub type Script = fn(&mut Cpu, &mut VectorOperand) -> Result<(), Stop>;

pub struct Bench {
    memory: [u8; 0x2000],
    script: Script,
}

impl Bench {
    fn bytes(&mut self, cpu: &mut Cpu, linear: u64, size: usize, write: bool) -> Result<&mut [u8], Stop> {
        for address in linear..linear + size as u64 {
            if !MAPPED.contains(&address) {
                let code = if write { PageFault::WRITE } else { PageFault::empty() };
                return Err(cpu.raise(Exception::page_fault(address, code)));
            }
        }
        let start = (linear - MAPPED.start) as usize;
        Ok(&mut self.memory[start..start + size])
    }
}

/// A processor in 64-bit mode at privilege level 0 with everything enabled.
pub fn processor(script: Script) -> Processor<Bench> {
    let mut cpu = Cpu::new(CpuModel::default());
    cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::NE | Cr0::MP | Cr0::ET;
    cpu.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    cpu.efer = Efer::LMA;
    cpu.xcr0 = Xcr0::X87 | Xcr0::SSE;
    cpu.segments[SegmentRegister::Cs as usize].attributes |= Attributes::LONG;
    cpu.derive_mode();
    Processor { cpu, env: Bench { memory: [0xcc; 0x2000], script } }
}

/// Makes it a processor in real mode.
pub fn real_mode(p: &mut Processor<Bench>) {
    p.cpu.cr0 -= Cr0::PE | Cr0::PG;
    p.cpu.efer = Efer::empty();
    p.cpu.segments[SegmentRegister::Cs as usize].attributes -= Attributes::LONG;
    p.cpu.derive_mode();
}

/// Decodes one instruction and executes it; gives the vector of the exception it raises.
pub fn run(p: &mut Processor<Bench>, bytes: &[u8]) -> Result<(), Vector> {
    let op = BlockDecoder::new(bytes, p.cpu.mode).next_op(&mut p.env).expect("the test's bytes are complete");
    assert_eq!(usize::from(op.length), bytes.len(), "the test's bytes are one instruction");
    (op.run)(p, &op).map_err(|stop| {
        assert_eq!(stop, Stop::Exception);
        p.cpu.exception.vector
    })
}

/// The bytes at an address.
pub fn read(p: &mut Processor<Bench>, linear: u64, size: usize) -> &[u8] {
    p.env.bytes(&mut p.cpu, linear, size, false).expect("mapped")
}

/// Sets the bytes at an address.
pub fn write(p: &mut Processor<Bench>, linear: u64, bytes: &[u8]) {
    p.env.bytes(&mut p.cpu, linear, bytes.len(), true).expect("mapped").copy_from_slice(bytes);
}

impl Environment for Bench {
    fn load<W: Word>(&mut self, cpu: &mut Cpu, _: SegmentRegister, linear: u64) -> Result<W, Stop> {
        let size = usize::from(W::BYTES);
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(self.bytes(cpu, linear, size, false)?);
        Ok(W::truncate(u64::from_le_bytes(bytes)))
    }

    fn store<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        _: SegmentRegister,
        linear: u64,
        value: W,
    ) -> Result<(), Stop> {
        let bytes = value.zero_extend().to_le_bytes();
        let size = usize::from(W::BYTES);
        self.bytes(cpu, linear, size, true)?.copy_from_slice(&bytes[..size]);
        Ok(())
    }

    fn update<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        _: bool,
        mut change: impl FnMut(W) -> Option<W>,
    ) -> Result<W, Stop> {
        self.bytes(cpu, linear, usize::from(W::BYTES), true)?;
        let old = self.load::<W>(cpu, segment, linear)?;
        if let Some(new) = change(old) {
            self.store::<W>(cpu, segment, linear, new)?;
        }
        Ok(old)
    }

    fn load_bytes(
        &mut self,
        cpu: &mut Cpu,
        _: SegmentRegister,
        linear: u64,
        bytes: &mut [u8],
    ) -> Result<(), Stop> {
        bytes.copy_from_slice(self.bytes(cpu, linear, bytes.len(), false)?);
        Ok(())
    }

    fn store_bytes(
        &mut self,
        cpu: &mut Cpu,
        _: SegmentRegister,
        linear: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        self.bytes(cpu, linear, bytes.len(), true)?.copy_from_slice(bytes);
        Ok(())
    }

    fn prepare_vector(&mut self, _: &Instruction, _: &VectorInfo) -> Option<u32> {
        Some(0)
    }

    fn execute_vector(&mut self, cpu: &mut Cpu, _: u32, operand: &mut VectorOperand) -> Result<(), Stop> {
        (self.script)(cpu, operand)
    }

    fn update_16_bytes(
        &mut self,
        _: &mut Cpu,
        _: SegmentRegister,
        _: u64,
        _: impl FnMut(u128) -> Option<u128>,
    ) -> Result<u128, Stop> {
        unreachable!("no vector instruction does this")
    }

    fn load_system<W: Word>(&mut self, _: &mut Cpu, _: u64) -> Result<W, Stop> {
        unreachable!("no vector instruction does this")
    }

    fn store_system<W: Word>(&mut self, _: &mut Cpu, _: u64, _: W) -> Result<(), Stop> {
        unreachable!("no vector instruction does this")
    }

    fn copy_elements<W: Word>(&mut self, _: &mut Cpu, _: u64, _: u64, _: u64) -> u64 {
        0
    }

    fn fill_elements<W: Word>(&mut self, _: &mut Cpu, _: u64, _: W, _: u64) -> u64 {
        0
    }

    fn retire(&mut self) {}

    fn port_in(&mut self, _: u16, _: u8) -> Result<u32, Stop> {
        Err(Stop::Exit)
    }

    fn port_out(&mut self, _: u16, _: u8, _: u32) -> Result<(), Stop> {
        Err(Stop::Exit)
    }

    fn forget(&mut self, _: &Cpu, _: Stale) {}

    fn fence(&mut self) {}

    fn timestamp(&mut self) -> u64 {
        0
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn read_msr(&mut self, _: u32) -> MsrAnswer {
        MsrAnswer::Unknown
    }

    fn write_msr(&mut self, _: u32, _: u64) -> MsrAnswer {
        MsrAnswer::Unknown
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _: u8) {}

    fn apic_id(&self) -> u32 {
        0
    }
}
