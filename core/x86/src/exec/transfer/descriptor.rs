//! Descriptors in the GDT, LDT and IDT (APM volume 2, section 4.7 and 4.8).

use crate::cpu::Cpu;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};
use crate::state::{Attributes, Segment};

/// The types of system descriptors. In long mode only those marked with a star exist, as 64-bit ones.
pub(crate) mod kind {
    /// Available 16-bit TSS.
    pub(crate) const TSS16: u8 = 0x1;
    /// LDT *.
    pub(crate) const LDT: u8 = 0x2;
    /// Busy 16-bit TSS.
    pub(crate) const TSS16_BUSY: u8 = 0x3;
    /// 16-bit call gate.
    pub(crate) const CALL_GATE16: u8 = 0x4;
    /// Task gate.
    pub(crate) const TASK_GATE: u8 = 0x5;
    /// 16-bit interrupt gate.
    pub(crate) const INTERRUPT_GATE16: u8 = 0x6;
    /// 16-bit trap gate.
    pub(crate) const TRAP_GATE16: u8 = 0x7;
    /// Available TSS *.
    pub(crate) const TSS: u8 = 0x9;
    /// Busy TSS *.
    pub(crate) const TSS_BUSY: u8 = 0xb;
    /// Call gate *.
    pub(crate) const CALL_GATE: u8 = 0xc;
    /// Interrupt gate *.
    pub(crate) const INTERRUPT_GATE: u8 = 0xe;
    /// Trap gate *.
    pub(crate) const TRAP_GATE: u8 = 0xf;
    /// In a TSS descriptor's type: it is busy.
    pub(crate) const BUSY_BIT: u8 = 0x2;
}

/// Whether a selector is a null selector, whatever its RPL.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// The requested privilege level of a selector.
pub(crate) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// An exception whose error code names a selector. `ext` is 1 during the delivery of an event from outside the program.
pub(crate) const fn selector_fault(vector: Vector, selector: u16, ext: u32) -> Exception {
    Exception::with_code(vector, (selector & 0xfffc) as u32 | ext)
}

/// In the second half of a 16-byte descriptor: where descriptors of 8 bytes have their type.
const EXTENDED_TYPE: u64 = 0x1f << 40;

/// A descriptor as read from memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    low: u64,
    /// The second half of a 16-byte descriptor.
    high: u64,
    address: u64,
}

impl Descriptor {
    /// A descriptor from its two halves, read at `address`.
    pub(crate) const fn new(low: u64, high: u64, address: u64) -> Self {
        Self { low, high, address }
    }

    /// Reads the descriptor that a selector names; `None` if it lies outside its table. In long mode system descriptors
    /// are read in full; one whose second half lies outside the table is outside, and so is one whose second half has a type and
    /// could be taken for a descriptor itself (APM volume 2, section 4.8.3).
    ///
    /// # Errors
    /// #PF.
    pub(crate) fn find<E: Environment>(p: &mut Processor<E>, selector: u16) -> Result<Option<Self>, Stop> {
        let Some(address) = locate(&p.cpu, selector, 8) else { return Ok(None) };
        let low = p.env.load_system::<u64>(&mut p.cpu, address)?;
        let mut descriptor = Self::new(low, 0, address);
        if p.cpu.long_mode() && descriptor.is_system() {
            if locate(&p.cpu, selector, 16).is_none() {
                return Ok(None);
            }
            descriptor.high = p.env.load_system::<u64>(&mut p.cpu, address.wrapping_add(8))?;
            if descriptor.high & EXTENDED_TYPE != 0 {
                return Ok(None);
            }
        }
        Ok(Some(descriptor))
    }

    /// As [`Descriptor::find`] for a selector that must name one.
    ///
    /// # Errors
    /// The exception `vector` with the selector if it lies outside its table; #PF.
    pub(crate) fn load<E: Environment>(
        p: &mut Processor<E>,
        selector: u16,
        vector: Vector,
        ext: u32,
    ) -> Result<Self, Stop> {
        let found = Self::find(p, selector)?;
        found.ok_or_else(|| p.cpu.raise(selector_fault(vector, selector, ext)))
    }

    /// The attributes.
    pub(crate) const fn attributes(self) -> Attributes {
        Attributes::from_bits_retain((self.low >> 40 & 0xff | self.low >> 44 & 0xf00) as u16)
    }

    /// The privilege level.
    pub(crate) const fn dpl(self) -> u8 {
        self.attributes().dpl()
    }

    /// Whether the present bit is set.
    pub(crate) const fn present(self) -> bool {
        self.attributes().contains(Attributes::PRESENT)
    }

    /// A system descriptor: neither code nor data.
    pub(crate) const fn is_system(self) -> bool {
        !self.attributes().contains(Attributes::USER)
    }

    /// The type of a system descriptor, see [`kind`].
    pub(crate) const fn system_kind(self) -> Option<u8> {
        if self.is_system() { Some(self.attributes().kind()) } else { None }
    }

    /// A code segment.
    pub(crate) const fn is_code(self) -> bool {
        self.attributes().contains(Attributes::USER.union(Attributes::CODE))
    }

    /// A conforming code segment.
    pub(crate) const fn is_conforming_code(self) -> bool {
        self.is_code() && self.attributes().contains(Attributes::EXPAND_DOWN_OR_CONFORMING)
    }

    /// A data segment that may be written.
    pub(crate) const fn is_writable_data(self) -> bool {
        let a = self.attributes();
        a.contains(Attributes::USER.union(Attributes::WRITABLE_OR_READABLE)) && !a.contains(Attributes::CODE)
    }

    /// A data segment, or a code segment that may be read.
    pub(crate) const fn is_readable(self) -> bool {
        let a = self.attributes();
        a.contains(Attributes::USER)
            && (!a.contains(Attributes::CODE) || a.contains(Attributes::WRITABLE_OR_READABLE))
    }

    /// The limit in bytes.
    pub(crate) const fn limit(self) -> u32 {
        let raw = (self.low & 0xffff | self.low >> 32 & 0xf_0000) as u32;
        if self.attributes().contains(Attributes::GRANULARITY) { raw << 12 | 0xfff } else { raw }
    }

    /// The base; 64 bits wide for the system descriptors of long mode.
    pub(crate) const fn base(self) -> u64 {
        self.low >> 16 & 0xff_ffff | self.low >> 56 << 24 | self.high << 32
    }

    /// The segment that a register holds after loading this descriptor.
    pub(crate) fn segment(self, selector: u16) -> Segment {
        let mut attributes = self.attributes();
        if !self.is_system() {
            attributes |= Attributes::ACCESSED;
        }
        Segment { selector, attributes, limit: self.limit(), base: self.base() }
    }

    /// The attributes as LAR shows them: bits 23:8 of the descriptor's second doubleword.
    pub(crate) const fn access_rights(self) -> u32 {
        (self.low >> 32) as u32 & 0x00ff_ff00
    }

    /// A gate's selector.
    pub(crate) const fn gate_selector(self) -> u16 {
        (self.low >> 16) as u16
    }

    /// A gate's offset: 16, 32 or 64 bits by its type.
    pub(crate) const fn gate_offset(self) -> u64 {
        let offset = self.low & 0xffff;
        if self.attributes().kind() & 8 == 0 {
            offset
        } else {
            offset | self.low >> 32 & 0xffff_0000 | self.high << 32
        }
    }

    /// A call gate's parameter count.
    pub(crate) const fn gate_parameters(self) -> u8 {
        (self.low >> 32 & 0x1f) as u8
    }

    /// A long-mode interrupt gate's stack table index; 0 is none.
    pub(crate) const fn gate_ist(self) -> u8 {
        (self.low >> 32 & 7) as u8
    }

    /// Sets the accessed bit in memory, if it is clear.
    ///
    /// # Errors
    /// #PF.
    pub(crate) fn mark_accessed<E: Environment>(self, p: &mut Processor<E>) -> Result<(), Stop> {
        if self.is_system() || self.attributes().contains(Attributes::ACCESSED) {
            return Ok(());
        }
        self.write_kind(p, self.attributes().kind() | 1)
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    ///
    /// # Errors
    /// #PF.
    pub(crate) fn set_busy<E: Environment>(self, p: &mut Processor<E>, busy: bool) -> Result<(), Stop> {
        let kind = self.attributes().kind() & !kind::BUSY_BIT;
        self.write_kind(p, if busy { kind | kind::BUSY_BIT } else { kind })
    }

    fn write_kind<E: Environment>(self, p: &mut Processor<E>, kind: u8) -> Result<(), Stop> {
        let byte = (self.low >> 40) as u8 & 0xf0 | kind;
        p.env.store_system(&mut p.cpu, self.address.wrapping_add(5), byte)
    }
}

/// The linear address of the `size` bytes of a descriptor, if they lie inside their table.
fn locate(cpu: &Cpu, selector: u16, size: u32) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr.base, u32::from(cpu.gdtr.limit))
    } else if cpu.ldtr.attributes.contains(Attributes::PRESENT) {
        (cpu.ldtr.base, cpu.ldtr.limit)
    } else {
        return None;
    };
    let offset = u32::from(selector & 0xfff8);
    if offset + (size - 1) > limit {
        return None;
    }
    Some(system_address(cpu, base, offset))
}

/// The linear address of a place in a system structure; outside long mode addresses wrap at 4 GiB.
pub(crate) const fn system_address(cpu: &Cpu, base: u64, offset: u32) -> u64 {
    let address = base.wrapping_add(offset as u64);
    if cpu.long_mode() { address } else { address & 0xffff_ffff }
}
