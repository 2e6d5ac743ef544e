//! The emulated computer: QEMU's TCG with AMD's virtualization.
//!
//! Its first serial port is the command's terminal. The kernel's messages come out of the second one, and what the command
//! returned out of the third; both go to files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// AMD-V with nested paging. XSAVE is left out because guests of the emulated AMD-V lose the XCR0 that they set (seen with
/// QEMU 7.2): their first return from a signal handler would kill them.
const CPU: &str = "EPYC-Rome,+svm,+npt,-xsave";

/// The console is not the command's terminal, which is the command's alone.
///
/// The timers tick periodically: QEMU 7.2's emulation of AMD-V now and then loses an interrupt that comes while it enters or
/// leaves a guest, and a processor that waits for the one interrupt it asked for would wait forever. The next tick
/// brings the lost one along. Whether the timer interrupts at all is not tested at the start: on a busy host the test's time is
/// over before the emulator has had its turn, and Linux gives up.
const COMMAND_LINE: &str =
    "console=ttyS1 quiet panic=-1 cryptomgr.notests highres=off nohz=off no_timer_check";

/// How often is looked whether the emulator has ended.
const INTERVAL: Duration = Duration::from_millis(50);

/// A computer that is about to be switched on.
#[derive(Debug)]
pub(crate) struct Rig<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a [u8],
    pub cpus: u32,
    /// In MiB.
    pub memory: u32,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The command returned this.
    Status(u8),
    /// It took too long.
    TimedOut,
}

impl Rig<'_> {
    /// Runs it until the command has ended.
    ///
    /// # Errors
    /// If the emulator cannot be started, or ends before the command has.
    pub(crate) fn run(&self) -> Result<Ended> {
        let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
        let [initramfs, console, status, errors] =
            ["initramfs", "console", "status", "errors"].map(|name| directory.path().join(name));
        File::create(&initramfs)
            .and_then(|mut file| file.write_all(self.initramfs))
            .context("cannot write the initramfs")?;
        // However this program ends, the emulator ends with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", CPU]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]);
        command.args(["-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal"]);
        for file in [&console, &status] {
            command.arg("-serial").arg(format!("file:{}", file.display()));
        }
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(&initramfs);
        command.args(["-append", COMMAND_LINE]);
        // It warns of every feature that it does not emulate.
        command.stderr(File::create(&errors).context("cannot make a temporary file")?);
        let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
        if !wait(&mut child, self.timeout)? {
            return Ok(Ended::TimedOut);
        }
        match fs::read_to_string(&status).ok().and_then(|text| text.trim().parse().ok()) {
            Some(status) => Ok(Ended::Status(status)),
            None => {
                let [errors, console] = [errors, console].map(|file| fs::read(file).unwrap_or_default());
                let text = [errors, console].concat();
                let text = String::from_utf8_lossy(&text);
                let told: Vec<_> =
                    text.lines().filter(|line| !line.contains("warning: TCG doesn't")).collect();
                bail!("the emulated computer ended before the command did\n{}", told.join("\n"))
            }
        }
    }
}

/// Waits for the emulator to end; says whether it did in time. One that did not is ended.
fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<bool> {
    let started = Instant::now();
    while child.try_wait().context("cannot wait for the emulator")?.is_none() {
        if timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
            child.kill().and_then(|()| child.wait()).context("cannot end the emulator")?;
            return Ok(false);
        }
        thread::sleep(INTERVAL);
    }
    Ok(true)
}
