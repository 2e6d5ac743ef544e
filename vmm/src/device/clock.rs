//! The real-time clock at ports 0x70 and 0x71. It shows the host's time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tern_chipset::rtc::{self, Rtc};
use tern_chipset::{InvalidState, Time};
use tern_engine::Clock;

use crate::boot::memory_map::HOLE_START;
use crate::bus::{ByteDevice, Request};
use crate::irq::IrqLine;
use crate::lock;
use crate::schedule::{Alarm, Timed};

/// Offset of the index; the data follow.
const INDEX: u64 = 0;

/// Registers B and C, and the interrupt enables in B that a reset clears (MC146818A data sheet, "RESET").
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const INTERRUPT_ENABLES: u8 = 0x70;

pub(super) struct RealTimeClock(Mutex<State>);

struct State {
    rtc: Rtc,
    line: IrqLine,
    alarm: Alarm,
}

impl RealTimeClock {
    /// A clock that shows the host's time now, in a machine with `memory` bytes.
    pub(super) fn new(line: IrqLine, alarm: Alarm, clock: &Arc<Clock>, memory: u64) -> Self {
        // A host whose clock shows a time before 1970 has none.
        let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_zero = host.saturating_sub(Duration::from_nanos(clock.now().as_nanos()));
        let low = memory.min(HOLE_START);
        Self(Mutex::new(State { rtc: Rtc::new(at_zero, low, memory - low), line, alarm }))
    }

    pub(super) fn save(&self) -> rtc::State {
        lock(&self.0).rtc.save()
    }

    pub(super) fn restore(&self, saved: &rtc::State) -> Result<(), InvalidState> {
        let mut state = lock(&self.0);
        state.rtc.restore(saved)?;
        state.settle();
        Ok(())
    }

    /// Disables and clears the interrupts; the time and the memory are the battery's.
    pub(super) fn reset(&self, now: Time) {
        let mut state = lock(&self.0);
        state.rtc.write_index(REGISTER_B);
        let enabled = state.rtc.read_data(now);
        state.rtc.write_data(enabled & !INTERRUPT_ENABLES, now);
        state.rtc.write_index(REGISTER_C);
        state.rtc.read_data(now);
        state.rtc.write_index(0);
        state.settle();
    }
}

impl State {
    fn settle(&mut self) {
        self.line.set(self.rtc.interrupt());
        self.alarm.set(self.rtc.deadline());
    }
}

impl ByteDevice for RealTimeClock {
    fn read_byte(&self, offset: u64, now: Time) -> u8 {
        let mut state = lock(&self.0);
        if offset == INDEX {
            return state.rtc.read_index();
        }
        let value = state.rtc.read_data(now);
        state.settle();
        value
    }

    fn write_byte(&self, offset: u64, value: u8, now: Time) -> Option<Request> {
        let mut state = lock(&self.0);
        if offset == INDEX {
            state.rtc.write_index(value);
        } else {
            state.rtc.write_data(value, now);
            state.settle();
        }
        None
    }
}

impl Timed for RealTimeClock {
    fn ring(&self, now: Time) {
        let mut state = lock(&self.0);
        state.rtc.poll(now);
        state.settle();
    }
}
