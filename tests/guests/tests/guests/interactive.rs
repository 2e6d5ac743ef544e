//! On a terminal: raw while the guest has it, and as before whatever ends the machine.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tern_guests::{Guest, PROMPT, Terminal, Tern, boot_sector};

/// Ctrl-].
const LEAVE: &[u8] = b"\x1d";

/// The exit code of a machine that the user left.
const LEFT: i32 = 130;

/// A guest that only the host can stop, on this terminal, once the terminal is the guest's.
fn stubborn(terminal: &Terminal) -> (Guest, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("loop.bin");
    fs::write(&file, boot_sector::LOOP_WITHOUT_INTERRUPTS).unwrap();
    let run = Tern::kernel(&file).arg("--format").arg("boot-sector").within(Duration::from_secs(60));
    let mut guest = run.start_on(terminal);
    guest.wait_for("Ctrl-]");
    wait_until_raw(terminal, &guest);
    (guest, directory)
}

fn wait_until_raw(terminal: &Terminal, guest: &Guest) {
    while !terminal.is_raw() {
        if guest.age() > Duration::from_secs(20) {
            guest.fail("the terminal does not become raw");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_tiny_guest_has_the_terminal_until_it_powers_off() {
    let terminal = Terminal::open();
    let before = terminal.settings();
    let mut guest = Tern::run().start_on(&terminal);
    guest.wait_for("Ctrl-] leaves");
    guest.wait_for(PROMPT);
    assert!(terminal.is_raw());
    guest.send("echo $((6 * 7))\r");
    guest.wait_for("\r\n42\r\n");
    // Ctrl-C is the guest's: it ends a program there, and not us.
    // Once a program writes, and not the shell by a command of its own, the shell has left the terminal to it.
    guest.send("sh -c 'echo $((7 * 7)); exec sleep 1000'\r");
    guest.wait_for("\r\n49\r\n");
    guest.send(b"\x03");
    guest.wait_for(PROMPT);
    guest.send("poweroff\r");
    let end = guest.end().expect_code(0);
    assert!(end.console.contains("Power down"), "{}", end.console);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn a_guest_that_shows_nothing_is_shown_to_be_starting_until_it_does() {
    let terminal = Terminal::open();
    let (mut guest, _directory) = stubborn(&terminal);
    guest.wait_for("starting the guest");
    guest.send(LEAVE);
    let end = guest.end().expect_code(LEFT);
    assert!(end.console.ends_with("machine has ended\r\n"), "{}", end.console);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("speaks.bin");
    fs::write(&file, boot_sector::speak_and_loop(b'!')).unwrap();
    let terminal = Terminal::open();
    let mut guest = Tern::kernel(&file).arg("--format").arg("boot-sector").start_on(&terminal);
    guest.wait_for("!");
    std::thread::sleep(Duration::from_secs(2));
    guest.send(LEAVE);
    let end = guest.end().expect_code(LEFT);
    let (_, behind) = end.console.split_once('!').unwrap();
    assert!(!behind.contains("starting"), "{}", end.console);
}

#[test]
fn the_escape_key_leaves_a_guest_that_hears_nothing() {
    let terminal = Terminal::open();
    let before = terminal.settings();
    let (guest, _directory) = stubborn(&terminal);
    // More than the guest's serial port, and what waits before it, can hold.
    guest.send([b'x'; 2000]);
    guest.send(LEAVE);
    let end = guest.end().expect_code(LEFT);
    assert!(end.console.contains("left with Ctrl-]"), "{}", end.console);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn a_signal_ends_it_as_a_signal_does_and_restores_the_terminal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let (guest, _directory) = stubborn(&terminal);
        guest.signal(signal);
        let _ = guest.end().expect_signal(signal);
        assert_eq!(terminal.settings(), before, "after {signal:?}");
    }
}

#[test]
fn a_signal_ends_a_guest_that_a_script_drives() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("loop.bin");
    fs::write(&file, boot_sector::sector(&boot_sector::LOOP_WITHOUT_INTERRUPTS)).unwrap();
    let guest = Tern::kernel(&file).within(Duration::from_secs(60)).start();
    std::thread::sleep(Duration::from_millis(300));
    guest.signal(Signal::TERM);
    let _ = guest.end().expect_signal(Signal::TERM);
}

#[test]
fn a_crash_on_a_terminal_is_told_on_one_that_is_itself_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crash.bin");
    fs::write(&file, boot_sector::sector(&boot_sector::TRIPLE_FAULT)).unwrap();
    let terminal = Terminal::open();
    let before = terminal.settings();
    let end = Tern::kernel(&file).start_on(&terminal).end().expect_code(70);
    // The terminal turns each line's end into two characters only if it is not raw.
    assert!(end.console.contains("What to do next:\r\n"), "{}", end.console);
    assert_eq!(terminal.settings(), before);
}
