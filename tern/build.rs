//! Builds the agent that `tern` brings into guests: a program for Linux that needs nothing from the guest, so it is linked statically,
//! and the file becomes a part of `tern` (`src/command/segment.rs`).

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Guests are computers of this kind, whatever the host is.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the agent is made from, in the workspace.
const SOURCES: [&str; 3] = ["command", "Cargo.toml", "Cargo.lock"];

fn main() {
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let target = PathBuf::from(variable("OUT_DIR")).join("agent");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args(["build", "--quiet", "--package", "tern-agent", "--profile", "agent", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target).current_dir(&workspace);
    // A flag of the compiler's, or a wrapper such as clippy's, was for another program.
    for name in
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"]
    {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot start cargo for the agent: {error}"));
    assert!(status.success(), "the agent cannot be built ({status})");
    let agent = target.join(TARGET).join("agent/tern-agent");
    println!("cargo::rustc-env=TERN_AGENT={}", agent.display());
}
