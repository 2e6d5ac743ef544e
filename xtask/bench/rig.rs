//! A suite in the rig, which has KVM to give: this program starts itself there.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use tern_image::Image;

use crate::Form;

/// How many processors the rig has: enough for what programs do beside their guest.
const CPUS: &str = "2";

/// What is measured there, and what comes along for it beside this program and QEMU.
pub(crate) struct Trip<'a> {
    /// The suite, and its options beside those below.
    pub words: &'a [&'a str],
    /// How often.
    pub rounds: u32,
    pub output: Form,
    /// The guest that all contenders run, and its kernel as an ELF file.
    pub image: &'a Image,
    pub unpacked: &'a Path,
    /// What QEMU reads to start its machine.
    pub firmware: &'a [&'a str],
    /// More words for the rig.
    pub more: &'a [String],
    /// The rig's memory, in MiB.
    pub memory: &'a str,
    /// After how many seconds it has failed.
    pub timeout: &'a str,
}

impl Trip<'_> {
    /// Starts the rig, with everything in it, and measures there.
    ///
    /// # Errors
    /// If something cannot be brought along, or the rig cannot be started.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
        let cmdline = directory.path().join("cmdline");
        fs::write(&cmdline, &self.image.cmdline).context("cannot write the kernel command line")?;
        let initrd = self.image.initrd.as_deref().context("the tiny guest has no initramfs")?;
        let this = env::current_exe().context("cannot find out where this program is")?;

        let mut command = Command::new(this.with_file_name("tern-rig"));
        command.args(["kvm", "--cpus", CPUS, "--memory", self.memory, "--timeout", self.timeout]);
        command.arg("--put").arg(&this).arg("--put").arg("/usr/bin/qemu-system-x86_64");
        command.args(self.more);
        for file in self.firmware {
            command.arg("--file").arg(file);
        }
        let guest: [&Path; 4] = [&self.image.kernel, self.unpacked, initrd, &cmdline];
        let places = ["/bench/kernel", "/bench/vmlinux", "/bench/initrd", "/bench/cmdline"];
        for (file, place) in guest.into_iter().zip(places) {
            command.arg("--file").arg(format!("{}={place}", file.display()));
        }
        let output = match self.output {
            Form::Text => "text",
            Form::Json => "json",
        };
        let rounds = self.rounds.to_string();
        command.args(["--", "tern-bench"]).args(self.words).arg("--here");
        command.args(["--rounds", &rounds, "--output", output, "--guest"]).args(places);
        let status = command.status().context("cannot start the rig")?;
        Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
    }
}
