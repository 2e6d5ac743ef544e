//! The hypervisor as guests see it: KVM's paravirtual interface, which every Linux knows. It is the same on all engines, so
//! that a guest finds it again where it goes on.
//!
//! Sources: Linux's `Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst` and `arch/x86/include/asm/pvclock-abi.h`.

use crate::cpuid::CpuidResult;

/// CPUID function: who the hypervisor is, and the last function of its range.
pub const SIGNATURE: u32 = 0x4000_0000;
/// CPUID function: what it offers.
pub const FEATURES: u32 = 0x4000_0001;

/// What [`SIGNATURE`] answers.
pub const SIGNATURE_LEAF: CpuidResult = {
    let [ebx, ecx, edx] = [*b"KVMK", *b"VMKV", *b"M\0\0\0"];
    CpuidResult {
        eax: FEATURES,
        ebx: u32::from_le_bytes(ebx),
        ecx: u32::from_le_bytes(ecx),
        edx: u32::from_le_bytes(edx),
    }
};

/// What [`FEATURES`] answers in EAX: what needs no state that a saved machine could not hold.
pub const OFFERED: u32 = 1 << 0 // CLOCKSOURCE: kvm-clock by its old registers
    | 1 << 1 // NOP_IO_DELAY: no waiting for slow ports
    | 1 << 3 // CLOCKSOURCE2: kvm-clock
    | 1 << 6 // PV_EOI: end of interrupt without an exit
    | 1 << 7 // PV_UNHALT: spinlocks that sleep
    | 1 << 11 // PV_SEND_IPI: many interprocessor interrupts at once
    | 1 << 13 // PV_SCHED_YIELD: hint before waiting for another processor
    | 1 << 24; // CLOCKSOURCE_STABLE: all processors read the same clock

/// The interface's model-specific registers.
pub mod msr {
    /// Where the guest wants the wall-clock time at which kvm-clock showed zero; written once at each write of it.
    pub const WALL_CLOCK: u32 = 0x4b56_4d00;
    /// Where the guest wants kvm-clock of this processor; bit 0 enables.
    pub const SYSTEM_TIME: u32 = 0x4b56_4d01;
    /// Where the hypervisor may note that an interrupt needs no end; bit 0 enables.
    pub const PV_EOI: u32 = 0x4b56_4d04;
    /// [`WALL_CLOCK`]'s old number.
    pub const OLD_WALL_CLOCK: u32 = 0x11;
    /// [`SYSTEM_TIME`]'s old number.
    pub const OLD_SYSTEM_TIME: u32 = 0x12;

    /// Bit 0 of registers that hold an address.
    pub const ENABLE: u64 = 1;
}

/// Hypercalls: the number in RAX, arguments in RBX, RCX, RDX and RSI, the result in RAX.
pub mod hypercall {
    /// Wakes the halted processor with the APIC ID in the second argument.
    pub const KICK_CPU: u64 = 5;
    /// Sends the interrupt in the fourth argument (the low half of the local APIC's ICR) to the processors in the bitmap of the
    /// first two arguments, which begins at the APIC ID in the third; the result is how many got it.
    pub const SEND_IPI: u64 = 10;
    /// The processor with the APIC ID in the first argument should run rather than the caller.
    pub const SCHED_YIELD: u64 = 11;

    /// The result for numbers that are not offered.
    pub const ENOSYS: u64 = (-1000_i64).cast_unsigned();
    /// The result outside privilege level 0.
    pub const EPERM: u64 = (-1_i64).cast_unsigned();
}

/// Bytes of a processor's kvm-clock, `struct pvclock_vcpu_time_info`.
pub const TIME_INFO_SIZE: usize = 32;
/// Flag of it: all processors' clocks agree.
const TSC_STABLE: u8 = 1;

/// A processor's kvm-clock behind its version: at the counter's value `tsc` it shows `system_time` nanoseconds, and the counter
/// counts `tsc_khz` thousand times a second.
#[must_use]
pub fn time_info(tsc: u64, system_time: u64, tsc_khz: u32) -> [u8; TIME_INFO_SIZE - 8] {
    let (multiplier, shift) = time_scale(tsc_khz);
    let mut info = [0; TIME_INFO_SIZE - 8];
    info[..8].copy_from_slice(&tsc.to_le_bytes());
    info[8..16].copy_from_slice(&system_time.to_le_bytes());
    info[16..20].copy_from_slice(&multiplier.to_le_bytes());
    info[20..21].copy_from_slice(&shift.to_le_bytes());
    info[21] = TSC_STABLE;
    info
}

/// Nanoseconds are `(ticks << shift) * multiplier >> 32`, shifted right if `shift` is negative.
fn time_scale(tsc_khz: u32) -> (u32, i8) {
    let hertz = u128::from(tsc_khz.max(1)) * 1000;
    let mut shift = 0_i8;
    loop {
        let second = 1_000_000_000_u128 << 32;
        let multiplier = if shift >= 0 { second / (hertz << shift) } else { (second << -shift) / hertz };
        match u32::try_from(multiplier) {
            Err(_) => shift += 1,
            Ok(small) if small < 1 << 31 => shift -= 1,
            Ok(multiplier) => return (multiplier, shift),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_computes_nanoseconds_from_ticks_of_any_frequency() {
        for (khz, ticks) in
            [(1_000_000, 12_345_u64), (2_445_406, 2_445_406_000), (999, 999_000), (4_000_000, 8)]
        {
            let (multiplier, shift) = time_scale(khz);
            assert!(multiplier >= 1 << 31);
            let shifted = if shift >= 0 { ticks << shift } else { ticks >> -shift };
            let nanoseconds = (u128::from(shifted) * u128::from(multiplier)) >> 32;
            let exact = u128::from(ticks) * 1_000_000 / u128::from(khz);
            assert!(nanoseconds.abs_diff(exact) <= 1 + exact / 1_000_000_000, "{khz} kHz: {nanoseconds}");
        }
    }

    #[test]
    fn the_clocks_fields_lie_where_linux_reads_them() {
        let info = time_info(0x1122, 0x3344, 1_000_000);
        assert_eq!(info[..2], [0x22, 0x11]);
        assert_eq!(info[8..10], [0x44, 0x33]);
        assert_eq!((info[19], info[20], info[21]), (0x80, 1, 1));
    }
}
