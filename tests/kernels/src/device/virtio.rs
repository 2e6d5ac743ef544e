//! The first device on the PCI bus, a virtio device (virtio 1.2, section 4.1): its registers where firmware leaves them, and
//! queues of one buffer.

use iced_x86::code_asm::*;

use crate::guest::Emit;
use crate::long::Long;
use tern_chipset::layout::{PCI_MEMORY_32, port};

/// Where the device's memory region is.
pub const REGION: u32 = PCI_MEMORY_32[0].start as u32;
/// In it: the doorbell of queue 0, and MSI-X's table.
pub const DOORBELL: u32 = 0x3000;
/// MSI-X's table.
pub const TABLE: u32 = 0x4000;

/// Register: which half of the driver's features is written.
pub const DRIVER_FEATURE_SELECT: u32 = 0x08;
/// Register: the driver's features.
pub const DRIVER_FEATURE: u32 = 0x0c;
/// Register: the vector for changes of the configuration.
pub const CONFIG_MSIX_VECTOR: u32 = 0x10;
/// Register: the device's status.
pub const DEVICE_STATUS: u32 = 0x14;
/// Register: which queue is set up.
pub const QUEUE_SELECT: u32 = 0x16;
/// Register: its size.
pub const QUEUE_SIZE: u32 = 0x18;
/// Register: its vector.
pub const QUEUE_MSIX_VECTOR: u32 = 0x1a;
/// Register: it is enabled.
pub const QUEUE_ENABLE: u32 = 0x1c;
/// Register: its descriptors.
pub const QUEUE_DESC: u32 = 0x20;
/// Register: its available ring.
pub const QUEUE_DRIVER: u32 = 0x28;
/// Register: its used ring.
pub const QUEUE_DEVICE: u32 = 0x30;

/// Status: the driver has found the device, and can drive it.
pub const DRIVER: u8 = 3;
/// Status: features are agreed on, too.
pub const FEATURES_OK: u8 = 0xb;
/// Status: the driver is ready, too.
pub const DRIVER_OK: u8 = 0xf;
/// Status: the device cannot go on.
pub const NEEDS_RESET: u8 = 0x40;

/// The feature that every driver takes, VIRTIO_F_VERSION_1, in the high half; and tables of descriptors, in the low one.
pub const VERSION_1: u32 = 1;
/// VIRTIO_F_INDIRECT_DESC.
pub const INDIRECT_DESC: u32 = 1 << 28;

/// Turns of a loop that waits for a device. It may have to wait for a thread of the host.
const PATIENCE: u32 = 200_000_000;

/// Writes a byte of the region. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write_byte(g: &mut Long, offset: u32, value: u8) -> Emit {
    g.mov(eax, REGION + offset)?;
    g.mov(byte_ptr(rax), u32::from(value))
}

/// Writes two bytes of the region. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write_word(g: &mut Long, offset: u32, value: u16) -> Emit {
    g.mov(eax, REGION + offset)?;
    g.mov(word_ptr(rax), u32::from(value))
}

/// Writes four bytes of the region. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write(g: &mut Long, offset: u32, value: u32) -> Emit {
    g.mov(eax, REGION + offset)?;
    g.mov(dword_ptr(rax), value)
}

/// Writes a register of eight bytes in its two halves. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write_address(g: &mut Long, offset: u32, value: u64) -> Emit {
    write(g, offset, value as u32)?;
    write(g, offset + 4, (value >> 32) as u32)
}

/// Reads the device's status into RAX.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn read_status(g: &mut Long) -> Emit {
    g.mov(eax, REGION + DEVICE_STATUS)?;
    g.movzx(eax, byte_ptr(rax))
}

/// Waits, though not for ever, until the status is zero. RAX and RCX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn reset(g: &mut Long) -> Emit {
    write_byte(g, DEVICE_STATUS, 0)?;
    wait(g, |g| {
        read_status(g)?;
        g.xor(eax, 0xff)?;
        g.cmp(eax, 0xff)?;
        g.sete(al)?;
        g.movzx(eax, al)
    })
}

/// Waits, though not for ever, until a bit of the status is set. RAX and RCX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn wait_status(g: &mut Long, bit: u8) -> Emit {
    wait(g, |g| {
        read_status(g)?;
        g.and(eax, i32::from(bit))
    })
}

/// Waits, though not for ever, until the used ring at this address has another count than zero. RAX and RCX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn wait_used(g: &mut Long, ring: u64) -> Emit {
    wait(g, |g| {
        g.mov(rax, ring + 2)?;
        g.movzx(eax, word_ptr(rax))
    })
}

/// Repeats `look` until it leaves something else than zero in RAX.
fn wait(g: &mut Long, look: impl FnOnce(&mut Long) -> Emit) -> Emit {
    let (mut again, mut done) = (g.create_label(), g.create_label());
    g.mov(ecx, PATIENCE)?;
    g.place(&mut again)?;
    look(g)?;
    g.test(eax, eax)?;
    g.jnz(done)?;
    g.pause()?;
    g.dec(ecx)?;
    g.jnz(again)?;
    g.place(&mut done)
}

/// Resets the device and agrees with it on virtio 1 and these features of the low half. RAX and RCX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn negotiate(g: &mut Long, features: u32) -> Emit {
    reset(g)?;
    agree(g, features)
}

/// As [`negotiate`], with a device that nobody has used since it was reset. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn agree(g: &mut Long, features: u32) -> Emit {
    write_byte(g, DEVICE_STATUS, 1)?;
    write_byte(g, DEVICE_STATUS, DRIVER)?;
    for (select, half) in [(0, features), (1, VERSION_1)] {
        write(g, DRIVER_FEATURE_SELECT, select)?;
        write(g, DRIVER_FEATURE, half)?;
    }
    write_byte(g, DEVICE_STATUS, FEATURES_OK)
}

/// A queue's place.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Entries.
    pub size: u16,
    /// The descriptors.
    pub descriptors: u64,
    /// The available ring.
    pub driver: u64,
    /// The used ring.
    pub device: u64,
}

/// Where a queue's doorbell is.
#[must_use]
pub fn doorbell(index: u16) -> u32 {
    DOORBELL + u32::from(index) * 4
}

/// Sets queue 0 up and enables it. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn enable(g: &mut Long, queue: Queue) -> Emit {
    enable_at(g, 0, queue)
}

/// Sets the queue of this number up and enables it. RAX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn enable_at(g: &mut Long, index: u16, queue: Queue) -> Emit {
    write_word(g, QUEUE_SELECT, index)?;
    write_word(g, QUEUE_SIZE, queue.size)?;
    write_address(g, QUEUE_DESC, queue.descriptors)?;
    write_address(g, QUEUE_DRIVER, queue.driver)?;
    write_address(g, QUEUE_DEVICE, queue.device)?;
    write_word(g, QUEUE_ENABLE, 1)
}

/// Writes a word of the device's configuration space. RAX and RDX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn write_config_word(g: &mut Long, register: u8, value: u16) -> Emit {
    select_config(g, register)?;
    g.mov(edx, u32::from(port::PCI_CONFIG_DATA.start) + u32::from(register & 3))?;
    g.mov(eax, u32::from(value))?;
    g.out(dx, ax)
}

/// Reads four bytes of the device's configuration space into RAX. RDX is lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn read_config(g: &mut Long, register: u8) -> Emit {
    select_config(g, register)?;
    g.mov(edx, u32::from(port::PCI_CONFIG_DATA.start))?;
    g.in_(eax, dx)
}

fn select_config(g: &mut Long, register: u8) -> Emit {
    const ENABLED: u32 = 1 << 31;
    const DEVICE_1: u32 = 1 << 11;
    g.mov(edx, u32::from(port::PCI_CONFIG_ADDRESS))?;
    g.mov(eax, ENABLED | DEVICE_1 | u32::from(register & !3))?;
    g.out(dx, eax)
}
