//! ACPI's fixed registers: switching off, the power button and the power-management timer.

use std::sync::Mutex;

use tern_chipset::power::{self, Power};
use tern_chipset::{InvalidState, Time};

use super::register;
use crate::bus::{BusDevice, Request};
use crate::irq::IrqLine;
use crate::lock;
use crate::schedule::{Alarm, Timed};

pub(super) struct PowerManagement(Mutex<State>);

struct State {
    power: Power,
    line: IrqLine,
    alarm: Alarm,
}

impl PowerManagement {
    pub(super) fn new(line: IrqLine, alarm: Alarm) -> Self {
        Self(Mutex::new(State { power: Power::new(), line, alarm }))
    }

    pub(super) fn press_button(&self) {
        let mut state = lock(&self.0);
        state.power.power_button();
        state.settle();
    }

    pub(super) fn save(&self) -> power::State {
        lock(&self.0).power.save()
    }

    pub(super) fn restore(&self, saved: &power::State) -> Result<(), InvalidState> {
        let mut state = lock(&self.0);
        state.power.restore(saved)?;
        state.settle();
        Ok(())
    }

    pub(super) fn reset(&self) {
        let mut state = lock(&self.0);
        state.power = Power::new();
        state.settle();
    }
}

impl State {
    fn settle(&mut self) {
        self.line.set(self.power.interrupt());
        self.alarm.set(self.power.deadline());
    }
}

impl BusDevice for PowerManagement {
    fn read(&self, offset: u64, data: &mut [u8], now: Time) {
        let mut state = lock(&self.0);
        state.power.read(register(offset), data, now);
        state.settle();
    }

    fn write(&self, offset: u64, data: &[u8], now: Time) -> Option<Request> {
        let mut state = lock(&self.0);
        let event = state.power.write(register(offset), data, now);
        state.settle();
        event.map(Request::from)
    }
}

impl Timed for PowerManagement {
    fn ring(&self, now: Time) {
        let mut state = lock(&self.0);
        state.power.poll(now);
        state.settle();
    }
}
