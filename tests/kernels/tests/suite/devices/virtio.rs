//! A driver of our own for the source of random numbers, which keeps all rules or breaks one. All devices have the same registers; what
//! they do with what is in their queues is in `rules.rs`.

use std::sync::Arc;

use iced_x86::code_asm::*;
use tern_test_kernels::device::virtio::*;
use tern_test_kernels::device::{apic, pic};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;
use tern_virtio::rng::Rng;
use tern_vmm::config::DeviceConfig;

use super::{NEXT, WRITE, available, descriptor};

/// The good queue, and the one that a test spoils.
const GOOD: Queue = Queue { size: 8, descriptors: frame(4), driver: frame(5), device: frame(6) };
const SPOILT: Queue = Queue { size: 8, descriptors: frame(0), driver: frame(1), device: frame(2) };
/// Where random numbers go.
const NUMBERS: u64 = frame(7);
/// Where a table of descriptors may be.
const TABLE_FRAME: u64 = frame(3);

/// A descriptor of a table of descriptors.
const INDIRECT: u64 = 4;

const VECTOR: u8 = 0x61;

/// Where MSI-X's capability is.
const MSIX: u8 = 0x98;

fn devices() -> Vec<DeviceConfig> {
    vec![DeviceConfig { name: "rng".to_owned(), device: Arc::new(Rng) }]
}

/// The good queue with one buffer of 64 bytes.
fn put_good(g: &mut Long) {
    g.put(GOOD.descriptors, &descriptor(NUMBERS, 64, WRITE, 0));
    g.put(GOOD.driver, &[available(1, [0, 0])]);
}

/// Has the good queue's buffer filled, and reports that it was.
fn expect_numbers(g: &mut Long) -> Emit {
    negotiate(g, INDIRECT_DESC)?;
    enable(g, GOOD)?;
    write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
    write_word(g, DOORBELL, 0)?;
    wait_used(g, GOOD.device)?;
    read_status(g)?;
    g.expect(rax, DRIVER_OK.into())?;
    // Flags, count, head; then how much was written.
    g.expect_memory(GOOD.device, 0x1_0000)?;
    g.mov(rax, GOOD.device + 8)?;
    g.mov(eax, dword_ptr(rax))?;
    g.expect(rax, 64)?;
    g.mov(rax, NUMBERS)?;
    g.mov(rbx, qword_ptr(rax))?;
    g.or(rbx, qword_ptr(rax + 8))?;
    g.expect_such(rbx, |numbers| numbers != 0)
}

#[test]
fn a_driver_is_served_and_interrupted_by_a_message() {
    long_with_devices(devices, |g| {
        put_good(g);
        g.handler(VECTOR, |g| {
            g.inc(r8)?;
            apic::end_of_interrupt(g)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        pic::initialize(g, 0)?;
        apic::enable(g)?;
        read_config(g, MSIX)?;
        g.and(eax, 0xff)?;
        g.expect(rax, 0x11)?;
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, u32::from(VECTOR)), (12, 0)] {
            write(g, TABLE + offset, value)?;
        }
        write_config_word(g, MSIX + 2, 1 << 15)?;
        negotiate(g, 0)?;
        enable(g, GOOD)?;
        write_word(g, QUEUE_MSIX_VECTOR, 0)?;
        write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
        write_word(g, DOORBELL, 0)?;
        let (mut again, mut over) = (g.create_label(), g.create_label());
        g.place(&mut again)?;
        g.cli()?;
        g.test(r8, r8)?;
        g.jnz(over)?;
        g.sti()?;
        g.hlt()?;
        g.jmp(again)?;
        g.place(&mut over)?;
        g.expect(r8, 1)?;
        g.expect_memory(GOOD.device, 0x1_0000)
    });
}

#[test]
fn a_driver_that_polls_needs_no_interrupt() {
    long_with_devices(devices, |g| {
        put_good(g);
        expect_numbers(g)
    });
}

/// A queue that is spoilt in this way, with its buffer made available, must end in NEEDS_RESET; after a reset the device must
/// work as if nothing had been.
fn breaks(spoil: impl FnOnce(&mut Long)) {
    long_with_devices(devices, |g| {
        put_good(g);
        g.put(SPOILT.driver, &[available(1, [0, 0])]);
        spoil(g);
        negotiate(g, INDIRECT_DESC)?;
        enable(g, SPOILT)?;
        write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
        write_word(g, DOORBELL, 0)?;
        wait_status(g, NEEDS_RESET)?;
        read_status(g)?;
        g.expect(rax, (DRIVER_OK | NEEDS_RESET).into())?;
        // It is done with this driver.
        write_word(g, DOORBELL, 0)?;
        g.spin(10_000)?;
        g.mov(rax, SPOILT.device + 2)?;
        g.movzx(eax, word_ptr(rax))?;
        g.expect(rax, 0)?;
        expect_numbers(g)
    });
}

/// As [`breaks`], for a descriptor.
fn descriptor_breaks(first: [u64; 2]) {
    breaks(|g| g.put(SPOILT.descriptors, &first));
}

#[test]
fn a_buffer_outside_of_memory_breaks_the_rules() {
    descriptor_breaks(descriptor(0x8000_0000, 64, WRITE, 0));
    descriptor_breaks(descriptor(u64::MAX - 8, 64, WRITE, 0));
    // Its first byte is memory, the last is not.
    descriptor_breaks(descriptor(0xff_ffff, 2, WRITE, 0));
    descriptor_breaks(descriptor(0x40_0000, u32::MAX, WRITE, 0));
}

#[test]
fn the_devices_own_registers_are_no_memory_either() {
    descriptor_breaks(descriptor(u64::from(REGION), 64, WRITE, 0));
}

#[test]
fn a_buffer_without_bytes_breaks_the_rules() {
    descriptor_breaks(descriptor(NUMBERS, 0, WRITE, 0));
}

#[test]
fn a_circle_of_descriptors_breaks_the_rules() {
    descriptor_breaks(descriptor(NUMBERS, 1, WRITE | NEXT, 0));
    breaks(|g| {
        let all: Vec<_> =
            (0..8).flat_map(|index| descriptor(NUMBERS, 1, WRITE | NEXT, (index + 1) % 8)).collect();
        g.put(SPOILT.descriptors, &all);
    });
}

#[test]
fn a_descriptor_that_does_not_exist_breaks_the_rules() {
    descriptor_breaks(descriptor(NUMBERS, 1, WRITE | NEXT, 8));
    breaks(|g| g.put(SPOILT.driver, &[available(1, [8, 0])]));
}

#[test]
fn a_buffer_to_read_behind_one_to_write_breaks_the_rules() {
    breaks(|g| {
        let both = [descriptor(NUMBERS, 1, WRITE | NEXT, 1), descriptor(NUMBERS, 1, 0, 0)];
        g.put(SPOILT.descriptors, both.as_flattened());
    });
}

#[test]
fn a_table_of_descriptors_of_the_wrong_size_or_in_the_wrong_place_breaks_the_rules() {
    for length in [0, 15, 24, 0xffff_fff0] {
        descriptor_breaks(descriptor(TABLE_FRAME, length, INDIRECT, 0));
    }
    descriptor_breaks(descriptor(TABLE_FRAME, 16, INDIRECT | NEXT, 1));
    descriptor_breaks(descriptor(0x8000_0000, 16, INDIRECT, 0));
    breaks(|g| {
        g.put(SPOILT.descriptors, &descriptor(TABLE_FRAME, 16, INDIRECT, 0));
        g.put(TABLE_FRAME, &descriptor(TABLE_FRAME, 16, INDIRECT, 0));
    });
}

#[test]
fn more_buffers_than_entries_break_the_rules() {
    breaks(|g| g.put(SPOILT.driver, &[available(9, [0, 0])]));
    breaks(|g| g.put(SPOILT.driver, &[available(0x8000, [0, 0])]));
}

#[test]
fn what_the_device_cannot_use_breaks_its_own_rules() {
    // Nothing is read for random numbers.
    descriptor_breaks(descriptor(NUMBERS, 64, 0, 0));
}

/// A queue that cannot be must end in NEEDS_RESET when it is enabled.
fn queue_breaks(queue: Queue) {
    long_with_devices(devices, |g| {
        put_good(g);
        negotiate(g, INDIRECT_DESC)?;
        enable(g, queue)?;
        read_status(g)?;
        g.expect(rax, (FEATURES_OK | NEEDS_RESET).into())?;
        expect_numbers(g)
    });
}

#[test]
fn a_queue_that_cannot_be_breaks_the_rules() {
    for size in [0, 3, 128, u16::MAX] {
        queue_breaks(Queue { size, ..SPOILT });
    }
    for address in [0, 0x8000_0000, !0xfff, u64::from(REGION)] {
        queue_breaks(Queue { descriptors: address, ..SPOILT });
        queue_breaks(Queue { driver: address, ..SPOILT });
        queue_breaks(Queue { device: address, ..SPOILT });
    }
    queue_breaks(Queue { descriptors: SPOILT.descriptors + 8, ..SPOILT });
    queue_breaks(Queue { driver: SPOILT.driver + 1, ..SPOILT });
    queue_breaks(Queue { device: SPOILT.device + 2, ..SPOILT });
}

#[test]
fn a_driver_that_skips_a_step_or_goes_back_breaks_the_rules() {
    let status = |statuses: &'static [u8], seen: u8| {
        long_with_devices(devices, |g| {
            put_good(g);
            reset(g)?;
            for value in statuses {
                write_byte(g, DEVICE_STATUS, *value)?;
            }
            read_status(g)?;
            g.expect(rax, seen.into())?;
            expect_numbers(g)
        });
    };
    // Ready before anything was agreed on.
    status(&[1, 3, 7], 3 | NEEDS_RESET);
    // Back without a reset.
    status(&[1, 3, 1], 3 | NEEDS_RESET);
    // Without VIRTIO_F_VERSION_1 the device does not agree.
    status(&[1, 3, 0xb], 3);
    status(&[1, 3, 0xb, 0xf], 3 | NEEDS_RESET);
}
