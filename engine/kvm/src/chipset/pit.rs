//! The 8254 and port 0x61 (`struct kvm_pit_state2`).
//!
//! What the kernel does not hold: since when channel 0 counts (it is taken to have just begun), whether channel 0's only
//! interrupt in mode 0 has come, and the two bits of port 0x61 that have no effect. A channel that was never programmed has
//! a mode of its own there, in which it does not interrupt.

use kvm_bindings::{KVM_PIT_FLAGS_SPEAKER_DATA_ON, kvm_pit_channel_state, kvm_pit_state2};
use tern_chipset::pit::{Access, ChannelState, State};

use super::Moment;

/// The mode of a channel that was not programmed.
const UNPROGRAMMED: u8 = 0xff;
/// In `read_state`, `write_state` and `count_latched`: the high byte comes next. Else they hold the access.
const HIGH_NEXT: u8 = 4;
/// Port 0x61: the gate of channel 2, and the speaker.
const GATE_2: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;

/// The state as the kernel takes it. It restarts every count.
#[must_use]
pub fn to_kvm(state: &State, now: &Moment) -> kvm_pit_state2 {
    let speaker = state.nmi_control & SPEAKER != 0;
    let mut kvm = kvm_pit_state2 { flags: 0, ..Default::default() };
    if speaker {
        kvm.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    }
    for (to, channel) in kvm.channels.iter_mut().zip(&state.channels) {
        *to = channel_to_kvm(channel, now);
    }
    kvm
}

/// The state as the kernel gives it.
#[must_use]
pub fn from_kvm(state: &kvm_pit_state2, now: &Moment) -> State {
    let [first, second, third] = &state.channels;
    let channels = [
        channel_from_kvm(first, true, now),
        channel_from_kvm(second, true, now),
        channel_from_kvm(third, third.gate != 0, now),
    ];
    let speaker = if state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0 { SPEAKER } else { 0 };
    let gate = if channels[2].gate { GATE_2 } else { 0 };
    State { channels, nmi_control: speaker | gate }
}

fn channel_to_kvm(channel: &ChannelState, now: &Moment) -> kvm_pit_channel_state {
    let untouched = channel.mode == 0 && !channel.loaded && channel.written_low.is_none();
    let high_next = |next: bool| if next { HIGH_NEXT } else { channel.access as u8 };
    kvm_pit_channel_state {
        count: channel.reload,
        latched_count: channel.latched_count.unwrap_or(0),
        count_latched: if channel.latched_count.is_some() { high_next(channel.read_high_next) } else { 0 },
        status_latched: channel.latched_status.is_some().into(),
        status: channel.latched_status.unwrap_or(0),
        read_state: high_next(channel.latched_count.is_none() && channel.read_high_next),
        write_state: high_next(channel.written_low.is_some()),
        write_latch: channel.written_low.unwrap_or(0),
        rw_mode: channel.access as u8,
        mode: if untouched { UNPROGRAMMED } else { channel.mode },
        bcd: channel.bcd.into(),
        gate: channel.gate.into(),
        count_load_time: now.kernel_time(channel.start.unwrap_or(now.machine)),
    }
}

fn channel_from_kvm(channel: &kvm_pit_channel_state, gate: bool, now: &Moment) -> ChannelState {
    let loaded = channel.mode != UNPROGRAMMED;
    let mode = if loaded { channel.mode.min(5) } else { 0 };
    let bcd = channel.bcd != 0;
    let modulus = if bcd { 10_000 } else { 0x1_0000 };
    let latched = channel.count_latched != 0;
    let start = match channel.count_load_time {
        _ if !loaded || !gate && matches!(mode, 1 | 2 | 3 | 5) => None,
        // Channel 0's is not kept.
        0 => Some(now.machine),
        kernel => Some(now.machine_time(kernel)),
    };
    ChannelState {
        mode,
        bcd,
        access: match channel.rw_mode {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        },
        reload: if channel.count == 0 { modulus } else { channel.count.min(modulus) },
        loaded,
        written_low: (channel.write_state == HIGH_NEXT).then_some(channel.write_latch),
        read_high_next: HIGH_NEXT == if latched { channel.count_latched } else { channel.read_state },
        latched_count: latched.then_some(channel.latched_count),
        latched_status: (channel.status_latched != 0).then_some(channel.status),
        gate,
        start,
        paused: start.filter(|_| !gate),
        edges_reported: 0,
    }
}

#[cfg(test)]
mod tests {
    use tern_chipset::Time;
    use tern_chipset::pit::Pit;

    use super::*;

    const NOW: Moment = Moment { machine: Time::from_nanos(1_000_000), kernel: 987_654_321_000 };

    #[test]
    fn the_power_on_state_comes_back_and_does_not_interrupt() {
        let state = Pit::new().save();
        let kvm = to_kvm(&state, &NOW);
        assert_eq!(kvm.channels.map(|channel| channel.mode), [UNPROGRAMMED; 3]);
        assert_eq!(from_kvm(&kvm, &NOW), state);
    }

    #[test]
    fn linuxs_calibration_comes_back_with_its_moment() {
        let mut pit = Pit::new();
        let started = NOW.machine - Time::from_nanos(300_000);
        for (port, value) in [(0x61, 0x01), (0x43, 0xb0), (0x42, 0xff), (0x42, 0xff)] {
            pit.write(port, value, started);
        }
        let state = pit.save();
        let kvm = to_kvm(&state, &NOW);
        assert_eq!(kvm.channels[2].count_load_time, NOW.kernel - 300_000);
        assert_eq!((kvm.channels[2].mode, kvm.channels[2].gate, kvm.channels[2].count), (0, 1, 0xffff));
        let back = from_kvm(&kvm, &NOW);
        assert_eq!(back, state);
        Pit::new().restore(&back).unwrap();
    }

    #[test]
    fn half_read_and_half_written_counts_come_back() {
        let mut pit = Pit::new();
        for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e), (0x43, 0x00)] {
            pit.write(port, value, NOW.machine);
        }
        let _ = pit.read(0x40, NOW.machine);
        pit.write(0x40, 0x12, NOW.machine);
        let state = pit.save();
        let kvm = to_kvm(&state, &NOW);
        assert_eq!((kvm.channels[0].count_latched, kvm.channels[0].write_state), (HIGH_NEXT, HIGH_NEXT));
        assert_eq!(from_kvm(&kvm, &NOW), state);
    }
}
