//! Reads and writes of the registers: memory-mapped (SDM vol. 3 § 11.4.1) and, in x2APIC mode, as
//! MSRs (§ 11.12.1), which are stricter.

use super::registers::*;
use super::timer::Mode;
use super::{Effect, LocalApic, LocalInterrupt, TimerState};
use crate::interrupt::{DeliveryMode, Destination, Message, Trigger};
use crate::{GeneralProtection, Time};

/// The MSR of the register at offset 0.
const FIRST_MSR: u32 = 0x800;

impl LocalApic {
    /// Answers a 32-bit read at `offset` within the register page.
    pub fn read(&mut self, offset: u16, now: Time) -> u32 {
        self.register(offset, now).unwrap_or_else(|| {
            self.record_error(ESR_ILLEGAL_REGISTER);
            0
        })
    }

    /// Takes a 32-bit write at `offset` within the register page.
    pub fn write(&mut self, offset: u16, value: u32, now: Time) -> Effect {
        let [.., high] = value.to_le_bytes();
        match offset {
            LDR => self.state.ldr = value & 0xff00_0000,
            DFR => self.state.dfr = value | 0x0fff_ffff,
            ICR_LOW => {
                let command = value & ICR_LOW_WRITABLE;
                self.state.icr = self.state.icr & !0xffff_ffff | u64::from(command);
                let [.., target] = self.state.icr.to_le_bytes();
                let is_logical = command & ICR_LOGICAL != 0;
                return self.send(command, Destination::from_8_bits(target, is_logical));
            }
            ICR_HIGH => {
                self.state.icr = self.state.icr & 0xffff_ffff | u64::from(high) << 56;
            }
            // Read-only registers.
            ID | VERSION | APR | PPR | RRD | CURRENT_COUNT => {}
            ISR..ESR => {}
            _ => {
                return self.set_register(offset, value, now).unwrap_or_else(|| {
                    self.record_error(ESR_ILLEGAL_REGISTER);
                    Effect::None
                });
            }
        }
        Effect::None
    }

    /// Answers RDMSR of 0x800 to 0x83f.
    ///
    /// # Errors
    ///
    /// If the APIC is not in x2APIC mode, or the register does not exist there or cannot be read.
    pub fn read_msr(&mut self, msr: u32, now: Time) -> Result<u64, GeneralProtection> {
        match self.x2apic_offset(msr)? {
            EOI | APR | RRD | DFR | ICR_HIGH | SELF_IPI => Err(GeneralProtection),
            ICR_LOW => Ok(self.state.icr),
            offset => self.register(offset, now).map(u64::from).ok_or(GeneralProtection),
        }
    }

    /// Takes WRMSR of 0x800 to 0x83f.
    ///
    /// # Errors
    ///
    /// If the APIC is not in x2APIC mode, the register does not exist there or cannot be written,
    /// or `value` has reserved bits set; nothing is changed then.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: Time) -> Result<Effect, GeneralProtection> {
        let offset = self.x2apic_offset(msr)?;
        if offset == ICR_LOW {
            return self.write_x2apic_icr(value);
        }
        let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
        let reserved = match offset {
            EOI | ESR => u32::MAX,
            TPR | SELF_IPI => !0xff,
            SVR => !SVR_WRITABLE,
            LVT..=LVT_LAST => match lvt_index(offset) {
                Some(index) => !(LVT_WRITABLE[index] | LVT_READ_ONLY),
                None => return Err(GeneralProtection),
            },
            INITIAL_COUNT => 0,
            DIVIDE_CONFIGURATION => !TimerState::DIVIDE_MASK,
            _ => return Err(GeneralProtection),
        };
        if value & reserved != 0 {
            return Err(GeneralProtection);
        }
        if offset == SELF_IPI {
            return Ok(self.send_to_self(value));
        }
        self.set_register(offset, value, now).ok_or(GeneralProtection)
    }

    fn x2apic_offset(&self, msr: u32) -> Result<u16, GeneralProtection> {
        let index = msr.checked_sub(FIRST_MSR).filter(|index| *index < 0x40);
        match index {
            // Below 0x40, so that sixteen times the index fits well into the page.
            Some(index) if self.is_x2apic() => Ok((index * 16) as u16),
            _ => Err(GeneralProtection),
        }
    }

    /// What a register reads as, in either mode. `None` if there is no such register.
    fn register(&self, offset: u16, now: Time) -> Option<u32> {
        let state = &self.state;
        let vectors = |registers: &[u32; 8]| registers[usize::from(offset >> 4 & 7)];
        if offset & 0xf != 0 {
            return None;
        }
        Some(match offset {
            ID if self.is_x2apic() => state.id,
            ID => state.id << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(state.tpr),
            PPR => u32::from(self.processor_priority()),
            // Not supported since the Pentium 4, or write-only: they read as zero.
            APR | RRD | EOI => 0,
            LDR => self.logical_id(),
            DFR => state.dfr,
            SVR => state.svr,
            ISR..TMR => vectors(&state.isr.0),
            TMR..IRR => vectors(&state.tmr.0),
            IRR..ESR => vectors(&state.irr.0),
            ESR => state.esr,
            ICR_LOW => (state.icr & 0xffff_ffff) as u32,
            ICR_HIGH => (state.icr >> 32) as u32,
            LVT..=LVT_LAST => state.lvt[lvt_index(offset)?],
            INITIAL_COUNT => state.timer.initial_count,
            CURRENT_COUNT if self.timer_mode().counts() => state.timer.current_count(self.timer_mode(), now),
            CURRENT_COUNT => 0,
            DIVIDE_CONFIGURATION => state.timer.divide_configuration,
            _ => return None,
        })
    }

    /// Writes a register that behaves alike in both modes; unknown bits are dropped. `None` if
    /// there is no such register.
    fn set_register(&mut self, offset: u16, value: u32, now: Time) -> Option<Effect> {
        let [low, ..] = value.to_le_bytes();
        let mode = self.timer_mode();
        match offset {
            TPR => self.state.tpr = low,
            EOI => return Some(self.end_of_interrupt()),
            SVR => self.set_svr(value),
            ESR => self.state.esr = core::mem::take(&mut self.state.errors),
            LVT..=LVT_LAST => self.set_lvt(lvt_index(offset)?, value, now),
            INITIAL_COUNT if mode.counts() => self.state.timer.start(mode, value, now),
            INITIAL_COUNT => {}
            DIVIDE_CONFIGURATION => self.state.timer.set_divide_configuration(mode, value, now),
            _ => return None,
        }
        Some(Effect::None)
    }

    /// Disabling the APIC by software masks the whole local vector table.
    fn set_svr(&mut self, value: u32) {
        self.state.svr = value & SVR_WRITABLE;
        if !self.is_software_enabled() {
            for entry in &mut self.state.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn set_lvt(&mut self, index: usize, value: u32, now: Time) {
        if index == LocalInterrupt::Timer as usize {
            self.retire_timer_mode(Mode::of_lvt(value), now);
        }
        let mut entry = value & LVT_WRITABLE[index];
        if !self.is_software_enabled() {
            entry |= LVT_MASKED;
        }
        self.state.lvt[index] = entry;
    }

    /// Settles what the timer has done so far before its LVT entry changes.
    fn retire_timer_mode(&mut self, next: Mode, now: Time) {
        // What is due in the counting modes is due under the old entry; the TSC is not known here,
        // and zero is never past a deadline.
        self.poll(now, 0);
        let previous = self.timer_mode();
        if previous != next && !(previous.counts() && next.counts()) {
            self.state.timer.disarm();
        }
    }

    fn write_x2apic_icr(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        let command = (value & 0xffff_ffff) as u32;
        if command & !(ICR_LOW_WRITABLE | ICR_DELIVERY_STATUS) != 0 {
            return Err(GeneralProtection);
        }
        self.state.icr = value & !u64::from(ICR_DELIVERY_STATUS);
        let target = (value >> 32) as u32;
        let destination = if command & ICR_LOGICAL != 0 {
            Destination::Logical(target)
        } else {
            Destination::Physical(target)
        };
        Ok(self.send(command, destination))
    }

    /// Sends what the low half of the ICR asks for.
    fn send(&mut self, command: u32, destination: Destination) -> Effect {
        let [vector, ..] = command.to_le_bytes();
        let Some(delivery_mode) = DeliveryMode::from_bits(command >> 8) else {
            return Effect::None;
        };
        let destination = match command >> 18 & 3 {
            0 => destination,
            1 => Destination::Myself,
            2 => Destination::All,
            _ => Destination::Others,
        };
        let is_deassert = command & (ICR_ASSERT | ICR_LEVEL_TRIGGERED) == ICR_LEVEL_TRIGGERED;
        match delivery_mode {
            // Only a pin can be in this mode.
            DeliveryMode::ExtInt => return Effect::None,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.record_error(ESR_SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            DeliveryMode::Fixed if destination == Destination::Myself => {
                return self.send_to_self(u32::from(vector));
            }
            _ => {}
        }
        Effect::Send(Message {
            destination,
            delivery_mode,
            vector,
            // Interprocessor interrupts are edges; only INIT knows a level, to be taken back.
            trigger: Trigger::Edge,
            assert: delivery_mode != DeliveryMode::Init || !is_deassert,
        })
    }

    /// A fixed interrupt to oneself needs no routing.
    fn send_to_self(&mut self, vector: u32) -> Effect {
        let [vector, ..] = vector.to_le_bytes();
        if vector < 16 {
            self.record_error(ESR_SEND_ILLEGAL_VECTOR);
        } else if self.is_software_enabled() {
            self.request(vector, Trigger::Edge);
        }
        Effect::None
    }
}

fn lvt_index(offset: u16) -> Option<usize> {
    let distance = offset.checked_sub(LVT)?;
    (offset <= LVT_LAST && distance % 16 == 0).then_some(usize::from(distance / 16))
}
