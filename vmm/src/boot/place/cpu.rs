//! The states in which the protocols start the boot processor.
//!
//! Interrupts are off in all of them; the A20 gate does not exist on this machine. What a protocol leaves undefined
//! is as after reset, but for the caches, which are on.

pub(super) use tern_x86::cpu::word::{RAX, RBX, RDX, RSI, RSP};
use tern_x86::state::{Attributes, Cr0, Cr4, DescriptorTable, Efer, Segment, SegmentRegister, VcpuState};

/// `__BOOT_CS` and `__BOOT_DS` of the Linux protocol.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
/// A descriptor's attributes, as [`Attributes`] packs them: 4 KiB granularity, present, privilege level 0, accessed.
const CODE_32: Attributes = Attributes::from_bits_retain(0xc9b);
const CODE_64: Attributes = Attributes::from_bits_retain(0xa9b);
const DATA_32: Attributes = Attributes::from_bits_retain(0xc93);
const TSS_BUSY: Attributes = Attributes::from_bits_retain(0x08b);
/// The smallest TSS.
const TSS_LIMIT: u32 = 0x67;

/// The descriptors behind [`long_mode`]'s selectors.
pub(super) const GDT: [u64; 4] = [0, 0, descriptor(CODE_64), descriptor(DATA_32)];

/// A flat descriptor: base 0, limit 4 GiB.
const fn descriptor(attributes: Attributes) -> u64 {
    let attributes = attributes.bits() as u64;
    0xffff | 0xf << 48 | (attributes & 0xff) << 40 | (attributes >> 8) << 52
}

fn flat(entry: u32, code: Attributes) -> VcpuState {
    let mut state = VcpuState::reset();
    state.segments = [Segment::flat(BOOT_DS, DATA_32); 6];
    state.segments[SegmentRegister::Cs as usize] = Segment::flat(BOOT_CS, code);
    state.tr = Segment { selector: 0, attributes: TSS_BUSY, limit: TSS_LIMIT, base: 0 };
    state.rip = entry.into();
    state
}

/// 32-bit protected mode without paging, flat segments: PVH and multiboot.
pub(super) fn protected_mode(entry: u32) -> VcpuState {
    let mut state = flat(entry, CODE_32);
    state.cr0 = Cr0::PE | Cr0::ET;
    state.gdtr = DescriptorTable::default();
    state.idtr = DescriptorTable::default();
    state
}

/// 64-bit mode with the page tables at `cr3` and [`GDT`] at `gdt`.
pub(super) fn long_mode(entry: u32, cr3: u32, gdt: u32) -> VcpuState {
    let mut state = flat(entry, CODE_64);
    state.cr0 = Cr0::PE | Cr0::PG | Cr0::ET;
    state.cr3 = cr3.into();
    state.cr4 = Cr4::PAE;
    state.efer = Efer::LME | Efer::LMA;
    state.gdtr = DescriptorTable { base: gdt.into(), limit: size_of_val(&GDT) as u16 - 1 };
    state.idtr = DescriptorTable::default();
    state
}

/// Real mode at 0000:`ip`, the stack below the code.
pub(super) fn real_mode(ip: u16) -> VcpuState {
    let mut state = VcpuState::reset();
    state.segments = [Segment::real_mode(0); 6];
    state.segments[SegmentRegister::Cs as usize].attributes = Attributes::from_bits_retain(0x9b);
    state.cr0 = Cr0::ET;
    state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
    state.rip = ip.into();
    state.gpr[RSP] = ip.into();
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_processors_format() {
        assert_eq!(GDT[2..], [0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    }
}
