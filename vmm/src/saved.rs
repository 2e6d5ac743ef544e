//! A machine that stands still, as a value: what goes on elsewhere.
//!
//! ```text
//!  a running machine ──MachineHandle::depart──▶ End::Departed(Departed) ──Machine::arrive──▶ a machine, on any engine
//!                                                 │ MachineState: clock, processors, engine's part, devices
//!                                                 │ memory, which stays where it is
//!                                                 └ the configuration, for reboots
//! ```
//!
//! The processor is a part of the state: the guest finds it again, leaf by leaf ([`tern_x86::cpuid::CpuIdentity`]), or the
//! engine refuses with what it lacks.

use serde::{Deserialize, Serialize};
use tern_chipset::power::ResetControl;
use tern_chipset::system_control::SystemControl;
use tern_chipset::{Time, i8042, pci, power, rtc, uart};
use tern_engine::{GuestMemory, VmState};
use tern_x86::state::VcpuState;

use crate::config::MachineConfig;

/// All of a machine but its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// What the machine's clock shows.
    pub time: Time,
    /// The processors, by number.
    pub vcpus: Vec<VcpuState>,
    /// What the engine keeps.
    pub vm: VmState,
    /// The devices.
    pub devices: DevicesState,
}

/// All devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesState {
    /// The serial port that is the console.
    pub console: SerialState,
    /// The real-time clock.
    pub clock: rtc::State,
    /// ACPI's fixed registers.
    pub power: power::State,
    /// The keyboard controller.
    pub keyboard: i8042::State,
    /// Port 0x92.
    pub system_control: SystemControl,
    /// The PCI host bridge.
    pub host_bridge: pci::State,
    /// The reset control register.
    pub reset_control: ResetControl,
    /// The functions on the PCI bus, by device number from 1 on.
    pub pci: Vec<tern_virtio::pci::State>,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Its registers.
    pub uart: uart::State,
    /// What waits to be received.
    pub waiting: Vec<u8>,
}

/// A machine that has left its engine.
#[derive(Debug)]
pub struct Departed {
    /// How it was made.
    pub config: MachineConfig,
    /// Its memory.
    pub memory: GuestMemory,
    /// All else.
    pub state: MachineState,
}
