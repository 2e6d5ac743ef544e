//! A driver of our own for the source of random numbers, which keeps all rules, waiting or polling. Those that do not are in `rules`.

use std::sync::Arc;

use iced_x86::code_asm::*;
use tern_test_kernels::device::virtio::*;
use tern_test_kernels::device::{apic, pic};
use tern_test_kernels::long::*;
use tern_virtio::rng::Rng;
use tern_vmm::config::DeviceConfig;

use super::{WRITE, available, descriptor};

const QUEUE: Queue = Queue { size: 8, descriptors: frame(0), driver: frame(1), device: frame(2) };
/// Where random numbers go.
const NUMBERS: u64 = frame(3);

const VECTOR: u8 = 0x61;

/// Where MSI-X's capability is.
const MSIX: u8 = 0x98;

fn devices() -> Vec<DeviceConfig> {
    vec![DeviceConfig { name: "rng".to_owned(), device: Arc::new(Rng) }]
}

/// The queue with one buffer of 64 bytes.
fn put_buffer(g: &mut Long) {
    g.put(QUEUE.descriptors, &descriptor(NUMBERS, 64, WRITE, 0));
    g.put(QUEUE.driver, &[available(1, [0, 0])]);
}

#[test]
fn a_driver_is_served_and_interrupted_by_a_message() {
    long_with_devices(devices, |g| {
        put_buffer(g);
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
        enable(g, QUEUE)?;
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
        g.expect_memory(QUEUE.device, 0x1_0000)
    });
}

#[test]
fn a_driver_that_polls_needs_no_interrupt() {
    long_with_devices(devices, |g| {
        put_buffer(g);
        negotiate(g, INDIRECT_DESC)?;
        enable(g, QUEUE)?;
        write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
        write_word(g, DOORBELL, 0)?;
        wait_used(g, QUEUE.device)?;
        read_status(g)?;
        g.expect(rax, DRIVER_OK.into())?;
        // Flags, count, head; then how much was written.
        g.expect_memory(QUEUE.device, 0x1_0000)?;
        g.mov(rax, QUEUE.device + 8)?;
        g.mov(eax, dword_ptr(rax))?;
        g.expect(rax, 64)?;
        g.mov(rax, NUMBERS)?;
        g.mov(rbx, qword_ptr(rax))?;
        g.or(rbx, qword_ptr(rax + 8))?;
        g.expect_such(rbx, |numbers| numbers != 0)
    });
}
