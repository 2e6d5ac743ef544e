//! The built command, as a shell sees it: what it prints, where, and its exit code.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `tern` with an empty cache, so that nothing of this computer's user is used or changed.
fn tern(arguments: &[&str]) -> Output {
    tern_with_cache(arguments, tempfile::tempdir().expect("a temporary directory").path())
}

fn tern_with_cache(arguments: &[&str], cache: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(arguments)
        .env("TERN_CACHE_DIR", cache)
        .output()
        .expect("the built command starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    for arguments in [&["--help"][..], &["run", "--help"]] {
        let output = tern(arguments);
        assert_eq!(output.status.code(), Some(0));
        for part in ["Examples:", "tern run --kernel", "Exit codes:", "70 "] {
            assert!(stdout(&output).contains(part), "{arguments:?} lacks {part}");
        }
    }
}

#[test]
fn bad_usage_ends_with_2_and_says_what_would_work() {
    for (arguments, hint) in [
        (&["run", "--memory", "512"][..], "512M"),
        (&["run", "--memory", "2GB"], "write 2G"),
        (&["run", "--cpus", "0"], "a whole number from 1 to 64"),
        (&["run", "--engine", "warp"], "auto, kvm, soft"),
        (&["run", "--engine", "metal"], "'metal' is planned, not there yet"),
        (&["run", "--colour"], "--help"),
        (&["run", "--keep", "a/b", "debian"], "letters, digits"),
        (&["stop", "a/b"], "letters, digits"),
        (&["image", "rm", "../atlantis"], "cannot name a cache entry"),
    ] {
        let output = tern(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(hint), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn other_programs_words_end_with_2_and_the_answer() {
    for (arguments, answer) in [
        (&["run", "debian", "ls", "-l"][..], "a command goes after `--`: `tern run debian -- ls -l`"),
        (&["run", "--detach", "--", "ls"], "leave out --detach"),
        (&["run", "-d", "-e", "A=1", "debian"], "leave out --detach"),
        (&["run", "-p", "80:80"], "no network card yet: use --vsock"),
        (&["run", "-v", "/a:/b"], "folders cannot be shared yet: use `--disk`"),
        (&["run", "-smp", "4"], "`--cpus N`"),
        (&["run", "-hda", "x"], "`--disk FILE`"),
        (&["run", "-cpu", "host"], "`--cpu MODEL`"),
        (&["run", "-device", "x"], "`--balloon`"),
        (&["ps", "-a"], "`tern image list`"),
        (&["rm", "web"], "`tern image rm NAME`"),
        (&["kill", "web"], "`tern stop --force NAME`"),
        (&["logs", "web"], "`logs/NAME.log`"),
    ] {
        let output = tern(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = stderr(&output);
        assert!(text.starts_with("error: ") && text.contains(answer), "{arguments:?}: {text}");
        assert!(!text.contains("Usage"), "{arguments:?}: {text}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn bad_input_ends_with_66_and_names_the_file() {
    for (arguments, part) in [
        (&["run", "atlantis"][..], "no image 'atlantis'"),
        (&["run", "ls"], "`tern run -- ls`"),
        (&["run", "/dev/null/x"], "no image '/dev/null/x'"),
        (&["run", "Cargo.toml"], "--kernel Cargo.toml"),
        (&["run", "--kernel", "no-such-kernel"], "kernel 'no-such-kernel'"),
        (&["run", "--kernel", "no-such-kernel"], "/boot"),
        (&["run", "--kernel", "."], "is a directory"),
        (
            &["run", "--kernel", "Cargo.toml", "--initrd", "nothing"],
            "initramfs 'nothing'. Linux distributions keep theirs in /boot",
        ),
        (&["run", "--kernel", "Cargo.toml", "--module", "lost x"], "module 'lost'"),
        (&["image", "check", "atlantis"], "no 'atlantis'"),
        (&["image", "rm", "atlantis"], "`tern image list`"),
        (&["image", "build", "atlantis"], "debian:13"),
        (&["image", "pull", "atlantis"], "debian:13"),
    ] {
        let output = tern(arguments);
        assert_eq!(output.status.code(), Some(66), "{arguments:?}");
        assert!(stderr(&output).starts_with("error: "), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_host_without_apt_is_told_to_bring_a_kernel() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_tern"))
        .arg("run")
        .env("TERN_CACHE_DIR", cache.path())
        .env("PATH", cache.path())
        .output()
        .expect("the built command starts");
    assert_eq!(output.status.code(), Some(66));
    assert!(stderr(&output).contains("--kernel FILE"), "{}", stderr(&output));
}

#[test]
fn every_engine_is_listed_with_its_reason() {
    let text = tern(&["engines"]);
    for name in ["kvm ", "soft "] {
        assert!(stdout(&text).lines().any(|line| line.starts_with(name)), "{}", stdout(&text));
    }
    let json = tern(&["engines", "-o", "json"]);
    let engines: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    for (index, name) in ["kvm", "soft"].into_iter().enumerate() {
        assert_eq!(engines[index]["name"], name);
        assert!(engines[index]["available"].is_boolean());
        assert!(engines[index]["reason"].is_string());
    }
}

#[test]
fn completions_know_the_options() {
    for shell in ["bash", "zsh", "fish"] {
        let output = tern(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("debug-exit"), "{shell}");
    }
}

#[test]
fn an_empty_cache_lists_nothing_and_is_not_made() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cache = directory.path().join("cache");
    let output = tern_with_cache(&["image", "list"], &cache);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
    assert!(!cache.exists());
}

#[test]
fn what_an_interrupted_making_left_is_not_listed_and_goes_with_the_cache() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let left = cache.path().join(".debian-13.new");
    std::fs::create_dir_all(left.join("work")).expect("a directory");
    let list = tern_with_cache(&["image", "list"], cache.path());
    assert!(!stdout(&list).contains("debian-13"), "{}", stdout(&list));
    assert!(left.exists());
    assert_eq!(tern_with_cache(&["image", "rm", "--all"], cache.path()).status.code(), Some(0));
    assert!(!left.exists());
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(["completions", "bash"])
        .stdout(writer)
        .output()
        .expect("the built command starts");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

/// Runs real-mode code, loaded at 0x7c00, with this standard input.
fn run_code(code: &[u8], arguments: &[&str], input: &[u8]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("code");
    std::fs::write(&file, code).expect("a temporary file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(["run", "--engine", "soft", "--format", "boot-sector", "--memory", "1M", "--kernel"])
        .arg(&file)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the built command starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("the command is there");
    child.wait_with_output().expect("the command ends")
}

/// `mov dx, 0x604; mov ax, 0x3400; out dx, ax`: SLP_EN with the SLP_TYP of S5.
const POWER_OFF: [u8; 7] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x34, 0xef];

#[test]
fn a_guest_that_switches_off_ends_with_0_and_prints_nothing_of_our_own() {
    let output = run_code(&POWER_OFF, &[], b"");
    assert_eq!(
        (output.status.code(), stdout(&output), stderr(&output)),
        (Some(0), String::new(), String::new())
    );
}

#[test]
fn the_guests_debug_exit_is_the_exit_code() {
    // mov al, 0x2a; out 0xf4, al
    let code = [&[0xb0, 0x2a, 0xe6, 0xf4][..], &POWER_OFF].concat();
    assert_eq!(run_code(&code, &["--debug-exit"], b"").status.code(), Some(85));
    assert_eq!(run_code(&code, &[], b"").status.code(), Some(0));
}

#[test]
fn a_reboot_runs_the_guest_again_or_ends_with_4() {
    // What is in CMOS memory survives: the second time, the byte at 0x40 is 1.
    // mov al, 0x40; out 0x70, al; in al, 0x71; test al, al; jnz second
    // mov al, 1; out 0x71, al; mov dx, 0xcf9; mov al, 6; out dx, al; jmp $
    // second: out 0xf4, al
    let code = [
        0xb0, 0x40, 0xe6, 0x70, 0xe4, 0x71, 0x84, 0xc0, 0x75, 0x0c, 0xb0, 0x01, 0xe6, 0x71, 0xba, 0xf9, 0x0c,
        0xb0, 0x06, 0xee, 0xeb, 0xfe, 0xe6, 0xf4,
    ];
    assert_eq!(run_code(&code, &["--debug-exit"], b"").status.code(), Some(3));
    assert_eq!(run_code(&code, &["--debug-exit", "--no-reboot"], b"").status.code(), Some(4));
}

#[test]
fn a_crash_ends_with_70_and_shows_where() {
    // lidt [0x7c08], of limit 0; int3
    let code = [0x0f, 0x01, 0x1e, 0x08, 0x7c, 0xcc, 0xeb, 0xfe, 0, 0, 0, 0, 0, 0];
    let output = run_code(&code, &[], b"");
    assert_eq!(output.status.code(), Some(70));
    for part in ["triple fault on processor 0, at 0000:0000000000007c05", "int3", "rsp", "What to do next:"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

#[test]
fn standard_input_and_output_are_the_guests_serial_port() {
    // mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait; mov dl, 0xf8; in al, dx; out dx, al
    let echo = [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xb2, 0xf8, 0xec, 0xee];
    let code = [&echo[..], &echo, &POWER_OFF].concat();
    let output = run_code(&code, &[], b"hi, nobody reads this");
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "hi"));
}

#[test]
fn statistics_go_to_standard_error() {
    let output = run_code(&POWER_OFF, &["--stats"], b"");
    assert_eq!(stdout(&output), "");
    for part in ["engine", "instructions", "MIPS", "port-out"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}
