//! The base register, the modes, and the state that is saved.

use super::*;

#[test]
fn the_base_msr_allows_just_the_documented_mode_changes() {
    const DISABLED: u64 = 0xfee0_0100;
    const XAPIC: u64 = 0xfee0_0900;
    const X2APIC: u64 = 0xfee0_0d00;
    const INVALID: u64 = 0xfee0_0500;
    let reach = |path: &[u64]| {
        let mut apic = LocalApic::new(0, true);
        path.iter().try_for_each(|base| apic.set_base(*base))
    };
    for allowed in
        [&[XAPIC, X2APIC, X2APIC, DISABLED, DISABLED, XAPIC][..], &[DISABLED, XAPIC, X2APIC], &[0xfed0_0900]]
    {
        assert_eq!(reach(allowed), Ok(()), "{allowed:x?}");
    }
    for refused in [
        &[X2APIC, XAPIC][..],
        &[DISABLED, X2APIC],
        &[INVALID],
        &[DISABLED, INVALID],
        &[X2APIC, INVALID],
        &[XAPIC | 1],
        &[XAPIC | 1 << 9],
        &[XAPIC | 1 << 52],
    ] {
        assert_eq!(reach(refused), Err(GeneralProtection), "{refused:x?}");
    }
}

#[test]
fn the_registers_are_where_the_mode_puts_them() {
    let mut apic = xapic(7);
    assert_eq!(apic.mmio_base(), Some(0xfee0_0000));
    assert_eq!(apic.read(ID, NOW), 0x0700_0000);
    assert_eq!(apic.read_msr(0x802, NOW), Err(GeneralProtection));
    apic.set_base(0xfee0_0c00).unwrap();
    assert_eq!(apic.mmio_base(), None);
    assert_eq!(apic.read_msr(0x802, NOW), Ok(7));
    apic.set_base(0xfee0_0000).unwrap();
    assert_eq!(apic.mmio_base(), None);
    assert!(!apic.is_enabled());
}

#[test]
fn disabling_resets_but_entering_x2apic_mode_keeps() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x41, Trigger::Edge);
    apic.set_base(0xfee0_0d00).unwrap();
    assert_eq!(apic.pending(), Some(0x41));
    apic.set_base(0xfee0_0100).unwrap();
    apic.set_base(0xfee0_0900).unwrap();
    assert_eq!(apic, LocalApic::new(0, true));
}

#[test]
fn init_keeps_id_and_mode() {
    let mut apic = x2apic(300);
    assert_eq!(apic.write_msr(0x808, 0x50, NOW), Ok(Effect::None));
    apic.init();
    assert!(apic.is_x2apic());
    assert_eq!(apic.id(), 300);
    assert_eq!(apic.read_msr(0x808, NOW), Ok(0));
    assert_eq!(apic.read_msr(0x80f, NOW), Ok(0xff));
}

#[test]
fn x2apic_refuses_what_it_does_not_have() {
    let mut apic = x2apic(0);
    for unreadable in [0x800, 0x801, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83a, 0x83f] {
        assert_eq!(apic.read_msr(unreadable, NOW), Err(GeneralProtection), "{unreadable:x}");
    }
    for unwritable in [0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x82f, 0x831, 0x839] {
        assert_eq!(apic.write_msr(unwritable, 0, NOW), Err(GeneralProtection), "{unwritable:x}");
    }
    for (msr, reserved) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x1000),
        (0x828, 1),
        (0x830, 1 << 20),
        (0x832, 0x400),
        (0x837, 0x400),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert_eq!(apic.write_msr(msr, reserved, NOW), Err(GeneralProtection), "{msr:x}");
    }
    for outside in [0x7ff, 0x840, 0, u32::MAX] {
        assert_eq!(apic.read_msr(outside, NOW), Err(GeneralProtection));
    }
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut apic = xapic(1);
    let before = apic.clone();
    for offset in [ID, VERSION, APR, PPR, RRD, ISR, TMR + 0x70, IRR, CURRENT_COUNT] {
        let _ = apic.write(offset, u32::MAX, NOW);
    }
    assert_eq!(apic, before);
}

#[test]
fn any_access_in_the_page_is_survived() {
    for offset in 0..0x1000 {
        let mut apic = xapic(1);
        let _ = apic.write(offset, u32::MAX, NOW);
        let _ = apic.read(offset, at(u64::MAX));
        apic.poll(at(u64::MAX), u64::MAX);
    }
}

// --- Saved state ---

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x31, Trigger::Level);
    apic.acknowledge();
    let _ = apic.write(0x320, 0x2_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 123_456, NOW);
    let mut copy = LocalApic::new(0, true);
    copy.restore(&apic.save()).unwrap();
    assert_eq!(copy, apic);
}

#[test]
fn an_impossible_state_is_refused() {
    let good = xapic(0).save();
    let mut apic = xapic(0);
    for (index, damage) in [
        |state: &mut State| state.id = 1,
        |state: &mut State| state.base = 0xfee0_0500,
        |state: &mut State| state.base |= 1,
        |state: &mut State| state.svr = 1 << 12,
        |state: &mut State| state.ldr = 1,
        |state: &mut State| state.dfr = 0,
        |state: &mut State| state.lvt[0] = 1 << 19,
        |state: &mut State| state.irr.insert(15),
        |state: &mut State| state.timer.divide_configuration = 4,
        |state: &mut State| state.timer.tsc_deadline = 1,
        |state: &mut State| {
            state.lvt[0] = 0x4_0030;
            state.timer.expiry = Some(NOW);
        },
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = good.clone();
        damage(&mut state);
        assert!(apic.restore(&state).is_err(), "damage {index}");
    }
    assert_eq!(apic.save(), good);
}
