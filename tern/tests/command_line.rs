//! The built command, as a shell sees it: what it prints, where, and its exit code.

use std::path::Path;
use std::process::{Command, Output};

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
        (&["run", "--cpus", "0"], "1..=64"),
        (&["run", "--engine", "warp"], "auto, soft"),
        (&["run", "--colour"], "--help"),
        (&["run", "tiny", "--kernel", "k"], "cannot be used with"),
    ] {
        let output = tern(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(hint), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn bad_input_ends_with_66_and_names_the_file() {
    for (arguments, part) in [
        (&["run", "atlantis"][..], "no image 'atlantis'"),
        (&["run", "/dev/null/x"], "no image '/dev/null/x'"),
        (&["run", "Cargo.toml"], "--kernel Cargo.toml"),
        (&["run", "--kernel", "no-such-kernel"], "kernel 'no-such-kernel'"),
        (&["run", "--kernel", "."], "is a directory"),
        (&["run", "--kernel", "Cargo.toml", "--initrd", "nothing"], "initramfs 'nothing'"),
        (&["run", "--kernel", "Cargo.toml", "--module", "lost x"], "module 'lost'"),
        (&["image", "check", "atlantis"], "no 'atlantis'"),
        (&["image", "rm", "../atlantis"], "cannot name a cache entry"),
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
    assert!(stdout(&text).starts_with("soft "), "{}", stdout(&text));
    let json = tern(&["engines", "-o", "json"]);
    let engines: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(engines[0]["name"], "soft");
    assert!(engines[0]["available"].is_boolean());
    assert!(engines[0]["reason"].is_string());
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
