//! The host bridge as operating systems find it.

use super::*;
use alloc::boxed::Box;

fn read_port(bridge: &mut HostBridge, address: u32, offset: u16) -> u32 {
    bridge.write_port(0, &address.to_le_bytes());
    let mut data = [0; 4];
    bridge.read_port(offset, &mut data);
    u32::from_le_bytes(data)
}

fn read_ecam(bridge: &HostBridge, offset: u64) -> u32 {
    let mut data = [0; 4];
    bridge.read_ecam(offset, &mut data);
    u32::from_le_bytes(data)
}

fn with_function(address: Address) -> HostBridge {
    let mut bridge = HostBridge::new();
    let function = ConfigSpace::new(0x1234, 0x5678, 0x02_00_00);
    bridge.attach(address, Box::new(function)).unwrap();
    bridge
}

#[test]
fn the_host_bridge_is_found_both_ways() {
    let mut bridge = HostBridge::new();
    assert_eq!(read_port(&mut bridge, 0x8000_0000, 4), 0x0008_1b36);
    assert_eq!(read_port(&mut bridge, 0x8000_0008, 4), 0x0600_0000);
    assert_eq!(read_ecam(&bridge, 0x00), 0x0008_1b36);
    assert_eq!(read_ecam(&bridge, 0x08), 0x0600_0000);
}

#[test]
fn the_configuration_address_reads_back_as_probes_expect() {
    let mut bridge = HostBridge::new();
    bridge.write_port(3, &[1]);
    bridge.write_port(0, &0x8000_0000u32.to_le_bytes());
    let mut data = [0; 4];
    bridge.read_port(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0000);
    bridge.write_port(0, &u32::MAX.to_le_bytes());
    bridge.read_port(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x80ff_fffc);
    let mut byte = [0];
    bridge.read_port(0, &mut byte);
    assert_eq!(byte, [0xff], "only whole");
}

#[test]
fn the_absent_read_as_ones() {
    let mut bridge = HostBridge::new();
    assert_eq!(read_port(&mut bridge, 0x8000_0800, 4), u32::MAX);
    assert_eq!(read_port(&mut bridge, 0x0000_0000, 4), u32::MAX, "not enabled");
    assert_eq!(read_ecam(&bridge, 0x8000), u32::MAX);
    assert_eq!(read_ecam(&bridge, 0x100), u32::MAX, "no extended space");
    assert_eq!(read_ecam(&bridge, 1 << 28), u32::MAX);
    assert_eq!(read_ecam(&bridge, 1 << 36), u32::MAX);
    bridge.write_ecam(0x8000, &[0; 4]);
}

#[test]
fn a_function_answers_at_its_address_and_nowhere_else() {
    let address = Address::new(2, 3, 1).unwrap();
    let mut bridge = with_function(address);
    assert_eq!(read_port(&mut bridge, 0x8002_1900, 4), 0x5678_1234);
    assert_eq!(read_ecam(&bridge, 0x0021_9000), 0x5678_1234);
    assert_eq!(read_ecam(&bridge, 0x0021_8000), u32::MAX);
    assert_eq!(read_ecam(&bridge, 0x1021_9000), u32::MAX);
    let mut word = [0; 2];
    bridge.read_port(6, &mut word);
    assert_eq!(word, [0x78, 0x56]);
    bridge.read_ecam(0x0021_9002, &mut word);
    assert_eq!(word, [0x78, 0x56]);
    let mut eight = [0; 8];
    bridge.read_ecam(0x0021_9008, &mut eight);
    assert_eq!(eight, [0, 0, 0, 2, 0, 0, 0, 0]);
}

#[test]
fn only_writable_bits_are_written() {
    let mut bridge = HostBridge::new();
    bridge.write_ecam(0, &[0; 4]);
    bridge.write_ecam(4, &[0xff; 4]);
    assert_eq!(read_ecam(&bridge, 0), 0x0008_1b36);
    assert_eq!(read_ecam(&bridge, 4), 0x0000_0547);
    bridge.write_port(0, &0x8000_003cu32.to_le_bytes());
    bridge.write_port(4, &[0x0b]);
    assert_eq!(read_ecam(&bridge, 0x3c), 0x0b);
}

#[test]
fn an_access_across_four_bytes_is_none() {
    let mut bridge = HostBridge::new();
    let mut data = [0; 4];
    bridge.read_ecam(2, &mut data);
    assert_eq!(data, [0xff; 4]);
    bridge.write_ecam(6, &[0xff; 4]);
    bridge.write_ecam(0xffe, &[0xff; 4]);
    assert_eq!(read_ecam(&bridge, 4), 0);
}

#[test]
fn a_place_is_given_once() {
    let address = Address::new(0, 1, 0).unwrap();
    let mut bridge = with_function(address);
    for taken in [address, Address::HOST_BRIDGE] {
        let another = Box::new(ConfigSpace::new(1, 2, 3));
        assert_eq!(bridge.attach(taken, another), Err(Occupied(taken)));
    }
    assert_eq!(Address::new(0, 32, 0), None);
    assert_eq!(Address::new(0, 0, 8), None);
    assert_eq!(alloc::format!("{}", Address::new(0x1f, 0x1e, 7).unwrap()), "1f:1e.7");
}

#[test]
fn a_saved_state_behaves_like_the_original_and_a_made_up_one_is_refused() {
    let mut bridge = HostBridge::new();
    bridge.write_ecam(4, &[7, 0]);
    bridge.write_port(0, &0x8000_0004u32.to_le_bytes());
    let good = bridge.save();
    let mut copy = HostBridge::new();
    copy.restore(&good).unwrap();
    assert_eq!(copy.save(), good);
    let mut data = [0; 2];
    copy.read_port(4, &mut data);
    assert_eq!(data, [7, 0]);
    for damage in [
        |state: &mut State| state.config_address = 1,
        |state: &mut State| state.config[0] = 0,
        |state: &mut State| state.config.truncate(255),
    ] {
        let mut state = good.clone();
        damage(&mut state);
        assert!(copy.restore(&state).is_err());
    }
    assert_eq!(copy.save(), good);
}
