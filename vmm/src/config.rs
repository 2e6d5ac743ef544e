//! What a machine is made of.

use std::sync::Arc;

use tern_virtio::device::VirtioDevice;
use thiserror::Error;

pub use tern_x86::cpuid::CpuModel;

use crate::guest::GuestSource;
pub use crate::memory::HostPages;

/// Guest memory comes in pages of this many bytes.
const PAGE: u64 = 4096;

/// The least memory of a machine, in bytes: the first mebibyte is what every PC has.
pub const LEAST_MEMORY: u64 = 1 << 20;

/// The most memory of a machine, in bytes. It ends below 2^39 with the PCI window above it, which every 64-bit
/// processor can address.
pub const MOST_MEMORY: u64 = 1 << 38;

/// The most processors of a machine.
pub const MOST_CPUS: u32 = 64;

/// The most devices on the PCI bus, beside the host bridge.
pub const MOST_DEVICES: usize = 31;

/// A device on the PCI bus.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// What it is called, for threads and messages.
    pub name: String,
    /// The device. It goes along when the machine leaves for another engine.
    pub device: Arc<dyn VirtioDevice>,
}

/// What happens when the guest asks for a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReboot {
    /// The machine starts over.
    Restart,
    /// The machine ends.
    End,
}

/// A machine and its guest.
#[derive(Debug)]
pub struct MachineConfig {
    /// Bytes of memory: [`LEAST_MEMORY`] to [`MOST_MEMORY`], whole pages.
    pub memory: u64,
    /// The host's pages that it is made of.
    pub pages: HostPages,
    /// Processors: 1 to [`MOST_CPUS`].
    pub cpus: u32,
    /// The processor that the guest sees.
    pub cpu_model: CpuModel,
    /// Where the guest comes from, at the start and at every reboot.
    pub guest: Box<dyn GuestSource>,
    /// What is on the PCI bus, from device 1 on: at most [`MOST_DEVICES`].
    pub devices: Vec<DeviceConfig>,
    /// Whether there is a debug-exit port at 0xf4.
    pub debug_exit: bool,
    /// What happens when the guest asks for a reboot.
    pub on_reboot: OnReboot,
}

/// A machine that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Too little or too much memory.
    #[error(
        "a machine has {least} MiB to {most} GiB of memory, not {0} bytes: choose a size in between",
        least = LEAST_MEMORY >> 20,
        most = MOST_MEMORY >> 30
    )]
    MemorySize(u64),
    /// Not a whole number of pages.
    #[error("memory comes in pages of {PAGE} bytes, and {0} bytes are no multiple of that")]
    MemoryPages(u64),
    /// Not a whole number of huge pages.
    #[error(
        "memory of huge pages comes in multiples of {page} MiB, and {memory} bytes are none: choose another size, or smaller pages"
    )]
    MemoryHugePages {
        /// What was asked for, in bytes.
        memory: u64,
        /// The huge page's size, in MiB.
        page: u64,
    },
    /// No processors or too many.
    #[error("a machine has 1 to {MOST_CPUS} processors, not {0}")]
    Cpus(u32),
    /// Too many devices.
    #[error("a machine has at most {MOST_DEVICES} devices on its PCI bus, not {0}")]
    Devices(usize),
}

impl MachineConfig {
    /// A machine of 512 MiB and one processor.
    #[must_use]
    pub fn new(guest: impl GuestSource + 'static) -> Self {
        Self {
            memory: 512 << 20,
            pages: HostPages::Usual,
            cpus: 1,
            cpu_model: CpuModel::default(),
            guest: Box::new(guest),
            devices: Vec::new(),
            debug_exit: false,
            on_reboot: OnReboot::Restart,
        }
    }

    /// Says whether there can be such a machine.
    ///
    /// # Errors
    /// A size or number is out of its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(LEAST_MEMORY..=MOST_MEMORY).contains(&self.memory) {
            return Err(ConfigError::MemorySize(self.memory));
        }
        if !self.memory.is_multiple_of(PAGE) {
            return Err(ConfigError::MemoryPages(self.memory));
        }
        if !self.memory.is_multiple_of(self.pages.size()) {
            return Err(ConfigError::MemoryHugePages { memory: self.memory, page: self.pages.size() >> 20 });
        }
        if !(1..=MOST_CPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if self.devices.len() > MOST_DEVICES {
            return Err(ConfigError::Devices(self.devices.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{Kernel, KernelKind};
    use crate::guest::Guest;
    use std::sync::Arc;

    fn config() -> MachineConfig {
        let kernel = Kernel::parse(vec![0xf4], Some(KernelKind::BootSector)).unwrap();
        MachineConfig::new(Arc::new(Guest::new(kernel)))
    }

    #[test]
    fn bounds_are_part_of_what_can_be() {
        for memory in [LEAST_MEMORY, MOST_MEMORY] {
            assert_eq!(MachineConfig { memory, ..config() }.validate(), Ok(()));
        }
        for cpus in [1, MOST_CPUS] {
            assert_eq!(MachineConfig { cpus, ..config() }.validate(), Ok(()));
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for memory in [0, LEAST_MEMORY - PAGE, MOST_MEMORY + PAGE, u64::MAX] {
            assert_eq!(MachineConfig { memory, ..config() }.validate(), Err(ConfigError::MemorySize(memory)));
        }
        let odd = LEAST_MEMORY + 1;
        assert_eq!(MachineConfig { memory: odd, ..config() }.validate(), Err(ConfigError::MemoryPages(odd)));
        let error = ConfigError::MemoryHugePages { memory: LEAST_MEMORY, page: 2 };
        assert_eq!(
            MachineConfig { memory: LEAST_MEMORY, pages: HostPages::Huge2M, ..config() }.validate(),
            Err(error)
        );
        for cpus in [0, MOST_CPUS + 1] {
            assert_eq!(MachineConfig { cpus, ..config() }.validate(), Err(ConfigError::Cpus(cpus)));
        }
    }
}
