//! The serial port as drivers probe and use it.

use super::*;
use alloc::vec;

const RECEIVE_FIFO: u8 = FCR_ENABLE | FCR_CLEAR_RECEIVER;

fn with_fifos(trigger: u8) -> Uart {
    let mut uart = Uart::new();
    uart.write(IIR_FCR, RECEIVE_FIFO | trigger << 6);
    uart
}

#[test]
fn a_written_byte_is_transmitted_at_once() {
    let mut uart = Uart::new();
    assert_eq!(uart.write(RBR_THR, b'x'), Some(b'x'));
    assert_eq!(uart.read(LSR), 0x60);
}

#[test]
fn received_bytes_are_read_in_order() {
    let mut uart = with_fifos(0);
    assert_eq!(uart.receive(b"abc"), 3);
    assert_eq!(uart.read(LSR), 0x61);
    assert_eq!([(); 3].map(|()| uart.read(RBR_THR)), *b"abc");
    assert_eq!((uart.read(LSR), uart.read(RBR_THR)), (0x60, 0));
}

#[test]
fn no_more_is_accepted_than_there_is_room() {
    let mut uart = Uart::new();
    assert_eq!((uart.room(), uart.receive(b"abc"), uart.room()), (1, 1, 0));
    let mut uart = with_fifos(0);
    assert_eq!(uart.receive(&[7; 20]), 16);
    uart.read(RBR_THR);
    assert_eq!(uart.room(), 1);
    assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0);
}

#[test]
fn the_receiver_interrupts_until_it_is_read() {
    let mut uart = with_fifos(1);
    uart.receive(b"abcd");
    assert!(!uart.interrupt(), "not enabled");
    uart.write(IER, 0x01);
    assert!(uart.interrupt());
    assert_eq!(uart.read(IIR_FCR), 0xc4);
    uart.read(RBR_THR);
    assert_eq!(uart.read(IIR_FCR), 0xcc, "below the trigger level: timeout");
    for _ in 0..3 {
        assert!(uart.interrupt());
        uart.read(RBR_THR);
    }
    assert!(!uart.interrupt());
    assert_eq!(uart.read(IIR_FCR), 0xc1);
}

#[test]
fn the_trigger_levels_are_1_4_8_and_14() {
    for (trigger, level) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
        let mut uart = with_fifos(trigger);
        uart.write(IER, 0x01);
        for count in 1..=16 {
            uart.receive(&[0]);
            let expected = if count < level { 0xcc } else { 0xc4 };
            assert_eq!(uart.read(IIR_FCR), expected, "{count} bytes, level {level}");
        }
    }
}

#[test]
fn the_transmitter_interrupts_when_enabled_and_after_each_byte() {
    // Linux tests both at startup, and calls a port without them buggy.
    let mut uart = Uart::new();
    uart.write(IER, 0x02);
    assert!(uart.interrupt());
    assert_eq!(uart.read(IIR_FCR), 0x02);
    assert_eq!(uart.read(IIR_FCR), 0x01, "reading acknowledged it");
    uart.write(IER, 0x00);
    uart.write(IER, 0x02);
    assert_eq!(uart.read(IIR_FCR), 0x02, "enabling raises it again");
    uart.write(RBR_THR, b'x');
    assert_eq!(uart.read(IIR_FCR), 0x02);
    uart.write(IER, 0x02);
    assert!(!uart.interrupt(), "it was enabled already");
}

#[test]
fn a_more_urgent_interrupt_leaves_the_transmitters_pending() {
    let mut uart = Uart::new();
    uart.write(IER, 0x03);
    uart.receive(b"a");
    assert_eq!(uart.read(IIR_FCR), 0x04);
    uart.read(RBR_THR);
    assert_eq!(uart.read(IIR_FCR), 0x02);
}

#[test]
fn loopback_feeds_the_receiver_and_the_modem_status() {
    let mut uart = with_fifos(0);
    for (outputs, inputs) in [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)] {
        uart.write(MCR, 0x10 | outputs);
        assert_eq!(uart.read(MSR) & 0xf0, inputs);
    }
    // What Linux does to see whether there is a port at all.
    uart.write(MCR, 0x1a);
    assert_eq!(uart.read(MSR) & 0xf0, 0x90);
    assert_eq!(uart.write(RBR_THR, b'x'), None);
    assert_eq!((uart.room(), uart.receive(b"y")), (0, 0));
    assert_eq!(uart.read(RBR_THR), b'x');
    uart.write(MCR, 0x0b);
    assert_eq!(uart.read(MSR) & 0xf0, 0xb0);
}

#[test]
fn changes_of_the_modem_status_interrupt_once() {
    let mut uart = Uart::new();
    uart.write(MCR, 0x10);
    uart.read(MSR);
    uart.write(IER, 0x08);
    assert!(!uart.interrupt());
    uart.write(MCR, 0x1f);
    assert_eq!(uart.read(IIR_FCR), 0x00);
    assert_eq!(uart.read(MSR), 0xfb, "RI rising is no event");
    assert!(!uart.interrupt());
    uart.write(MCR, 0x10);
    assert_eq!(uart.read(MSR), 0x0f, "RI falling is one");
}

#[test]
fn an_overrun_is_a_line_status_until_read() {
    let mut uart = Uart::new();
    uart.write(MCR, 0x10);
    uart.write(IER, 0x04);
    uart.write(RBR_THR, b'a');
    uart.write(RBR_THR, b'b');
    assert_eq!(uart.read(IIR_FCR), 0x06);
    assert_eq!(uart.read(LSR), 0x63);
    assert_eq!(uart.read(LSR), 0x61);
    assert!(!uart.interrupt());
    assert_eq!(uart.read(RBR_THR), b'b');
}

#[test]
fn filling_the_fifo_in_loopback_counts_sixteen() {
    // The size that a driver finds by this test.
    let mut uart = with_fifos(0);
    uart.write(MCR, 0x10);
    for byte in 0..=255 {
        uart.write(RBR_THR, byte);
    }
    let mut count = 0;
    while uart.read(LSR) & LSR_DATA_READY != 0 {
        assert_eq!(uart.read(RBR_THR), count);
        count += 1;
    }
    assert_eq!(count, 16);
}

#[test]
fn it_is_a_16550a_and_nothing_newer() {
    let mut uart = Uart::new();
    uart.write(IER, 0xff);
    assert_eq!(uart.read(IER), 0x0f);
    uart.write(IER, 0);
    uart.write(IIR_FCR, FCR_ENABLE);
    assert_eq!(uart.read(IIR_FCR), 0xc1);
    uart.write(LCR, LCR_DLAB);
    assert_eq!(uart.read(IIR_FCR), 0xc1, "no EFR behind the divisor latch");
    uart.write(IIR_FCR, FCR_ENABLE | 0x20);
    assert_eq!(uart.read(IIR_FCR), 0xc1, "no 64-byte FIFO");
    uart.write(LCR, 0);
    uart.write(IIR_FCR, 0);
    assert_eq!(uart.read(IIR_FCR), 0x01);
    uart.write(SCR, 0x5a);
    assert_eq!(uart.read(SCR), 0x5a);
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let mut uart = Uart::new();
    uart.write(IER, 0x05);
    uart.write(LCR, LCR_DLAB | 0x03);
    assert_eq!(uart.write(RBR_THR, 0x01), None);
    uart.write(IER, 0x02);
    assert_eq!((uart.read(RBR_THR), uart.read(IER)), (0x01, 0x02));
    uart.write(LCR, 0x03);
    assert_eq!((uart.read(IER), uart.read(LCR)), (0x05, 0x03));
    assert_eq!(uart.save().divisor, 0x0201);
}

#[test]
fn switching_or_clearing_the_fifos_drops_what_they_hold() {
    for fcr in [0, RECEIVE_FIFO] {
        let mut uart = with_fifos(0);
        uart.receive(b"abc");
        uart.write(IIR_FCR, FCR_ENABLE | 0xc0);
        assert_eq!(uart.save().received, b"abc");
        uart.write(IIR_FCR, fcr);
        assert_eq!(uart.read(LSR), 0x60);
    }
}

#[test]
fn registers_beyond_the_eighth_read_as_nothing() {
    let mut uart = Uart::new();
    assert_eq!(uart.write(8, 1), None);
    assert_eq!(uart.read(8), 0xff);
    assert_eq!(uart, Uart::new());
}

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut uart = with_fifos(2);
    uart.receive(b"abcdef");
    uart.read(RBR_THR);
    uart.write(IER, 0x0f);
    uart.write(MCR, 0x0b);
    uart.write(SCR, 3);
    let mut copy = Uart::new();
    copy.restore(&uart.save()).unwrap();
    assert_eq!(copy, uart);
    assert_eq!(copy.read(RBR_THR), b'b');
}

#[test]
fn an_impossible_state_is_refused() {
    let good = Uart::new().save();
    let mut uart = Uart::new();
    for (index, damage) in [
        |state: &mut State| state.fcr = 0x40,
        |state: &mut State| state.fcr = 0x09,
        |state: &mut State| state.received = vec![0; 2],
        |state: &mut State| {
            state.fcr = 1;
            state.received = vec![0; 17];
        },
        |state: &mut State| state.ier = Ier::from_bits_retain(0x10),
        |state: &mut State| state.mcr = Mcr::from_bits_retain(0x20),
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = good.clone();
        damage(&mut state);
        assert!(uart.restore(&state).is_err(), "damage {index}");
    }
    assert_eq!(uart, Uart::new());
}
