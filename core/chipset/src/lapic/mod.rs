//! The local APIC of one processor, in xAPIC and x2APIC mode.
//!
//! Follows the Intel SDM vol. 3 ch. 11 ("APIC"), where the AMD APM vol. 2 ch. 16 agrees. The
//! registers are those of an integrated APIC, version 0x14, with six local vector table entries.
//!
//! ```text
//!   Message ──▶ accepts? ──▶ deliver ──▶ IRR ──▶ pending ──▶ acknowledge ──▶ ISR ──▶ EOI
//!                               │         ▲       (TPR, PPR)                          │
//!                               ▼         │                                           ▼
//!                     Signal: NMI, INIT…  LVT ◀── timer, LINT0/1, errors   Effect::EndOfInterrupt
//! ```
//!
//! The owner routes: it takes each [`Effect::Send`], asks every processor's APIC whether it
//! [accepts](LocalApic::accepts) the message, and [delivers](LocalApic::deliver) it to those
//! (to [one of them](crate::interrupt::lowest_priority), for lowest priority).
//!
//! * `registers`: the map. `vectors`: the IRR's kind of register. `timer`: its timer.
//! * `access`: reads and writes, memory-mapped and as MSRs. `delivery`: from message to vector.
//!
//! What is not there: AMD's extended space, CMCI, and suppression of EOI broadcasts.

mod access;
mod delivery;
mod registers;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use crate::{GeneralProtection, InvalidState, Message, Time};
use registers::{
    BASE_ADDRESS, BASE_BSP, BASE_EN, BASE_EXTD, LVT_MASKED, LVT_WRITABLE, SVR_ENABLED, SVR_WRITABLE,
};
use serde::{Deserialize, Serialize};
use timer::Mode;
pub use timer::{TIMER_FREQUENCY, TimerState};
pub use vectors::Vectors;

/// One processor's local APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalApic {
    state: State,
}

/// What the local APIC's registers hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The APIC ID, 32 bits wide. Fixed when the machine is made; xAPIC mode shows the low eight.
    pub id: u32,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// Task priority register.
    pub tpr: u8,
    /// Logical destination register, bits 31:24. In x2APIC mode the ID determines it instead.
    pub ldr: u32,
    /// Destination format register: bits 31:28, the others set.
    pub dfr: u32,
    /// Spurious-interrupt vector register.
    pub svr: u32,
    /// In-service register.
    pub isr: Vectors,
    /// Trigger mode register: set bits are level-triggered.
    pub tmr: Vectors,
    /// Interrupt request register.
    pub irr: Vectors,
    /// Error status register as it reads.
    pub esr: u32,
    /// Errors since the last write to the error status register.
    pub errors: u32,
    /// Interrupt command register. In xAPIC mode the destination is in bits 63:56.
    pub icr: u64,
    /// Local vector table, in the order of [`LocalInterrupt`].
    pub lvt: [u32; 6],
    /// The timer.
    pub timer: TimerState,
}

/// The sources of the local vector table, in the order of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalInterrupt {
    /// The APIC's timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// Overflow of a performance counter.
    PerformanceCounter,
    /// The LINT0 pin. On a PC the 8259's output is wired to it.
    Lint0,
    /// The LINT1 pin. On a PC the chipset's NMI is wired to it.
    Lint1,
    /// An error that the error status register tells about.
    Error,
}

/// What a register write causes outside of the APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "messages must be routed and ends of interrupts broadcast"]
pub enum Effect {
    /// Nothing. [`LocalApic::pending`] may have changed all the same.
    None,
    /// An interprocessor interrupt to route, with this APIC's ID as the sender.
    Send(Message),
    /// A level-triggered interrupt has ended: tell every IO-APIC.
    EndOfInterrupt(u8),
}

/// What a message or a pin does to the processor itself, past the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the processor must be told"]
pub enum Signal {
    /// A non-maskable interrupt.
    Nmi,
    /// INIT. The owner calls [`LocalApic::init`] when the processor takes it.
    Init,
    /// A waiting processor starts in real mode at this page number.
    Startup(u8),
    /// A system management interrupt.
    Smi,
    /// The processor shall acknowledge the 8259's interrupt.
    ExtInt,
}

impl LocalApic {
    /// The APIC of the processor `id` after power-on: enabled in xAPIC mode at the usual address,
    /// disabled by software.
    pub fn new(id: u32, is_bootstrap: bool) -> Self {
        let bsp = if is_bootstrap { BASE_BSP } else { 0 };
        let base = crate::layout::LOCAL_APIC | BASE_EN | bsp;
        Self { state: State::after_reset(id, base) }
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// INIT: everything as after power-on, except for the ID, the mode and the base address.
    pub fn init(&mut self) {
        self.state = State::after_reset(self.state.id, self.state.base);
    }

    /// What PC firmware leaves on the bootstrap processor ("virtual wire mode", MultiProcessor
    /// Specification § 3.6.2.2): the 8259 reaches the processor through LINT0, NMIs through LINT1.
    /// Machines that boot without firmware call this before the first instruction.
    pub fn enter_virtual_wire_mode(&mut self) {
        self.state.svr |= SVR_ENABLED;
        self.state.lvt[LocalInterrupt::Lint0 as usize] = 0x700;
        self.state.lvt[LocalInterrupt::Lint1 as usize] = 0x400;
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.state.base
    }

    /// Takes a write of IA32_APIC_BASE (SDM vol. 3 § 11.12.5). Disabling the APIC resets it; the
    /// owner then clears CPUID.1:EDX.APIC.
    ///
    /// # Errors
    ///
    /// If reserved bits are set (an address beyond the processor's physical address width, when
    /// that is below 52, is for the owner to refuse), or the mode change is not one of
    /// disabled ⇄ xAPIC → x2APIC → disabled.
    pub fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if value & !(BASE_ADDRESS | BASE_BSP | BASE_EXTD | BASE_EN) != 0 {
            return Err(GeneralProtection);
        }
        let was = (self.is_enabled(), self.is_x2apic());
        match (was, (value & BASE_EN != 0, value & BASE_EXTD != 0)) {
            // Extended without enabled; from x2APIC back to xAPIC; from disabled to x2APIC.
            (_, (false, true)) | ((true, true), (true, false)) | ((false, _), (true, true)) => {
                return Err(GeneralProtection);
            }
            ((true, _), (false, false)) => self.state = State::after_reset(self.state.id, value),
            ((true, false), (true, true)) => {
                self.state.icr &= 0xffff_ffff;
            }
            _ => {}
        }
        self.state.base = value;
        Ok(())
    }

    /// Whether IA32_APIC_BASE enables the APIC, in either mode.
    pub fn is_enabled(&self) -> bool {
        self.state.base & BASE_EN != 0
    }

    /// Whether the APIC is in x2APIC mode: its registers are MSRs.
    pub fn is_x2apic(&self) -> bool {
        self.state.base & BASE_EXTD != 0
    }

    /// The guest-physical page of the registers; none if disabled or in x2APIC mode.
    pub fn mmio_base(&self) -> Option<u64> {
        (self.is_enabled() && !self.is_x2apic()).then_some(self.state.base & BASE_ADDRESS)
    }

    /// Lets the timer do what is due, at the time `now` and the guest's time-stamp counter `tsc`.
    pub fn poll(&mut self, now: Time, tsc: u64) {
        let mode = self.timer_mode();
        let due = self.state.timer.poll_count(mode, now) | self.state.timer.poll_tsc(tsc);
        if due {
            // The timer's LVT entry has no delivery mode: it never signals anything but a vector.
            let _vector_only = self.raise(LocalInterrupt::Timer);
        }
    }

    /// When [`LocalApic::poll`] has something to do in the counting modes.
    pub fn deadline(&self) -> Option<Time> {
        let masked = self.state.lvt[LocalInterrupt::Timer as usize] & LVT_MASKED != 0;
        self.state.timer.expiry.filter(|_| !masked)
    }

    /// At which value of the guest's time-stamp counter [`LocalApic::poll`] has something to do.
    /// A read of IA32_TSC_DEADLINE gives this, or zero.
    pub fn tsc_deadline(&self) -> Option<u64> {
        Some(self.state.timer.tsc_deadline).filter(|deadline| *deadline != 0)
    }

    /// Takes a write of IA32_TSC_DEADLINE while the time-stamp counter is at `tsc`: zero disarms,
    /// a value of the past fires at once. Ignored unless the timer is in TSC-deadline mode.
    pub fn set_tsc_deadline(&mut self, value: u64, tsc: u64) {
        if self.timer_mode() == Mode::TscDeadline {
            self.state.timer.tsc_deadline = value;
            self.poll(Time::ZERO, tsc);
        }
    }

    fn timer_mode(&self) -> Mode {
        Mode::of_lvt(self.state.lvt[LocalInterrupt::Timer as usize])
    }

    /// What the registers hold.
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Puts back what [`LocalApic::save`] gave on the same processor.
    ///
    /// # Errors
    ///
    /// If it is another processor's, or a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let refuse = |reason| Err(InvalidState { device: "local APIC", reason });
        if state.id != self.state.id {
            return refuse("it belongs to a processor with another APIC ID");
        }
        let base = state.base;
        if base & !(BASE_ADDRESS | BASE_BSP | BASE_EXTD | BASE_EN) != 0
            || base & (BASE_EXTD | BASE_EN) == BASE_EXTD
        {
            return refuse("IA32_APIC_BASE has reserved bits set");
        }
        if state.svr & !SVR_WRITABLE != 0
            || state.ldr & 0x00ff_ffff != 0
            || state.dfr | 0xf000_0000 != u32::MAX
            || state.timer.divide_configuration & !TimerState::DIVIDE_MASK != 0
        {
            return refuse("a register has reserved bits set");
        }
        for (entry, writable) in state.lvt.iter().zip(LVT_WRITABLE) {
            if entry & !writable != 0 {
                return refuse("a local vector table entry has reserved bits set");
            }
        }
        for vectors in [&state.irr, &state.isr, &state.tmr] {
            if vectors.0[0] & 0xffff != 0 {
                return refuse("a vector below 16 is requested or in service");
            }
        }
        let mode = Mode::of_lvt(state.lvt[LocalInterrupt::Timer as usize]);
        if state.timer.expiry.is_some() && !mode.counts()
            || state.timer.tsc_deadline != 0 && mode != Mode::TscDeadline
        {
            return refuse("the timer runs in a mode that it is not in");
        }
        self.state = state.clone();
        Ok(())
    }
}

impl State {
    fn after_reset(id: u32, base: u64) -> Self {
        Self {
            id,
            base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            timer: TimerState::default(),
        }
    }
}
