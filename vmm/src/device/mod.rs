//! The machine's devices: `tern-chipset`'s state machines, each behind a lock, connected to a bus, an interrupt line, the
//! schedule and the host.
//!
//! Each file is one device. To add one, write it against [`BusDevice`] and give it its place in [`Devices::new`].

mod clock;
mod debug_exit;
mod host_bridge;
mod keyboard;
mod power;
mod serial;
mod system_control;

use std::io::Write;
use std::sync::Arc;

use tern_chipset::layout::{self, SERIAL_PORTS, irq, port};
use tern_chipset::{InvalidState, Time};
use tern_engine::{Clock, GatheredWrite, GuestMemory, Vm, VmEntry, VmExit, WriteRange};
use thiserror::Error;

use crate::bus::{Bus, BusDevice, Overlap, Request};
use crate::config::DeviceConfig;
use crate::firmware::PCI_MEMORY_64;
use crate::irq::IrqLine;
use crate::pci::{PciBus, PciError, PciMemory};
use crate::saved::DevicesState;
use crate::schedule::Schedule;

pub(crate) use host_bridge::HostBridge;
pub(crate) use serial::Serial;

use clock::RealTimeClock;
use debug_exit::DebugExit;
use host_bridge::Ecam;
use keyboard::Keyboard;
use power::PowerManagement;
use system_control::SystemControlPort;

/// Which of [`SERIAL_PORTS`] there are: only the first, which is the console. A port that leads nowhere would only make
/// guests probe it.
pub(crate) const PRESENT_SERIAL_PORTS: [bool; 4] = [true, false, false, false];

/// `isa-debug-exit` decodes four ports, so that the value may be written in 1, 2 or 4 bytes.
const DEBUG_EXIT_PORTS: u64 = 4;

/// Why a machine cannot have its devices.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Two were put in the same place.
    #[error("the machine's devices do not fit beside each other")]
    Overlap(#[from] Overlap),
    /// One does not fit on the PCI bus.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// What devices are connected to.
pub(crate) struct Surroundings<'a> {
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) schedule: Arc<Schedule>,
    /// Where the console's output goes.
    pub(crate) output: Box<dyn Write + Send>,
    pub(crate) memory: GuestMemory,
    /// Bytes of memory.
    pub(crate) memory_size: u64,
    pub(crate) debug_exit: bool,
    /// What is on the PCI bus.
    pub(crate) pci: &'a [DeviceConfig],
}

/// All devices and their buses.
pub(crate) struct Devices {
    ports: Arc<Bus>,
    memory: Bus,
    pub(crate) console: Arc<Serial>,
    clock: Arc<RealTimeClock>,
    power: Arc<PowerManagement>,
    keyboard: Arc<Keyboard>,
    system_control: Arc<SystemControlPort>,
    host_bridge: Arc<HostBridge>,
    pci: PciBus,
}

impl Devices {
    /// The devices of a PC, in their reset state.
    pub(crate) fn new(surroundings: Surroundings<'_>) -> Result<Self, DeviceError> {
        let Surroundings { vm, clock: time, schedule, output, memory: guest_memory, memory_size, .. } =
            surroundings;
        let line = |gsi| IrqLine::new(Arc::clone(&vm), gsi);
        let com1 = SERIAL_PORTS[0];
        let console = schedule.attach(|alarm| Serial::new(line(com1.irq), alarm, Arc::clone(&time), output));
        let clock = schedule.attach(|alarm| RealTimeClock::new(line(irq::RTC), alarm, &time, memory_size));
        let power = schedule.attach(|alarm| PowerManagement::new(line(irq::SCI), alarm));
        let keyboard = Arc::new(Keyboard::new(line(irq::KEYBOARD)));
        let system_control = Arc::new(SystemControlPort::default());
        let host_bridge = Arc::new(HostBridge::default());

        let mut ports = Bus::default();
        let mut map = |first: u16, count: u64, offset, device: Arc<dyn BusDevice>| {
            let first = u64::from(first);
            ports.map(first..first + count, offset, device)
        };
        map(com1.port, 8, 0, Arc::<Serial>::clone(&console))?;
        map(port::RTC.start, 2, 0, Arc::<RealTimeClock>::clone(&clock))?;
        map(port::POWER.start, port::POWER.len() as u64, 0, Arc::<PowerManagement>::clone(&power))?;
        map(port::KEYBOARD_DATA, 1, keyboard::DATA, Arc::<Keyboard>::clone(&keyboard))?;
        map(port::KEYBOARD_COMMAND, 1, keyboard::COMMAND, Arc::<Keyboard>::clone(&keyboard))?;
        map(port::SYSTEM_CONTROL, 1, 0, Arc::<SystemControlPort>::clone(&system_control))?;
        map(port::PCI_CONFIG_ADDRESS, 8, 0, Arc::<HostBridge>::clone(&host_bridge))?;
        if surroundings.debug_exit {
            map(port::DEBUG_EXIT, DEBUG_EXIT_PORTS, 0, Arc::new(DebugExit))?;
        }
        let ports = Arc::new(ports);
        gather_writes(&*vm, &ports, &time);
        let mut memory = Bus::default();
        memory.map(layout::ECAM, 0, Arc::new(Ecam(Arc::clone(&host_bridge))))?;
        let pci_memory = Arc::new(PciMemory::default());
        for window in layout::PCI_MEMORY_32.into_iter().chain([PCI_MEMORY_64]) {
            memory.map(window.clone(), window.start, Arc::<PciMemory>::clone(&pci_memory))?;
        }
        let pci = PciBus::new(surroundings.pci, &host_bridge, &pci_memory, &guest_memory, &vm)?;
        Ok(Self { ports, memory, console, clock, power, keyboard, system_control, host_bridge, pci })
    }

    /// Answers what a processor asked, and says whether the machine as a whole is to do something.
    pub(crate) fn answer(&self, exit: VmExit, now: Time) -> (VmEntry, Option<Request>) {
        let mut value = [0; 8];
        match exit {
            VmExit::PortIn { port, size } => self.ports.read(port.into(), bytes(&mut value, size), now),
            VmExit::MmioRead { address, size } => self.memory.read(address, bytes(&mut value, size), now),
            VmExit::PortOut { port, size, data } => {
                value = u64::from(data).to_le_bytes();
                return (VmEntry::Resume, self.ports.write(port.into(), bytes(&mut value, size), now));
            }
            VmExit::MmioWrite { address, size, data } => {
                value = data.to_le_bytes();
                return (VmEntry::Resume, self.memory.write(address, bytes(&mut value, size), now));
            }
            VmExit::Kicked | VmExit::TripleFault => return (VmEntry::Resume, None),
        }
        (VmEntry::Value(u64::from_le_bytes(value)), None)
    }

    /// Presses the power button.
    pub(crate) fn press_power_button(&self) {
        self.power.press_button();
    }

    /// Finishes what devices have in flight, and lets them stand still. No processor is running.
    pub(crate) fn pause(&self) {
        self.pci.pause();
    }

    /// Lets devices go on.
    pub(crate) fn resume(&self) {
        self.pci.resume();
    }

    /// Finishes what devices have in flight, and ends their threads.
    pub(crate) fn end(&self) {
        self.pci.end();
    }

    /// All devices' states. They are paused, and no processor is running. What is typed from now on is not taken any more.
    pub(crate) fn depart(&self) -> DevicesState {
        let (host_bridge, reset_control) = self.host_bridge.save();
        DevicesState {
            console: self.console.depart(),
            clock: self.clock.save(),
            power: self.power.save(),
            keyboard: self.keyboard.save(),
            system_control: self.system_control.save(),
            host_bridge,
            reset_control,
            pci: self.pci.save(),
        }
    }

    /// Takes over all devices' states, and drives the interrupt lines as they do. No processor is running.
    pub(crate) fn restore(&self, state: &DevicesState) -> Result<(), InvalidState> {
        self.console.restore(&state.console)?;
        self.clock.restore(&state.clock)?;
        self.power.restore(&state.power)?;
        self.keyboard.restore(&state.keyboard)?;
        self.system_control.restore(&state.system_control);
        self.host_bridge.restore(&state.host_bridge, &state.reset_control)?;
        self.pci.restore(&state.pci)
    }

    /// Puts all devices into their reset state; all interrupt lines are low then. No processor is running.
    pub(crate) fn reset(&self, now: Time) {
        self.console.reset();
        self.clock.reset(now);
        self.power.reset();
        self.keyboard.reset();
        self.system_control.reset();
        self.host_bridge.reset();
        self.pci.reset();
    }
}

/// Lets the engine gather writes to registers that only choose what is accessed next: the real-time clock's index. (The
/// PCI host bridge's is another, but the reset control register lies amid it.)
fn gather_writes(vm: &dyn Vm, ports: &Arc<Bus>, clock: &Arc<Clock>) {
    // The devices behind the bus hold the virtual machine, which must not hold them.
    let (ports, clock) = (Arc::downgrade(ports), Arc::clone(clock));
    vm.set_write_sink(Box::new(move |write| {
        if let (GatheredWrite::Port { port, size, data }, Some(ports)) = (write, ports.upgrade()) {
            let mut value = u64::from(data).to_le_bytes();
            // These registers ask nothing of the machine.
            let _ = ports.write(port.into(), bytes(&mut value, size), clock.now());
        }
    }));
    // Where the host has no room, the writes are exits as ever.
    let _ = vm.coalesce(WriteRange::Ports { first: port::RTC.start, count: 1 });
}

/// The number of a register that a device of few registers is mapped with.
fn register(offset: u64) -> u16 {
    u16::try_from(offset).unwrap_or(u16::MAX)
}

/// The lowest bytes of an access of this size.
fn bytes(value: &mut [u8; 8], size: u8) -> &mut [u8] {
    let size = usize::from(size).min(value.len());
    &mut value[..size]
}

#[cfg(test)]
mod tests;
