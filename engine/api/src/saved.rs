//! What an engine keeps of a machine beside its processors' registers, as a value: in this form it goes on elsewhere.

use serde::{Deserialize, Serialize};
use tern_chipset::{ioapic, lapic, pic, pit};
use tern_x86::cpuid::CpuIdentity;

/// The state of a virtual machine that stands still, without its processors' registers, its memory and its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// The processors as the guest sees them.
    pub identity: CpuIdentity,
    /// The 8259s.
    pub pic: pic::State,
    /// The IO-APIC.
    pub ioapic: ioapic::State,
    /// The interval timer.
    pub pit: pit::State,
    /// The local APICs, by processor number.
    pub local_apics: Vec<lapic::State>,
    /// What kvm-clock shows, in nanoseconds.
    pub kvm_clock: u64,
}
