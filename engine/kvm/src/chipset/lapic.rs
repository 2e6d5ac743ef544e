//! The local APIC (`struct kvm_lapic_state`): its register page, with IA32_APIC_BASE and the TSC deadline beside it.
//!
//! The kernel counts the timer in nanoseconds, as `tern-chipset` does. Three things it does not hold: errors that no write
//! to the error status register has shown yet, the logical destination in x2APIC mode (the ID determines it), and whether a
//! one-shot count has ended; the last is handed over as a timer that is not running.

use kvm_bindings::kvm_lapic_state;
use tern_chipset::Time;
use tern_chipset::lapic::{State, TimerState, Vectors};

/// Offsets in the page (SDM volume 3, table 11-1).
const ID: usize = 0x20;
const VERSION: usize = 0x30;
const TPR: usize = 0x80;
const LDR: usize = 0xd0;
const DFR: usize = 0xe0;
const SVR: usize = 0xf0;
const ISR: usize = 0x100;
const TMR: usize = 0x180;
const IRR: usize = 0x200;
const ESR: usize = 0x280;
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE_CONFIGURATION: usize = 0x3e0;

/// An integrated APIC with six local vector table entries.
const VERSION_VALUE: u32 = 0x0005_0014;
/// What each entry of the local vector table keeps, in their order.
const LVT_KEPT: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Vector, software enable, focus processor checking.
const SVR_KEPT: u32 = 0x3ff;
const DIVIDE_KEPT: u32 = 0b1011;
/// IA32_APIC_BASE: x2APIC mode.
const EXTENDED: u64 = 1 << 10;

/// The page as the kernel takes it, at the machine's time `now`.
#[must_use]
pub fn to_kvm(state: &State, now: Time) -> kvm_lapic_state {
    let mut page = kvm_lapic_state { regs: [0; 1024] };
    let extended = state.base & EXTENDED != 0;
    let [icr_low, icr_high] = [state.icr as u32, (state.icr >> 32) as u32];
    let timer = &state.timer;
    // A count that has ended must not end again.
    let initial_count = if timer.expiry.is_some() { timer.initial_count } else { 0 };
    let registers = [
        // The kernel takes the ID where xAPIC mode shows it, in both modes.
        (ID, state.id << 24),
        (VERSION, VERSION_VALUE),
        (TPR, state.tpr.into()),
        (LDR, if extended { 0 } else { state.ldr }),
        (DFR, state.dfr),
        (SVR, state.svr),
        (ESR, state.esr),
        (ICR_LOW, icr_low),
        (ICR_HIGH, icr_high),
        (INITIAL_COUNT, initial_count),
        (CURRENT_COUNT, current_count(timer, now)),
        (DIVIDE_CONFIGURATION, timer.divide_configuration),
    ];
    for (offset, value) in registers {
        write(&mut page, offset, value);
    }
    for (index, value) in state.lvt.into_iter().enumerate() {
        write(&mut page, LVT + 16 * index, value);
    }
    for (start, vectors) in [(ISR, &state.isr), (TMR, &state.tmr), (IRR, &state.irr)] {
        for (index, value) in vectors.0.into_iter().enumerate() {
            write(&mut page, start + 16 * index, value);
        }
    }
    page
}

/// The state from the page, IA32_APIC_BASE and IA32_TSC_DEADLINE as the kernel gives them at the machine's time `now`.
#[must_use]
pub fn from_kvm(page: &kvm_lapic_state, base: u64, tsc_deadline: u64, now: Time) -> State {
    let register = |offset| read(page, offset);
    let vectors = |start| {
        let mut registers = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| register(start + 16 * index));
        // Vectors below 16 are none.
        registers[0] &= !0xffff;
        Vectors(registers)
    };
    let mut lvt = [0, 1, 2, 3, 4, 5].map(|index| register(LVT + 16 * index));
    for (entry, kept) in lvt.iter_mut().zip(LVT_KEPT) {
        *entry &= kept;
    }
    let extended = base & EXTENDED != 0;
    let divide_configuration = register(DIVIDE_CONFIGURATION) & DIVIDE_KEPT;
    // In TSC-deadline mode the counts do not count.
    let counts = lvt[0] >> 17 & 3 < 2;
    let left = if counts { register(CURRENT_COUNT) } else { 0 };
    let span = u64::from(left) * divider(divide_configuration);
    State {
        id: register(ID) >> 24,
        base,
        tpr: register(TPR) as u8,
        ldr: if extended { 0 } else { register(LDR) & 0xff00_0000 },
        dfr: register(DFR) | 0x0fff_ffff,
        svr: register(SVR) & SVR_KEPT,
        isr: vectors(ISR),
        tmr: vectors(TMR),
        irr: vectors(IRR),
        esr: register(ESR),
        errors: 0,
        icr: u64::from(register(ICR_LOW)) | u64::from(register(ICR_HIGH)) << 32,
        lvt,
        timer: TimerState {
            initial_count: register(INITIAL_COUNT),
            divide_configuration,
            expiry: (left != 0).then(|| now + Time::from_nanos(span)),
            tsc_deadline: if lvt[0] >> 17 & 3 == 2 { tsc_deadline } else { 0 },
        },
    }
}

fn current_count(timer: &TimerState, now: Time) -> u32 {
    let Some(expiry) = timer.expiry else { return 0 };
    // One that is due has one tick left, so that it ends at once.
    let left = (expiry - now).as_nanos().div_ceil(divider(timer.divide_configuration)).max(1);
    u32::try_from(left).map_or(timer.initial_count, |left| left.min(timer.initial_count.max(1)))
}

/// The timer's divider: 1 to 128 (SDM volume 3, figure 11-10).
const fn divider(configuration: u32) -> u64 {
    let exponent = configuration & 3 | configuration >> 1 & 4;
    1 << ((exponent + 1) & 7)
}

fn read(page: &kvm_lapic_state, offset: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|byte| page.regs[offset + byte].cast_unsigned()))
}

fn write(page: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (byte, value) in page.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *byte = value.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use tern_chipset::lapic::{Effect, LocalApic};

    use super::*;
    use crate::chipset::power_on;

    const NOW: Time = Time::from_nanos(1_000_000);

    fn back(state: &State) -> State {
        from_kvm(&to_kvm(state, NOW), state.base, state.timer.tsc_deadline, NOW)
    }

    #[test]
    fn the_power_on_state_comes_back_on_every_processor() {
        for index in [0, 1, 63] {
            let state = power_on::lapic(index);
            assert_eq!(back(&state), state);
            LocalApic::new(index, index == 0).restore(&back(&state)).unwrap();
        }
    }

    #[test]
    fn a_running_periodic_timer_keeps_its_phase() {
        let mut apic = LocalApic::new(1, false);
        for (offset, value) in [(0xf0, 0x1ff), (0x3e0, 0b1011), (0x320, 0x2_00ec), (0x380, 250_000)] {
            assert_eq!(apic.write(offset, value, NOW), Effect::None);
        }
        let state = apic.save();
        assert_eq!(state.timer.expiry, Some(NOW + Time::from_nanos(250_000)));
        let later = NOW + Time::from_nanos(100_000);
        let page = to_kvm(&state, later);
        assert_eq!((read(&page, INITIAL_COUNT), read(&page, CURRENT_COUNT)), (250_000, 150_000));
        assert_eq!(from_kvm(&page, state.base, 0, later), state);
    }

    #[test]
    fn a_count_that_has_ended_does_not_end_again() {
        let mut state = power_on::lapic(0);
        state.timer.initial_count = 1000;
        let page = to_kvm(&state, NOW);
        assert_eq!((read(&page, INITIAL_COUNT), read(&page, CURRENT_COUNT)), (0, 0));
    }

    #[test]
    fn interrupts_and_deadline_of_an_x2apic_come_back() {
        let mut state = power_on::lapic(2);
        state.base |= EXTENDED;
        state.svr = 0x1ff;
        state.lvt[0] = 0x4_00ec;
        state.icr = 0x0000_0003_0000_00fd;
        state.irr.insert(0xec);
        state.isr.insert(0x31);
        state.tmr.insert(0x31);
        state.timer.tsc_deadline = 0x1234_5678_9abc;
        assert_eq!(back(&state), state);
    }

    #[test]
    fn a_page_with_the_kernels_own_bits_is_accepted() {
        // A second processor as Linux programs it, with delivery status and the kernel's kind of divider.
        let mut page = kvm_lapic_state { regs: [0; 1024] };
        for (offset, value) in [
            (0x20, 0x0100_0000),
            (0x30, 0x0005_0014),
            (0xa0, 0x10),
            (0xd0, 0x0200_0000),
            (0xe0, 0xffff_ffff),
            (0xf0, 0x1ff),
            (0x300, 0x8fd),
            (0x320, 0x4_10ec),
            (0x330, 0x1_0000),
            (0x340, 0x400),
            (0x350, 0x1_0700),
            (0x360, 0x1_0400),
            (0x370, 0xfe),
            (0x3e0, 0x4),
        ] {
            write(&mut page, offset, value);
        }
        let state = from_kvm(&page, 0xfee0_0800, 77, NOW);
        assert_eq!((state.id, state.lvt[0], state.timer.tsc_deadline), (1, 0x4_00ec, 77));
        LocalApic::new(1, false).restore(&state).unwrap();
    }
}
