//! The surroundings: flat RAM behind real page walks, without any cache of translations.

use iced_x86::Instruction;
use tern_x86::Environment;
use tern_x86::cpu::{Cpu, Word, canonical};
use tern_x86::environment::{MsrAnswer, Stale, VectorOperand};
use tern_x86::exception::{Exception, Stop};
use tern_x86::paging::{Access, AccessKind, PhysicalMemory, translate};
use tern_x86::state::SegmentRegister;
use tern_x86::vector::VectorInfo;

/// RAM from physical address 0 on.
pub struct Ram {
    bytes: Vec<u8>,
    /// What the processor asked to forget, in order.
    pub forgotten: Vec<Stale>,
    pub ticks: u64,
    task_priority: u8,
}

impl PhysicalMemory for Ram {
    fn read_u64(&mut self, physical: u64) -> Option<u64> {
        let start = usize::try_from(physical).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn read_u32(&mut self, physical: u64) -> Option<u32> {
        let start = usize::try_from(physical).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn exchange_u64(&mut self, physical: u64, old: u64, new: u64) -> bool {
        assert_eq!(self.read_u64(physical), Some(old));
        self.write(physical, &new.to_le_bytes());
        true
    }

    fn exchange_u32(&mut self, physical: u64, old: u32, new: u32) -> bool {
        assert_eq!(self.read_u32(physical), Some(old));
        self.write(physical, &new.to_le_bytes());
        true
    }
}

impl Ram {
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; size], forgotten: Vec::new(), ticks: 0, task_priority: 0 }
    }

    /// Eight bytes; ones outside of RAM.
    pub fn read(&self, physical: u64) -> u64 {
        let byte = |n| self.bytes.get(physical as usize + n).copied().unwrap_or(0xff);
        u64::from_le_bytes(std::array::from_fn(byte))
    }

    pub fn write(&mut self, physical: u64, bytes: &[u8]) {
        let start = physical as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub fn translate(&mut self, cpu: &Cpu, linear: u64, access: Access) -> Result<u64, Exception> {
        if cpu.long_mode() && !canonical(linear) {
            return Err(Exception::general_protection(0));
        }
        translate(cpu, self, linear, access).map(|translation| translation.physical)
    }

    /// The physical addresses of all bytes of an access.
    fn places(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: usize,
        access: Access,
    ) -> Result<Vec<u64>, Stop> {
        let mut places = Vec::new();
        for n in 0..size as u64 {
            match self.translate(cpu, linear.wrapping_add(n), access) {
                Ok(physical) => places.push(physical),
                Err(exception) => {
                    let stack = segment == SegmentRegister::Ss;
                    let general = exception == Exception::general_protection(0);
                    let exception = if stack && general { Exception::stack(0) } else { exception };
                    return Err(cpu.raise(exception));
                }
            }
        }
        Ok(places)
    }

    fn get<W: Word>(&self, places: &[u64]) -> W {
        let value = places.iter().rev().fold(0, |value, &place| value << 8 | self.read(place) & 0xff);
        W::truncate(value)
    }

    fn put<W: Word>(&mut self, places: &[u64], value: W) {
        for (&place, byte) in places.iter().zip(value.zero_extend().to_le_bytes()) {
            self.write(place, &[byte]);
        }
    }
}

impl Environment for Ram {
    fn load<W: Word>(&mut self, cpu: &mut Cpu, segment: SegmentRegister, linear: u64) -> Result<W, Stop> {
        let access = Access::explicit(cpu, AccessKind::Read);
        let places = self.places(cpu, segment, linear, W::BYTES.into(), access)?;
        Ok(self.get(&places))
    }

    fn store<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: W,
    ) -> Result<(), Stop> {
        let access = Access::explicit(cpu, AccessKind::Write);
        let places = self.places(cpu, segment, linear, W::BYTES.into(), access)?;
        self.put(&places, value);
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
        let access = Access::explicit(cpu, AccessKind::Write);
        let places = self.places(cpu, segment, linear, W::BYTES.into(), access)?;
        let old = self.get(&places);
        if let Some(new) = change(old) {
            self.put(&places, new);
        }
        Ok(old)
    }

    fn update_16_bytes(
        &mut self,
        _: &mut Cpu,
        _: SegmentRegister,
        _: u64,
        _: impl FnMut(u128) -> Option<u128>,
    ) -> Result<u128, Stop> {
        unimplemented!("no test here needs it")
    }

    fn load_system<W: Word>(&mut self, cpu: &mut Cpu, linear: u64) -> Result<W, Stop> {
        let access = Access::implicit(AccessKind::Read);
        let places = self.places(cpu, SegmentRegister::Ds, linear, W::BYTES.into(), access)?;
        Ok(self.get(&places))
    }

    fn store_system<W: Word>(&mut self, cpu: &mut Cpu, linear: u64, value: W) -> Result<(), Stop> {
        let access = Access::implicit(AccessKind::Write);
        let places = self.places(cpu, SegmentRegister::Ds, linear, W::BYTES.into(), access)?;
        self.put(&places, value);
        Ok(())
    }

    fn load_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &mut [u8],
    ) -> Result<(), Stop> {
        let access = Access::explicit(cpu, AccessKind::Read);
        let places = self.places(cpu, segment, linear, bytes.len(), access)?;
        for (byte, &place) in bytes.iter_mut().zip(&places) {
            *byte = self.read(place) as u8;
        }
        Ok(())
    }

    fn store_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        let access = Access::explicit(cpu, AccessKind::Write);
        let places = self.places(cpu, segment, linear, bytes.len(), access)?;
        for (&byte, &place) in bytes.iter().zip(&places) {
            self.write(place, &[byte]);
        }
        Ok(())
    }

    fn copy_elements<W: Word>(&mut self, _: &mut Cpu, _: u64, _: u64, _: u64) -> u64 {
        0
    }

    fn fill_elements<W: Word>(&mut self, _: &mut Cpu, _: u64, _: W, _: u64) -> u64 {
        0
    }

    fn retire(&mut self) {}

    fn port_in(&mut self, port: u16, _: u8) -> Result<u32, Stop> {
        Ok(u32::from(port))
    }

    fn port_out(&mut self, _: u16, _: u8, _: u32) -> Result<(), Stop> {
        Ok(())
    }

    fn forget(&mut self, _: &Cpu, stale: Stale) {
        self.forgotten.push(stale);
    }

    fn fence(&mut self) {}

    fn timestamp(&mut self) -> u64 {
        self.ticks
    }

    fn random(&mut self) -> u64 {
        0x0123_4567_89ab_cdef
    }

    fn read_msr(&mut self, number: u32) -> MsrAnswer {
        if number == 0x1b { MsrAnswer::Done(0xfee0_0900) } else { MsrAnswer::Unknown }
    }

    fn write_msr(&mut self, _: u32, _: u64) -> MsrAnswer {
        MsrAnswer::Refused
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.task_priority = priority;
    }

    fn apic_id(&self) -> u32 {
        0
    }

    fn prepare_vector(&mut self, _: &Instruction, _: &VectorInfo) -> Option<u32> {
        None
    }

    fn execute_vector(&mut self, _: &mut Cpu, _: u32, _: &mut VectorOperand) -> Result<(), Stop> {
        unimplemented!("no vector instruction was prepared")
    }
}
