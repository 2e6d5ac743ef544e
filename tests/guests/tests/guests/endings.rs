//! How a guest's end becomes the command's: power-off, reboot, the debug-exit port, a crash.

use std::fs;
use std::time::Duration;

use tern_guests::debian::{self, Flavour, Suite};
use tern_guests::{PROMPT, Tern, boot_sector, host};

/// The exit code of a guest that asked for a reboot, under `--no-reboot`.
const REBOOT: i32 = 4;
/// The exit code of a guest that crashed.
const CRASH: i32 = 70;

/// What the tiny guest's first process says.
const BANNER: &str = "busybox shell.";

#[test]
fn a_guest_that_powers_off_ends_with_0_and_says_so_itself() {
    let mut guest = Tern::run().start();
    guest.wait_for(PROMPT);
    let end = guest.power_off();
    assert!(end.console.contains("reboot: Power down"), "{}", end.console);
}

#[test]
fn a_shell_that_exits_powers_off() {
    let mut guest = Tern::run().start();
    guest.wait_for(PROMPT);
    guest.send("exit 3\n");
    let _ = guest.end().expect_code(0);
}

#[test]
fn a_reboot_starts_the_same_guest_over() {
    let mut guest = Tern::run().cpus(2).start();
    guest.wait_for(PROMPT);
    guest.ask("touch /gone");
    guest.send("reboot\n");
    guest.wait_for(BANNER);
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("ls /gone"), "ls: /gone: No such file or directory");
    assert_eq!(guest.ask("nproc"), "2");
    let _ = guest.power_off();
}

/// How many threads and open files a process has.
fn belongings(process: u32) -> [usize; 2] {
    ["task", "fd"].map(|what| fs::read_dir(format!("/proc/{process}/{what}")).unwrap().count())
}

#[test]
fn a_machine_reboots_ten_times_and_keeps_its_disk_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk.qcow2");
    let _ = Tern::new(["image", "create"]).arg(&disk).arg("16M").finish().expect_code(0);
    let run = Tern::run().cpus(2).within(Duration::from_secs(900)).arg("--cmdline").arg(debian::CMDLINE);
    let mut guest = run.arg("--disk").arg(&disk).start();
    guest.wait_for(PROMPT);
    let mut first = None;
    for round in 1..=10 {
        guest.ask(&format!("touch /gone; echo {round} | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null"));
        guest.send("reboot\n");
        guest.wait_for(BANNER);
        guest.wait_for(PROMPT);
        assert_eq!(guest.ask("head -n 1 /dev/vda; ls /gone 2>/dev/null; nproc"), format!("{round}\n2"));
        let has = belongings(guest.process());
        // Some threads and files come with the first use of a disk.
        let had = *first.get_or_insert(has);
        if has[0] > had[0] + 2 || has[1] > had[1] + 2 {
            guest.fail(&format!("threads and files: {had:?} after the first reboot, now {has:?}"));
        }
    }
    let _ = guest.power_off();
    let _ = Tern::new(["image", "check"]).arg(&disk).finish().expect_code(0);
}

#[test]
fn a_reboot_can_be_the_end() {
    let mut guest = Tern::run().arg("--no-reboot").start();
    guest.wait_for(PROMPT);
    guest.send("reboot\n");
    let end = guest.end().expect_code(REBOOT);
    assert_eq!(end.console.matches(BANNER).count(), 1);
}

#[test]
fn a_program_in_the_guest_chooses_the_exit_code() {
    // Debian's cloud kernels lack the file through which programs reach ports.
    let kernel = debian::kernel(Suite::Host, Flavour::Generic);
    let mut guest = Tern::linux(&kernel).arg("--debug-exit").start();
    guest.wait_for(PROMPT);
    guest.send("printf '\\052' | dd of=/dev/port bs=1 seek=244\n");
    let _ = guest.end().expect_code(42 << 1 | 1);
}

#[test]
fn a_kernel_chooses_the_exit_code_only_if_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("boot.bin");
    for (value, code) in [(0, 1), (16, 33), (0xff, 0xff)] {
        fs::write(&file, boot_sector::sector(&boot_sector::debug_exit(value))).unwrap();
        let _ = Tern::kernel(&file).arg("--debug-exit").finish().expect_code(code);
    }
}

#[test]
fn a_crash_tells_where_and_what_to_do_next() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crash.bin");
    fs::write(&file, boot_sector::sector(&boot_sector::TRIPLE_FAULT)).unwrap();
    for format in ["auto", "boot-sector"] {
        let end = Tern::kernel(&file).arg("--format").arg(format).finish().expect_code(CRASH);
        end.expect_errors(&["triple fault", "What to do next:"]);
        if host::keeps_registers_of_a_crash() {
            end.expect_errors(&["7c05", "ud2", "rax ", "cr0 ", "idtr "]);
        } else {
            end.expect_errors(&["where is not known", "--engine soft"]);
        }
        assert_eq!(end.console, "", "the guest wrote nothing");
    }
}

#[test]
fn a_guest_that_the_engine_gives_up_on_is_a_crash_with_the_reason_and_the_registers() {
    if !host::gives_up_outside_of_memory() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jump.bin");
    fs::write(&file, boot_sector::sector(&boot_sector::JUMP_ABOVE_1_MIB)).unwrap();
    let end = Tern::kernel(&file).memory("1M").finish().expect_code(CRASH);
    end.expect_errors(&["KVM cannot run processor 0 any further", "an instruction that it cannot emulate"]);
    end.expect_errors(&["at ffff:0000000000000010", "rbx 0000000000001234", "--engine soft"]);
}

#[test]
fn linux_without_its_initramfs_panics_and_can_still_be_left() {
    let kernel =
        tern_guests::debian::kernel(tern_guests::debian::Suite::Host, tern_guests::debian::Flavour::Cloud);
    // With panic=-1 Linux reboots at once, which --no-reboot makes the end.
    let run = Tern::kernel(&kernel).arg("--no-reboot").arg("--cmdline").arg("console=ttyS0 quiet panic=-1");
    let end = run.finish().expect_code(REBOOT);
    assert!(end.console.contains("Kernel panic - not syncing"), "{}", end.console);
}
