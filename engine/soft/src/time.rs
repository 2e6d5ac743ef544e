//! The guest's own clocks, which derive from the machine's: the time-stamp counter, and kvm-clock.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tern_chipset::Time;
use tern_engine::{GuestMemory, TickLine};
use tern_x86::paravirtual::{msr::ENABLE, time_info};
use vm_memory::{Bytes, GuestAddress};

/// Frequency at which ticks are nanoseconds, in kHz.
const NANOSECONDS: u32 = 1_000_000;

/// A processor's time-stamp counter: the machine's clock in ticks, plus an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeStampCounter {
    khz: u32,
    /// What the guest has added, in ticks, wrapping.
    pub offset: u64,
}

impl TimeStampCounter {
    /// A counter of `khz` ticks per millisecond.
    pub fn new(khz: u32) -> Self {
        Self { khz: khz.max(1), offset: 0 }
    }

    /// What it would show at this time if nobody had ever changed it.
    #[inline]
    pub fn base(self, time: Time) -> u64 {
        let nanoseconds = time.as_nanos();
        if self.khz == NANOSECONDS {
            return nanoseconds;
        }
        // A counter of 64 bits, which wraps.
        (u128::from(nanoseconds) * u128::from(self.khz) / u128::from(NANOSECONDS)) as u64
    }

    /// The line on which it is while the machine's clock is on `line`; `None` unless its ticks are nanoseconds.
    pub fn line(self, line: TickLine) -> Option<TickLine> {
        (self.khz == NANOSECONDS).then(|| TickLine { shows: line.shows.wrapping_add(self.offset), ..line })
    }

    /// What it shows at this time.
    pub fn at(self, time: Time) -> u64 {
        self.base(time).wrapping_add(self.offset)
    }

    /// When it shows `value`.
    pub fn reaches(self, value: u64) -> Time {
        let ticks = value.wrapping_sub(self.offset);
        if self.khz == NANOSECONDS {
            return Time::from_nanos(ticks);
        }
        let nanoseconds = (u128::from(ticks) * u128::from(NANOSECONDS)).div_ceil(u128::from(self.khz));
        Time::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Writes a processor's kvm-clock to where its guest wants it (the register `system_time`): it shows `shown` nanoseconds
    /// now. A place where there is no memory gets none.
    pub fn publish(self, memory: &GuestMemory, system_time: u64, now: Time, shown: u64) {
        if system_time & ENABLE == 0 {
            return;
        }
        let place = |offset| GuestAddress((system_time & !ENABLE).wrapping_add(offset));
        // An odd version tells other processors that the rest is changing.
        let version = memory.read_obj::<u32>(place(0)).unwrap_or(0) & !1;
        let info = time_info(self.at(now), shown, self.khz);
        let _ = memory.write_obj(version.wrapping_add(1), place(0));
        fence(Ordering::SeqCst);
        let _ = memory.write_slice(&info, place(8));
        fence(Ordering::SeqCst);
        let _ = memory.write_obj(version.wrapping_add(2), place(0));
    }
}

/// Writes the host's time of the moment when kvm-clock, which shows `shown` nanoseconds now, showed zero: `struct
/// pvclock_wall_clock`.
pub fn publish_wall_clock(memory: &GuestMemory, address: u64, shown: u64) {
    let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let zero = host.saturating_sub(Duration::from_nanos(shown));
    let mut fields = [0; 12];
    fields[..4].copy_from_slice(&2_u32.to_le_bytes());
    // Its 32 bits of seconds end in 2106.
    fields[4..8].copy_from_slice(&(zero.as_secs() as u32).to_le_bytes());
    fields[8..].copy_from_slice(&zero.subsec_nanos().to_le_bytes());
    let _ = memory.write_slice(&fields, GuestAddress(address));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_reached_when_the_counter_shows_it_and_not_before() {
        for khz in [1_000_000, 2_445_406, 999, 3] {
            let tsc = TimeStampCounter { offset: 0x1234, ..TimeStampCounter::new(khz) };
            for value in [0x1234, 0x1235, 0x2000, 0xdead_beef] {
                let at = tsc.reaches(value);
                assert!(tsc.at(at) >= value, "{khz} {value}");
                let before = Time::from_nanos(at.as_nanos().saturating_sub(1));
                assert!(at == Time::ZERO || tsc.at(before) < value || khz > NANOSECONDS, "{khz} {value}");
            }
        }
    }

    #[test]
    fn kvm_clock_is_written_where_the_guest_wants_it_and_nowhere_else() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        let tsc = TimeStampCounter::new(NANOSECONDS);
        tsc.publish(&memory, 0x1000, Time::from_nanos(5), 7);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(0x1000)).unwrap(), 0);
        for version in [2, 4] {
            tsc.publish(&memory, 0x1001, Time::from_nanos(5), 7);
            assert_eq!(memory.read_obj::<u32>(GuestAddress(0x1000)).unwrap(), version);
        }
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1008)).unwrap(), 5);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1010)).unwrap(), 7);
        tsc.publish(&memory, u64::MAX, Time::ZERO, 0);
    }
}
