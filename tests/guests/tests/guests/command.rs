//! One command in a guest: its streams, signals and end are those of `tern`.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tern_guests::{Terminal, Tern, debian};

/// How long a system's boot may take on a busy host.
const LIMIT: Duration = Duration::from_secs(240);

/// `tern run -- WORDS` in the tiny guest.
fn command(words: &[&str]) -> Tern {
    words.iter().fold(Tern::run().arg("--quiet").arg("--"), |run, word| run.arg(*word))
}

fn sh(script: &str) -> Tern {
    command(&["sh", "-c", script])
}

#[test]
fn standard_output_and_error_are_apart_and_the_exit_code_is_the_commands() {
    let end = sh("pwd; echo out; echo err >&2; cat; exit 7").finish().expect_code(7);
    assert_eq!((end.console.as_str(), end.errors.as_str()), ("/\nout\n", "err\n"));
}

#[test]
fn a_commands_environment_and_folder_are_those_that_were_named() {
    let run = Tern::run().arg("--quiet").arg("--env").arg("A=b c").arg("--env").arg("FROM_HERE");
    let run = run.environment("FROM_HERE", "yes").environment("OTHER", "no").arg("--workdir").arg("/usr/bin");
    let run = run.arg("--").arg("sh").arg("-c").arg("echo $A,$FROM_HERE,$OTHER,$PWD");
    assert_eq!(run.finish().expect_code(0).console, "b c,yes,,/usr/bin\n");
}

#[test]
fn a_command_that_is_not_there_or_no_program_has_a_code_of_its_own() {
    let end = command(&["no-such-command"]).finish().expect_code(127);
    end.expect_errors(&["no-such-command"]);
    assert_eq!(end.console, "");
    command(&["/etc"]).finish().expect_code(126).expect_errors(&["/etc"]);
    let nowhere = Tern::run().arg("--quiet").arg("--workdir").arg("/nowhere").arg("--").arg("true");
    nowhere.finish().expect_code(125).expect_errors(&["/nowhere"]);
}

#[test]
fn signals_reach_the_command_and_what_it_started() {
    let mut guest = sh("trap 'echo heard; exit 3' INT; echo ready; while :; do sleep 1; done").start();
    guest.wait_for("ready\n");
    guest.signal(Signal::INT);
    guest.wait_for("heard\n");
    let _ = guest.end().expect_code(3);

    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut guest = sh("echo ready; exec sleep 1000").start();
        guest.wait_for("ready\n");
        guest.signal(signal);
        let _ = guest.end().expect_code(code);
    }
}

#[test]
fn data_pass_through_whole_and_the_end_of_the_input_is_passed_on() {
    let data: Vec<u8> =
        (0..4_u32 << 20).map(|at| (at.wrapping_mul(31) ^ (at >> 9)).to_le_bytes()[0]).collect();
    let digest: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    // Out comes what went in: the command's own checksum, and on standard output what another program makes of it.
    let mut guest = sh("tee /dev/stderr | sha256sum").start();
    guest.send(data);
    guest.end_input();
    let end = guest.end().expect_code(0);
    assert_eq!(end.console, format!("{digest}  -\n"));
    assert!(end.errors.len() > 1 << 20, "{} bytes came back", end.errors.len());
}

#[test]
fn who_reads_no_more_ends_the_command_as_in_a_pipe() {
    let (reader, writer) = std::io::pipe().unwrap();
    let guest = command(&["yes"]).output(writer).start();
    drop(reader);
    // SIGPIPE.
    let _ = guest.end().expect_code(141);
}

#[test]
fn a_guest_that_dies_under_the_command_is_told_with_its_last_lines() {
    let end = sh("echo begun; echo dying >/dev/console; poweroff -f; sleep 1000").finish().expect_code(125);
    end.expect_errors(&["powered off under the command", "| dying"]);
    assert_eq!(end.console, "begun\n");
}

#[test]
fn what_keeps_running_in_the_background_keeps_no_machine() {
    let end = sh("sleep 1000 & echo done").finish().expect_code(0);
    assert_eq!(end.console, "done\n");
}

#[test]
fn a_command_has_a_terminal_if_it_is_asked_for() {
    let terminal = Terminal::open();
    let run = Tern::run()
        .arg("--quiet")
        .arg("-t")
        .arg("--")
        .arg("sh")
        .arg("-c")
        .arg("tty; read line; echo got $line; exit 5");
    let mut guest = run.start_on(&terminal);
    guest.wait_for("/dev/pts/0");
    guest.send("words\r");
    guest.wait_for("got words");
    let _ = guest.end().expect_code(5);
}

#[test]
fn waiting_for_the_guest_is_shown_on_a_terminal_only_and_tells_where_to_look_after_a_while() {
    // A shell in place of init does not look for the agent.
    let kernel = debian::kernel(debian::Suite::Host, debian::Flavour::Cloud);
    let run = || {
        let run = Tern::kernel(&kernel).arg("--initrd").arg(debian::initramfs()).within(LIMIT);
        run.arg("--cmdline").arg("console=ttyS0 quiet rdinit=/bin/sh")
    };
    let terminal = Terminal::open();
    let mut seen = run().arg("--").arg("true").start_on(&terminal);
    let mut unseen = run().arg("--").arg("true").start();
    let hint = "tern console NAME";
    seen.wait_for("starting the guest");
    seen.wait_for(hint);
    unseen.wait_for_error(hint);
    for guest in [&seen, &unseen] {
        guest.signal(Signal::TERM);
    }
    let _ = seen.end().expect_signal(Signal::TERM);
    let end = unseen.end().expect_signal(Signal::TERM);
    assert!(!end.errors.contains("starting"), "{}", end.errors);
}

#[test]
fn a_whole_system_runs_a_command_without_a_change_to_its_image() {
    let _ = debian::system("debian");
    let run = |words: &[&str]| {
        let run = Tern::run().arg("debian").arg("--quiet").within(LIMIT).arg("--");
        words.iter().fold(run, |run, word| run.arg(*word))
    };
    let mut guest = run(&[
        "sh",
        "-c",
        "cat; . /etc/os-release; echo $ID; systemctl is-enabled serial-getty@ttyS0; echo err >&2; exit 9",
    ])
    .start();
    guest.send("in\n");
    guest.end_input();
    let end = guest.end().expect_code(9);
    assert_eq!((end.console.as_str(), end.errors.as_str()), ("in\ndebian\nmasked-runtime\n", "err\n"));
}

#[test]
fn commands_in_a_kept_machine_find_what_those_before_them_left_even_unsynced() {
    let _ = debian::system("debian");
    let own = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let run = Tern::run().arg("debian").arg("--keep").arg("box").arg("--quiet").within(LIMIT);
        let run = run.environment("TERN_STATE_DIR", own.path().join("state"));
        let run = run.environment("TERN_RUNTIME_DIR", own.path().join("run"));
        run.arg("--").arg("sh").arg("-c").arg(script.to_owned()).finish()
    };
    let _ = run("test ! -e /srv/left && echo words >/srv/left; exit 3").expect_code(3);
    let end = run("cat /srv/left; rm /srv/left").expect_code(0);
    assert_eq!((end.console.as_str(), end.errors.as_str()), ("words\n", ""));
}

#[test]
fn a_commands_failures_are_not_taken_for_its_own() {
    let status = Command::new(Tern::program()).args(["run", "no-such-image", "--", "true"]).output().unwrap();
    assert_eq!(status.status.code(), Some(125));
}
