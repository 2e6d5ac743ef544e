//! ACPI's fixed hardware: sleeping, the power button, the power-management timer, general-purpose
//! events; and the reset control register.
//!
//! Follows the ACPI specification 6.5, § 4.8 ("ACPI Register Model"). The registers lie in one
//! block of I/O ports; [`crate::acpi`] tells the guest where, from the constants here.
//!
//! | offset | register | |
//! |---|---|---|
//! | 0x0 | PM1a status (16 bits), PM1a enable (16 bits) | events; the status is cleared by writing ones |
//! | 0x4 | PM1a control (16 bits) | SCI_EN, SLP_TYP, SLP_EN |
//! | 0x8 | PM timer (32 bits) | counts at 3.579545 MHz |
//! | 0xc | GPE0 status (16 bits), GPE0 enable (16 bits) | |
//!
//! There is no system management mode: the machine is always in ACPI mode, SCI_EN always set.

mod reset_control;
#[cfg(test)]
mod tests;

use crate::{InvalidState, Time};
use bitflags::bitflags;
pub use reset_control::ResetControl;
use serde::{Deserialize, Serialize};

/// The machine as a whole is to stop or to start over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the guest expects not to go on"]
pub enum SystemEvent {
    /// The guest has switched the machine off.
    PowerOff,
    /// The guest has reset the machine.
    Reset,
}

/// Offset of the PM1a event block: status, enable.
pub const PM1A_EVENT: u16 = 0x0;
/// Offset of the PM1a control block.
pub const PM1A_CONTROL: u16 = 0x4;
/// Offset of the power-management timer.
pub const PM_TIMER: u16 = 0x8;
/// Offset of the general-purpose event block: status, enable.
pub const GPE0: u16 = 0xc;

/// The frequency of the power-management timer in Hz.
pub const PM_TIMER_FREQUENCY: u64 = 3_579_545;

/// The SLP_TYP value that means soft-off (S5). The DSDT's `\_S5` gives it to the guest.
pub const SLP_TYP_S5: u8 = 5;

bitflags! {
    /// The events of the PM1 status and enable registers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Pm1: u16 {
        /// The highest bit of the timer has changed.
        const TMR = 1 << 0;
        /// The firmware has released the global lock. There is none: never set in the status.
        const GBL = 1 << 5;
        /// The power button was pressed.
        const PWRBTN = 1 << 8;
        /// The RTC's alarm. Nothing wakes the machine, so its status is never set, but operating systems insist on
        /// reading back the enable bit that they wrote.
        const RTC = 1 << 10;
    }
}

/// Control register: power management events raise the SCI. Always set.
const SCI_EN: u16 = 1 << 0;
/// Control register: what a guest may keep there: bus master reload, SLP_TYP.
const CONTROL_WRITABLE: u16 = 1 << 1 | SLP_TYP;
/// Control register: the sleep type.
const SLP_TYP: u16 = 7 << 10;
/// Control register: go to sleep. Reads as zero.
const SLP_EN: u16 = 1 << 13;

/// The fixed registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Power {
    status: Pm1,
    enable: Pm1,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    /// How often the timer's highest bit had changed when it was last looked at.
    timer_halves: u64,
}

/// What the fixed registers hold. The timer is a function of the machine's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// PM1a status register.
    pub status: Pm1,
    /// PM1a enable register.
    pub enable: Pm1,
    /// PM1a control register.
    pub control: u16,
    /// GPE0 status register.
    pub gpe_status: u16,
    /// GPE0 enable register.
    pub gpe_enable: u16,
    /// How often the timer's highest bit had changed when that was last looked at.
    pub timer_halves: u64,
}

impl Power {
    /// The registers after reset.
    pub fn new() -> Self {
        Self {
            status: Pm1::empty(),
            enable: Pm1::empty(),
            control: SCI_EN,
            gpe_status: 0,
            gpe_enable: 0,
            timer_halves: 0,
        }
    }

    /// Answers a read of one to four bytes at `offset` from the block's base.
    pub fn read(&mut self, offset: u16, data: &mut [u8], now: Time) {
        self.poll(now);
        let timer = timer(now).to_le_bytes();
        for (offset, byte) in (offset..).zip(data) {
            let register = match offset {
                0x0 | 0x1 => self.status.bits(),
                0x2 | 0x3 => self.enable.bits(),
                0x4 | 0x5 => self.control,
                0xc | 0xd => self.gpe_status,
                0xe | 0xf => self.gpe_enable,
                _ => 0,
            };
            *byte = match offset {
                0x8..=0xb => timer[usize::from(offset & 3)],
                _ => register.to_le_bytes()[usize::from(offset & 1)],
            };
        }
    }

    /// Takes a write of one to four bytes at `offset` from the block's base, which may switch the
    /// machine off.
    pub fn write(&mut self, offset: u16, data: &[u8], now: Time) -> Option<SystemEvent> {
        self.poll(now);
        let mut event = None;
        for (offset, byte) in (offset..).zip(data) {
            let (mask, value) =
                if offset & 1 == 0 { (0x00ff, u16::from(*byte)) } else { (0xff00, u16::from(*byte) << 8) };
            let merge = |register: u16| register & !mask | value;
            match offset {
                0x0 | 0x1 => self.status &= !Pm1::from_bits_truncate(value),
                0x2 | 0x3 => self.enable = Pm1::from_bits_truncate(merge(self.enable.bits())),
                0x4 | 0x5 => {
                    let control = merge(self.control);
                    self.control = control & CONTROL_WRITABLE | SCI_EN;
                    event = event.or(sleep(control));
                }
                0xc | 0xd => self.gpe_status &= !value,
                0xe | 0xf => self.gpe_enable = merge(self.gpe_enable),
                _ => {}
            }
        }
        event
    }

    /// The level of the system control interrupt.
    pub fn interrupt(&self) -> bool {
        self.status.intersects(self.enable) || self.gpe_status & self.gpe_enable != 0
    }

    /// Presses the power button: the guest is asked to switch the machine off.
    pub fn power_button(&mut self) {
        self.status |= Pm1::PWRBTN;
    }

    /// Raises general-purpose event `number`, 0 to 15; others are ignored.
    pub fn raise_gpe(&mut self, number: u8) {
        self.gpe_status |= 1u16.checked_shl(u32::from(number)).unwrap_or(0);
    }

    /// Notes whether the timer's highest bit has changed.
    pub fn poll(&mut self, now: Time) {
        let halves = now.ticks(PM_TIMER_FREQUENCY) >> 31;
        if halves != self.timer_halves {
            self.timer_halves = halves;
            self.status |= Pm1::TMR;
        }
    }

    /// When the timer will interrupt, if that is enabled.
    pub fn deadline(&self) -> Option<Time> {
        let waits = self.enable.contains(Pm1::TMR) && !self.status.contains(Pm1::TMR);
        let ticks = self.timer_halves.saturating_add(1).saturating_mul(1 << 31);
        waits.then(|| Time::of_ticks(ticks, PM_TIMER_FREQUENCY))
    }

    /// What the registers hold.
    pub fn save(&self) -> State {
        State {
            status: self.status,
            enable: self.enable,
            control: self.control,
            gpe_status: self.gpe_status,
            gpe_enable: self.gpe_enable,
            timer_halves: self.timer_halves,
        }
    }

    /// Puts back what [`Power::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let has_reserved = Pm1::from_bits(state.status.bits() | state.enable.bits()).is_none();
        if has_reserved || state.control & !CONTROL_WRITABLE != SCI_EN {
            return Err(InvalidState {
                device: "ACPI power management registers",
                reason: "a register has bits set that are not implemented",
            });
        }
        *self = Self {
            status: state.status,
            enable: state.enable,
            control: state.control,
            gpe_status: state.gpe_status,
            gpe_enable: state.gpe_enable,
            timer_halves: state.timer_halves,
        };
        Ok(())
    }
}

impl Default for Power {
    fn default() -> Self {
        Self::new()
    }
}

/// The 32-bit power-management timer.
fn timer(now: Time) -> u32 {
    (now.ticks(PM_TIMER_FREQUENCY) & 0xffff_ffff) as u32
}

/// What a value of the control register does. Only soft-off is a sleep that the machine has.
fn sleep(control: u16) -> Option<SystemEvent> {
    let goes = control & SLP_EN != 0;
    (goes && (control & SLP_TYP) >> 10 == u16::from(SLP_TYP_S5)).then_some(SystemEvent::PowerOff)
}
