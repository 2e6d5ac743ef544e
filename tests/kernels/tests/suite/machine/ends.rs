//! Ends that a guest asks for, and crashes.

use iced_x86::code_asm::*;
use tern_chipset::layout::port;
use tern_chipset::power::{PM1A_CONTROL, SLP_TYP_S5};
use tern_test_kernels::device::pic::out;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::UD;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;
use tern_vmm::machine::End;

/// Runs the guest, and waits for the end at its end.
fn ends(write: impl FnOnce(&mut Long) -> Emit) -> Vec<End> {
    let ended = long_ended(|g| {
        write(g)?;
        let mut forever = g.create_label();
        g.place(&mut forever)?;
        g.hlt()?;
        g.jmp(forever)
    });
    ended.into_iter().map(|ended| ended.end).collect()
}

#[test]
fn acpi_s5_switches_the_machine_off() {
    const SLP_EN: u16 = 1 << 13;
    for end in ends(|g| {
        g.mov(edx, u32::from(port::POWER.start + PM1A_CONTROL))?;
        g.mov(eax, u32::from(SLP_EN | u16::from(SLP_TYP_S5) << 10))?;
        g.out(dx, ax)
    }) {
        assert!(matches!(end, End::PowerOff), "{end:?}");
    }
}

#[test]
fn the_reset_control_register_reboots() {
    for end in ends(|g| out(g, 0xcf9, 0x06)) {
        assert!(matches!(end, End::Reboot), "{end:?}");
    }
}

#[test]
fn the_keyboard_controller_reboots() {
    for end in ends(|g| out(g, 0x64, 0xfe)) {
        assert!(matches!(end, End::Reboot), "{end:?}");
    }
}

#[test]
fn the_debug_exit_port_gives_its_status() {
    for end in ends(|g| {
        g.mov(eax, 0x15)?;
        g.out(0xf4, eax)
    }) {
        assert!(matches!(end, End::DebugExit(0x2b)), "{end:?}");
    }
}

#[test]
fn a_jump_into_nothing_is_a_crash_that_shows_where() {
    // Without an interrupt descriptor table no exception finds a handler.
    for end in ends(|g| {
        g.lidt(ptr(frame(0)))?;
        g.mov(rax, WINDOW + 0x1234)?;
        g.mov(r15, 0x0123_4567_89ab_cdef_u64)?;
        g.jmp(rax)
    }) {
        let End::Crash(report) = end else { panic!("it did not crash: {end:?}") };
        assert_eq!(report.state.rip, WINDOW + 0x1234);
        assert_eq!(report.state.gpr[15], 0x0123_4567_89ab_cdef);
        assert!(report.instruction.is_empty());
        let text = report.to_string();
        assert!(text.contains("triple fault on processor 0") && text.contains("0123456789abcdef"), "{text}");
    }
}

#[test]
fn a_jump_to_where_no_memory_is_meets_an_invalid_opcode() {
    // The bus floats: all ones are no instruction.
    let nowhere = 0x8000_0000_u32;
    long(|g| {
        g.mov(eax, nowhere)?;
        g.expect_fault(fault(UD).elsewhere(), |g| g.jmp(rax))?;
        g.expect_frame(0, nowhere.into())?;
        g.mov(ebx, dword_ptr(rax))?;
        g.expect(rbx, 0xffff_ffff)
    });
}
