//! `tern run --detach`: the same command again in a process of its own, which has neither this terminal nor this session.
//!
//! ```text
//!  tern run --detach ─── starts itself ──▶ makes the machine, tells errors and progress here as ever
//!        │ waits                              │ the machine is there:
//!        ◀──────── its name, in a pipe ───────┘ from now on its words go to a log
//! ```

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, anyhow};
use tern_image::system::state_directory;

use crate::cli::RunArguments;
use crate::exit::{Code, Failure};

/// Tells the process that is started that it is the one.
const VARIABLE: &str = "TERN_DETACHED";

/// Whether this process is to start the machine in another one.
pub(crate) fn is_to_detach(arguments: &RunArguments) -> bool {
    arguments.detach && env::var_os(VARIABLE).is_none()
}

/// Starts the machine in a process of its own, and prints its name when it runs.
///
/// # Errors
/// That process cannot be started. Its own errors it tells itself; its exit code is this command's.
pub(crate) fn start() -> Result<Code, Failure> {
    let cannot = |error: io::Error| {
        Failure::host(anyhow::Error::new(error).context("cannot start a process for the machine"))
    };
    let program = env::current_exe().map_err(cannot)?;
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1)).env(VARIABLE, "1");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
    let mut name = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut name).map_err(cannot)?;
    }
    if name.ends_with('\n') {
        crate::print(name.as_bytes())?;
        return Ok(Code::SUCCESS);
    }
    ended(child.wait().map_err(cannot)?)
}

/// What it means that the process has ended before its machine ran.
fn ended(status: ExitStatus) -> Result<Code, Failure> {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map(Code::of_process)
        .ok_or_else(|| Failure::host(anyhow!("the process that was to run the machine was ended ({status})")))
}

/// This process, if it was started for a machine.
#[derive(Debug)]
pub(crate) struct Detached {
    report: OwnedFd,
}

impl Detached {
    /// Leaves the terminal's session, if this process was started for that.
    ///
    /// # Errors
    /// The host refuses it.
    pub(crate) fn begin(arguments: &RunArguments) -> Result<Option<Self>, Failure> {
        if !arguments.detach {
            return Ok(None);
        }
        let begin = || {
            rustix::process::setsid()?;
            let report = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
            rustix::stdio::dup2_stdout(&OpenOptions::new().write(true).open("/dev/null")?)?;
            Ok(Self { report })
        };
        let begun: io::Result<Self> = begin();
        begun.context("cannot detach from the terminal").map_err(Failure::host).map(Some)
    }

    /// The machine runs: whoever started this process may go.
    ///
    /// # Errors
    /// There is nobody any more, who was to hear of the machine.
    pub(crate) fn runs(self, name: &str) -> Result<(), Failure> {
        let failed = "cannot tell that the machine runs";
        File::from(self.report)
            .write_all(format!("{name}\n").as_bytes())
            .context(failed)
            .map_err(Failure::host)?;
        // Errors that come later are for a file; without one they are for nobody.
        let log = log(name).or_else(|_| OpenOptions::new().write(true).open("/dev/null"));
        log.and_then(|log| Ok(rustix::stdio::dup2_stderr(&log)?)).context(failed).map_err(Failure::host)
    }
}

/// The file for a machine's last words: `logs/NAME.log` in the state directory, begun anew with each machine of the name.
fn log(name: &str) -> io::Result<File> {
    let folder = state_directory().ok_or(io::ErrorKind::NotFound)?.join("logs");
    fs::create_dir_all(&folder)?;
    File::create(folder.join(format!("{name}.log")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_process_that_ends_before_its_machine_runs_is_a_failure_or_has_told_it() {
        let code = |status| ended(ExitStatus::from_raw(status));
        assert_eq!(code(66 << 8).unwrap(), Code::INPUT);
        let failure = code(9).unwrap_err();
        assert_eq!(failure.code, Code::HOST);
        assert!(failure.text().contains("signal: 9"), "{}", failure.text());
    }
}
