//! A function with a type 0 header: base address registers, capabilities, one interrupt pin.
//!
//! Follows the PCI Local Bus Specification 3.0, § 6.1 (header), § 6.2.5.1 (base address registers), § 6.7
//! (capabilities) and § 6.8.2 (MSI-X).
//!
//! ```text
//!  0x00 vendor, device │ command, status │ revision, class │ … header type
//!  0x10 BAR 0 to BAR 5: [ address, as far as it may be written │ type ]; two of them for 64 bits
//!  0x2c subsystem … 0x34 first capability … 0x3c interrupt line, pin
//!  0x40 [ id │ next │ body ] ─▶ [ id │ next │ body ] ─▶ …
//! ```
//!
//! A base address register needs no logic of its own: the bits below its size cannot be written. So software that
//! writes all ones reads back the size, and one that writes an address moves the region.

use core::ops::Range;

use super::config_space::COMMAND;
use super::{ConfigSpace, Function};
use crate::InvalidState;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::fmt;
use serde::{Deserialize, Serialize};

const STATUS: usize = 0x06;
const REVISION_ID: usize = 0x08;
const FIRST_BAR: usize = 0x10;
const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
const CAPABILITIES_POINTER: usize = 0x34;
const INTERRUPT_PIN: usize = 0x3d;
/// Where capabilities may begin, and where the space ends.
const CAPABILITIES: Range<usize> = 0x40..0x100;

/// How many base address registers of 32 bits there are.
const BARS: u8 = 6;
/// The least size of a memory region that a register can tell, in bytes.
const LEAST_SIZE: u64 = 16;

/// The capability ID of MSI-X.
const MSIX: u8 = 0x11;
/// Where its message control register lies in it.
const MSIX_CONTROL: usize = 2;
/// The bits of message control that software may write: function mask and enable.
const MSIX_WRITABLE: u16 = 0b11 << 14;

bitflags! {
    /// The command register, as far as something follows from it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// The function answers at its I/O regions.
        const IO_SPACE = 1 << 0;
        /// The function answers at its memory regions.
        const MEMORY_SPACE = 1 << 1;
        /// The function may access memory, and send messages.
        const BUS_MASTER = 1 << 2;
        /// The function must not assert its INTx line.
        const INTERRUPT_DISABLE = 1 << 10;
    }
}

/// The status register: the function wants to assert its INTx line, whether it may or not.
const INTERRUPT_STATUS: u8 = 1 << 3;
/// The status register: there are capabilities.
const CAPABILITIES_LIST: u8 = 1 << 4;

/// What a function tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class, subclass and programming interface, as in 0x01_80_00.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// How many bits the address of a memory region has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// It lies below 4 GiB.
    Bits32,
    /// It may lie anywhere; it takes two registers.
    Bits64,
}

/// A memory region of a function, not prefetchable: reads may have effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The number of its (first) register, 0 to 5.
    pub index: u8,
    /// How many bytes, a power of two, at least 16.
    pub size: u64,
    /// How far up it may lie.
    pub width: Width,
}

impl Bar {
    const fn register(self) -> usize {
        FIRST_BAR + 4 * self.index as usize
    }

    /// The registers that it takes.
    const fn registers(self) -> Range<u8> {
        let count = match self.width {
            Width::Bits32 => 1,
            Width::Bits64 => 2,
        };
        self.index..self.index.saturating_add(count)
    }

    /// The register's type bits.
    const fn kind(self) -> u8 {
        match self.width {
            Width::Bits32 => 0b000,
            Width::Bits64 => 0b100,
        }
    }

    const fn most_address(self) -> u64 {
        match self.width {
            Width::Bits32 => u32::MAX as u64,
            Width::Bits64 => u64::MAX,
        }
    }
}

/// Where something lies in a function's memory regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The region, by the number of its register.
    pub bar: u8,
    /// Bytes from its start.
    pub offset: u32,
}

impl Place {
    /// As MSI-X's registers name it: an offset of a multiple of eight bytes, and the region in the lowest bits.
    const fn packed(self) -> u32 {
        self.offset & !7 | self.bar as u32 & 7
    }
}

/// The configuration space has no room for what it was to show, or cannot show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotFit(&'static str);

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The PCI function cannot be described: {}", self.0)
    }
}

impl core::error::Error for DoesNotFit {}

/// What a function's registers hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The configuration space.
    pub config: Vec<u8>,
}

/// A function with a type 0 header.
#[derive(Clone, Debug)]
pub struct Endpoint {
    space: ConfigSpace,
    bars: Vec<Bar>,
    /// The last capability, into which the next one is linked.
    last_capability: Option<usize>,
    /// Where the next capability may begin.
    free: usize,
    msix: Option<usize>,
}

impl Endpoint {
    /// A function without regions, capabilities and interrupt.
    pub fn new(identity: &Identity) -> Self {
        let mut space = ConfigSpace::new(identity.vendor, identity.device, identity.class);
        space.set(REVISION_ID, &[identity.revision]);
        space.set(SUBSYSTEM_VENDOR_ID, &identity.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM_VENDOR_ID + 2, &identity.subsystem.to_le_bytes());
        Self { space, bars: Vec::new(), last_capability: None, free: CAPABILITIES.start, msix: None }
    }

    /// Gives it the interrupt pin INTA#.
    pub fn add_interrupt_pin(&mut self) {
        self.space.set(INTERRUPT_PIN, &[1]);
    }

    /// Gives it a memory region, which lies at 0 until it is placed.
    ///
    /// # Errors
    ///
    /// If its registers are taken or do not exist, or cannot tell its size.
    pub fn add_bar(&mut self, bar: Bar) -> Result<(), DoesNotFit> {
        if !bar.size.is_power_of_two() || bar.size < LEAST_SIZE || bar.size - 1 > bar.most_address() / 2 {
            return Err(DoesNotFit("a memory region's size is a power of two, at least 16 bytes"));
        }
        let registers = bar.registers();
        let is_taken = |other: &Bar| {
            let other = other.registers();
            other.start < registers.end && registers.start < other.end
        };
        if registers.end > BARS || self.bars.iter().any(is_taken) {
            return Err(DoesNotFit("its base address registers are taken"));
        }
        let writable = !(bar.size - 1);
        let length = 4 * registers.len();
        self.space.allow(bar.register(), &writable.to_le_bytes()[..length]);
        self.space.set(bar.register(), &[bar.kind()]);
        self.bars.push(bar);
        Ok(())
    }

    /// Adds a capability: its ID, what follows the two bytes of its header, and which bits of that a guest may write
    /// (those that are missing: none). Gives the register where it begins.
    ///
    /// # Errors
    ///
    /// If there is no room for it.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, DoesNotFit> {
        let start = self.free;
        let end = start + (2 + body.len()).next_multiple_of(4);
        let register = u8::try_from(start).map_err(|_| NO_ROOM)?;
        if end > CAPABILITIES.end {
            return Err(NO_ROOM);
        }
        let link = self.last_capability.map_or(CAPABILITIES_POINTER, |last| last + 1);
        self.space.set(link, &[register]);
        self.space.set(start, &[id, 0]);
        self.space.set(start + 2, body);
        self.space.allow(start + 2, writable);
        let [status] = self.space.get(STATUS);
        self.space.set(STATUS, &[status | CAPABILITIES_LIST]);
        self.last_capability = Some(start);
        self.free = end;
        Ok(register)
    }

    /// Adds the capability MSI-X for `vectors` messages, 1 to 2048, whose table and pending bits are at these places.
    ///
    /// # Errors
    ///
    /// If there is no room for it, or there cannot be as many.
    pub fn add_msix(&mut self, vectors: u16, table: Place, pending: Place) -> Result<(), DoesNotFit> {
        if !(1..=super::msix::MOST_VECTORS).contains(&vectors) {
            return Err(DoesNotFit("MSI-X has 1 to 2048 vectors"));
        }
        let mut body = Vec::new();
        body.extend((vectors - 1).to_le_bytes());
        body.extend(table.packed().to_le_bytes());
        body.extend(pending.packed().to_le_bytes());
        let register = self.add_capability(MSIX, &body, &MSIX_WRITABLE.to_le_bytes())?;
        self.msix = Some(usize::from(register));
        Ok(())
    }

    /// The memory regions.
    pub fn bars(&self) -> &[Bar] {
        &self.bars
    }

    /// Puts a region to an address, as firmware does; the bits below its size do not count.
    pub fn place_bar(&mut self, bar: Bar, address: u64) {
        let length = 4 * bar.registers().len();
        let placed = address & !(bar.size - 1) | u64::from(bar.kind());
        self.space.set(bar.register(), &placed.to_le_bytes()[..length]);
    }

    /// Lets the function answer at its memory regions and access memory, as firmware does.
    pub fn enable(&mut self) {
        let command = self.command() | Command::MEMORY_SPACE | Command::BUS_MASTER;
        self.space.set(COMMAND, &command.bits().to_le_bytes());
    }

    /// Where the function answers as this region: nowhere while its memory space is disabled.
    pub fn decoded(&self, bar: Bar) -> Option<Range<u64>> {
        let address = match bar.width {
            Width::Bits32 => u64::from(u32::from_le_bytes(self.space.get(bar.register()))),
            Width::Bits64 => u64::from_le_bytes(self.space.get(bar.register())),
        };
        let start = address & !(bar.size - 1);
        // The last region of the address space has no end that could be written, and no use.
        let end = start.checked_add(bar.size)?;
        self.command().contains(Command::MEMORY_SPACE).then_some(start..end)
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits_truncate(u16::from_le_bytes(self.space.get(COMMAND)))
    }

    /// MSI-X's message control register, for [`super::msix::MsiX::set_control`]; zero without MSI-X.
    pub fn msix_control(&self) -> u16 {
        self.msix.map_or(0, |register| u16::from_le_bytes(self.space.get(register + MSIX_CONTROL)))
    }

    /// Shows in the status register whether the function wants to interrupt by its INTx line.
    pub fn show_interrupt(&mut self, wanted: bool) {
        let [status] = self.space.get(STATUS);
        let status = if wanted { status | INTERRUPT_STATUS } else { status & !INTERRUPT_STATUS };
        self.space.set(STATUS, &[status]);
    }

    /// What the registers hold.
    pub fn save(&self) -> State {
        let mut space = self.clone();
        // It follows from the device's own state.
        space.show_interrupt(false);
        State { config: space.space.save() }
    }

    /// Puts back what [`Endpoint::save`] gave.
    ///
    /// # Errors
    ///
    /// If it is another function's; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        self.show_interrupt(false);
        self.space.restore(&state.config, "PCI function")
    }
}

const NO_ROOM: DoesNotFit = DoesNotFit("its capabilities need more than its configuration space");

impl Function for Endpoint {
    fn read_config(&self, register: u16, data: &mut [u8]) {
        self.space.read_config(register, data);
    }

    fn write_config(&mut self, register: u16, data: &[u8]) {
        self.space.write_config(register, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR: Bar = Bar { index: 0, size: 0x8000, width: Width::Bits64 };
    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        class: 0x01_80_00,
        revision: 1,
        subsystem_vendor: 0x1af4,
        subsystem: 2,
    };

    fn endpoint() -> Endpoint {
        let mut endpoint = Endpoint::new(&IDENTITY);
        endpoint.add_bar(BAR).unwrap();
        endpoint
    }

    fn read(endpoint: &Endpoint, register: u16) -> u32 {
        let mut data = [0; 4];
        endpoint.read_config(register, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(endpoint: &mut Endpoint, register: u16, value: u32) {
        endpoint.write_config(register, &value.to_le_bytes());
    }

    #[test]
    fn a_function_shows_who_it_is() {
        let endpoint = endpoint();
        assert_eq!(read(&endpoint, 0x00), 0x1042_1af4);
        assert_eq!(read(&endpoint, 0x08), 0x0180_0001);
        assert_eq!(read(&endpoint, 0x0c), 0, "a type 0 header, one function");
        assert_eq!(read(&endpoint, 0x2c), 0x0002_1af4);
    }

    #[test]
    fn all_ones_written_to_a_region_read_back_as_its_size() {
        let mut endpoint = endpoint();
        endpoint.add_bar(Bar { index: 2, size: 0x1000, width: Width::Bits32 }).unwrap();
        for register in [0x10, 0x14, 0x18, 0x1c] {
            write(&mut endpoint, register, u32::MAX);
        }
        assert_eq!([0x10, 0x14].map(|register| read(&endpoint, register)), [0xffff_8004, u32::MAX]);
        assert_eq!([0x18, 0x1c].map(|register| read(&endpoint, register)), [0xffff_f000, 0]);
    }

    #[test]
    fn a_region_is_where_it_was_put_while_memory_space_is_enabled() {
        let mut endpoint = endpoint();
        endpoint.place_bar(BAR, 0x12_3456_8000);
        assert_eq!(endpoint.decoded(BAR), None);
        endpoint.enable();
        assert_eq!(endpoint.decoded(BAR), Some(0x12_3456_8000..0x12_3457_0000));
        write(&mut endpoint, 0x14, 0);
        write(&mut endpoint, 0x10, 0xc000_0000);
        assert_eq!(endpoint.decoded(BAR), Some(0xc000_0000..0xc000_8000));
        write(&mut endpoint, 0x04, 0);
        assert_eq!(endpoint.decoded(BAR), None);
    }

    #[test]
    fn a_region_at_the_end_of_all_addresses_is_nowhere() {
        let mut endpoint = endpoint();
        endpoint.enable();
        write(&mut endpoint, 0x10, u32::MAX);
        write(&mut endpoint, 0x14, u32::MAX);
        assert_eq!(endpoint.decoded(BAR), None);
    }

    #[test]
    fn regions_that_no_register_can_tell_are_refused() {
        let mut endpoint = endpoint();
        let bar = |index, size, width| Bar { index, size, width };
        for bar in [
            bar(1, 0x1000, Width::Bits32),
            bar(5, 0x1000, Width::Bits64),
            bar(6, 0x1000, Width::Bits32),
            bar(2, 8, Width::Bits32),
            bar(2, 0x1800, Width::Bits32),
            bar(2, 1 << 33, Width::Bits32),
        ] {
            assert!(endpoint.add_bar(bar).is_err(), "{bar:?}");
        }
        endpoint.add_bar(bar(2, 1 << 31, Width::Bits32)).unwrap();
        endpoint.add_bar(bar(4, 1 << 63, Width::Bits64)).unwrap();
    }

    #[test]
    fn capabilities_form_a_list_and_only_their_own_bits_can_be_written() {
        let mut endpoint = endpoint();
        assert_eq!(read(&endpoint, 0x04) >> 16, 0, "no list yet");
        assert_eq!(endpoint.add_capability(9, &[1, 2, 3], &[0, 0xf0]).unwrap(), 0x40);
        endpoint.add_msix(3, Place { bar: 0, offset: 0x4000 }, Place { bar: 0, offset: 0x5000 }).unwrap();
        assert_eq!(read(&endpoint, 0x04) >> 16, 0x10);
        assert_eq!(read(&endpoint, 0x34), 0x40);
        assert_eq!(read(&endpoint, 0x40), 0x0201_4809);
        assert_eq!([0x48, 0x4c, 0x50].map(|at| read(&endpoint, at)), [0x0002_0011, 0x4000, 0x5000]);
        write(&mut endpoint, 0x40, u32::MAX);
        assert_eq!(read(&endpoint, 0x40), 0xf201_4809);
        write(&mut endpoint, 0x48, u32::MAX);
        assert_eq!((read(&endpoint, 0x48), endpoint.msix_control()), (0xc002_0011, 0xc002));
    }

    #[test]
    fn capabilities_beyond_the_space_are_refused() {
        let mut endpoint = endpoint();
        endpoint.add_capability(9, &[0; 0xb6], &[]).unwrap();
        assert!(endpoint.add_capability(9, &[0; 8], &[]).is_err());
        assert_eq!(endpoint.add_capability(9, &[0; 6], &[]), Ok(0xf8));
        assert!(endpoint.add_capability(9, &[], &[]).is_err());
        let place = Place { bar: 0, offset: 0 };
        assert!(self::endpoint().add_msix(0, place, place).is_err());
        assert!(self::endpoint().add_msix(2049, place, place).is_err());
    }

    #[test]
    fn the_status_register_shows_a_wanted_interrupt() {
        let mut endpoint = endpoint();
        endpoint.add_interrupt_pin();
        assert_eq!(read(&endpoint, 0x3c), 0x100);
        endpoint.show_interrupt(true);
        write(&mut endpoint, 0x04, u32::MAX);
        assert_eq!(read(&endpoint, 0x04) >> 16, 8);
        assert!(endpoint.command().contains(Command::INTERRUPT_DISABLE));
        endpoint.show_interrupt(false);
        assert_eq!(read(&endpoint, 0x04) >> 16, 0);
    }

    #[test]
    fn a_saved_state_goes_on_elsewhere_and_another_functions_is_refused() {
        let mut endpoint = endpoint();
        endpoint.place_bar(BAR, 0xc000_0000);
        endpoint.enable();
        endpoint.show_interrupt(true);
        let state = endpoint.save();
        let mut copy = self::endpoint();
        copy.restore(&state).unwrap();
        assert_eq!(copy.decoded(BAR), Some(0xc000_0000..0xc000_8000));
        let mut other = Endpoint::new(&Identity { device: 0x1044, ..IDENTITY });
        assert!(other.restore(&state).is_err());
    }
}
