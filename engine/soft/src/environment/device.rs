//! Accesses that are not RAM.
//!
//! The interrupt controllers and the interval timer are the engine's own and answer at once. Everything else is a question
//! to the machine: the instruction stops with [`Stop::Exit`], the machine answers, and the instruction is executed again
//! from its start. The answers it has got so far are kept in order and used up by the accesses that asked for them.

use tern_chipset::layout;
use tern_engine::{DoorbellPlace, ExitKind, VmExit};
use tern_x86::environment::MsrAnswer;
use tern_x86::exception::Stop;
use tern_x86::paravirtual::msr;

use super::SoftEnvironment;
use crate::time::publish_wall_clock;

/// IA32_APIC_BASE.
const APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
const TSC_DEADLINE: u32 = 0x6e0;
/// The x2APIC's registers.
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// The most questions one instruction can ask: XRSTOR of an area in a device asks for 72 words. An
/// instruction that asks for more stops the processor.
const MOST_ANSWERS: usize = 128;

/// Questions and answers of the running instruction.
#[derive(Debug)]
pub struct Conversation {
    question: Option<VmExit>,
    answers: [u64; MOST_ANSWERS],
    /// How many answers there are.
    given: usize,
    /// How many of them the present execution has used.
    used: usize,
}

impl Default for Conversation {
    fn default() -> Self {
        Self { question: None, answers: [0; MOST_ANSWERS], given: 0, used: 0 }
    }
}

impl Conversation {
    /// The open question.
    pub fn take_exit(&mut self) -> Option<VmExit> {
        self.question.take()
    }

    /// Notes the answer to the last question; execution starts over.
    pub fn answer(&mut self, value: u64) {
        if let Some(answer) = self.answers.get_mut(self.given) {
            *answer = value;
            self.given += 1;
        }
        self.used = 0;
    }

    /// Whether there are answers.
    pub const fn has_answers(&self) -> bool {
        self.given > 0
    }

    /// Forgets all answers.
    pub const fn clear(&mut self) {
        self.given = 0;
        self.used = 0;
    }

    /// The answer to `question`, or the error that asks it.
    fn ask(&mut self, question: VmExit) -> Result<u64, Stop> {
        if self.used < self.given {
            self.used += 1;
            return Ok(self.answers[self.used - 1]);
        }
        self.question = (self.given < MOST_ANSWERS).then_some(question);
        Err(Stop::Exit)
    }
}

impl SoftEnvironment {
    fn ask(&mut self, kind: ExitKind, question: VmExit) -> Result<u64, Stop> {
        let answer = self.conversation.ask(question);
        if answer.is_err() {
            self.statistics.count(kind);
        }
        answer
    }

    /// Reads `size` bytes of physical memory that is not RAM.
    pub(super) fn device_read(&mut self, physical: u64, size: u8) -> Result<u64, Stop> {
        if let Some(offset) = self.apic_offset(physical) {
            let register = offset & !0xf;
            let now = self.interrupts.clock().now();
            let value = self.mailbox.apic().read(register, now);
            return Ok(u64::from(value) >> (8 * (offset & 3)));
        }
        if layout::IO_APIC.contains(&physical) {
            let offset = (physical - layout::IO_APIC.start) as u16;
            return Ok(u64::from(self.interrupts.ioapic_read(offset)));
        }
        self.ask(ExitKind::MmioRead, VmExit::MmioRead { address: physical, size })
    }

    /// Writes `size` bytes of physical memory that is not RAM.
    pub(super) fn device_write(&mut self, physical: u64, size: u8, data: u64) -> Result<(), Stop> {
        if let Some(offset) = self.apic_offset(physical) {
            if offset & 0xf == 0 {
                let now = self.interrupts.clock().now();
                let (effect, id) = {
                    let mut apic = self.mailbox.apic();
                    (apic.write(offset, data as u32, now), apic.id())
                };
                self.interrupts.carry_out(effect, id);
                self.apic_changed();
            }
            return Ok(());
        }
        if layout::IO_APIC.contains(&physical) {
            self.interrupts.ioapic_write((physical - layout::IO_APIC.start) as u16, data as u32);
            return Ok(());
        }
        if self.doorbells.ring(DoorbellPlace::Memory(physical), size, data) {
            return Ok(());
        }
        let data = if size >= 8 { data } else { data & ((1 << (8 * size)) - 1) };
        self.ask(ExitKind::MmioWrite, VmExit::MmioWrite { address: physical, size, data }).map(|_| ())
    }

    fn apic_offset(&self, physical: u64) -> Option<u16> {
        let base = self.mailbox.apic().mmio_base()?;
        (physical & !0xfff == base).then_some((physical & 0xfff) as u16)
    }

    /// The local APIC's timer or priorities may have changed.
    fn apic_changed(&mut self) {
        let now = self.interrupts.clock().now();
        self.mailbox.poll_timer(now, self.tsc);
        self.mailbox.notify();
    }

    /// [`tern_x86::Environment::port_in`].
    pub(super) fn read_port(&mut self, port: u16, size: u8) -> Result<u32, Stop> {
        if let Some(first) = self.interrupts.port_in(port) {
            let mut value = u32::from(first);
            for n in 1..u16::from(size) {
                let byte = self.interrupts.port_in(port.wrapping_add(n)).unwrap_or(0xff);
                value |= u32::from(byte) << (8 * n);
            }
            return Ok(value);
        }
        self.ask(ExitKind::PortIn, VmExit::PortIn { port, size }).map(|value| value as u32)
    }

    /// [`tern_x86::Environment::port_out`].
    pub(super) fn write_port(&mut self, port: u16, size: u8, value: u32) -> Result<(), Stop> {
        if self.interrupts.port_out(port, value as u8) {
            for n in 1..u16::from(size) {
                self.interrupts.port_out(port.wrapping_add(n), (value >> (8 * n)) as u8);
            }
            return Ok(());
        }
        if self.doorbells.ring(DoorbellPlace::Port(port), size, value.into()) {
            return Ok(());
        }
        self.ask(ExitKind::PortOut, VmExit::PortOut { port, size, data: value }).map(|_| ())
    }

    /// [`tern_x86::Environment::read_msr`].
    pub(super) fn read_apic_msr(&mut self, number: u32) -> MsrAnswer {
        let now = self.interrupts.clock().now();
        let mut apic = self.mailbox.apic();
        match number {
            APIC_BASE => MsrAnswer::Done(apic.base()),
            TSC_DEADLINE => MsrAnswer::Done(apic.tsc_deadline().unwrap_or(0)),
            _ if X2APIC.contains(&number) => match apic.read_msr(number, now) {
                Ok(value) => MsrAnswer::Done(value),
                Err(_) => MsrAnswer::Refused,
            },
            _ => MsrAnswer::Unknown,
        }
    }

    /// [`tern_x86::Environment::write_msr`].
    pub(super) fn write_apic_msr(&mut self, number: u32, value: u64) -> MsrAnswer {
        let now = self.interrupts.clock().now();
        if matches!(number, msr::WALL_CLOCK | msr::OLD_WALL_CLOCK) {
            publish_wall_clock(self.ram.memory(), value, self.interrupts.kvm_clock(now));
            return MsrAnswer::Done(0);
        }
        let answer = match number {
            APIC_BASE => {
                // The page of registers moves: cached translations of it are not kept, so nothing is to be dropped.
                self.mailbox.apic().set_base(value)
            }
            TSC_DEADLINE => {
                self.mailbox.apic().set_tsc_deadline(value, self.tsc.at(now));
                Ok(())
            }
            _ if X2APIC.contains(&number) => {
                let (effect, id) = {
                    let mut apic = self.mailbox.apic();
                    (apic.write_msr(number, value, now), apic.id())
                };
                effect.map(|effect| self.interrupts.carry_out(effect, id))
            }
            _ => return MsrAnswer::Unknown,
        };
        self.apic_changed();
        match answer {
            Ok(()) => MsrAnswer::Done(0),
            Err(_) => MsrAnswer::Refused,
        }
    }
}
