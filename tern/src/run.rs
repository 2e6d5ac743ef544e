//! `tern run`: from words to a machine, and from the machine's end to an exit code.
//!
//! Everything that belongs to the command line happens here and in `terminal/`; the machine itself is
//! `tern-vmm`'s, behind the one function [`run_machine`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use tern_image::{Cache, OnStderr, Progress, Silent};

use crate::cli::RunArguments;
use crate::exit::{Code, Failure};
use crate::terminal::{self, Console, Leaving};

/// Which engine makes the processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// The fastest that can run here
    Auto,
    /// Software only: no hardware support and no privileges needed
    Soft,
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Whatever the file turns out to be; Linux is entered through PVH if it can be
    Auto,
    /// A PVH entry point (also the one inside a bzImage)
    Pvh,
    /// The 64-bit Linux boot protocol
    Linux,
    /// Multiboot 1
    Multiboot,
    /// 512 bytes or more at 0x7c00, in real mode
    BootSector,
}

/// A file that a Multiboot kernel gets beside itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub file: PathBuf,
    /// What the kernel is told about it: the file's name as given, and its arguments.
    pub cmdline: String,
}

impl FromStr for Module {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let file =
            text.split_whitespace().next().ok_or("a module is a file, and after a space its arguments")?;
        Ok(Self { file: file.into(), cmdline: text.to_owned() })
    }
}

/// What is started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub kernel: PathBuf,
    pub format: Format,
    pub initrd: Option<PathBuf>,
    /// If not given, Linux gets `console=ttyS0` and others nothing.
    pub cmdline: Option<String>,
    pub modules: Vec<Module>,
}

/// A machine and its guest, as the command line describes them.
#[derive(Debug)]
pub(crate) struct Options {
    pub guest: Guest,
    /// In bytes, a multiple of 4096.
    pub memory: u64,
    /// At least 1.
    pub cpus: u32,
    pub engine: EngineChoice,
    /// Whether there is a debug-exit port at 0xf4.
    pub debug_exit: bool,
    /// Whether the machine ends when the guest asks for a reboot.
    pub no_reboot: bool,
}

/// How a machine ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reboot, under `--no-reboot`.
    Reboot,
    /// The guest wrote to the debug-exit port; this is `(value << 1) | 1`.
    DebugExit(u8),
    /// The guest crashed; the text tells how, with its registers and what to do next.
    Crash(String),
    /// It was stopped from outside.
    Stopped,
}

/// What is known after a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub end: End,
    /// What the machine did, for `--stats`, in lines.
    pub statistics: String,
}

/// Runs a machine as the command line says, until it ends.
pub(crate) fn run(arguments: &RunArguments) -> Result<Code, Failure> {
    let options = Options {
        guest: guest(arguments)?,
        memory: arguments.memory,
        cpus: arguments.cpus,
        engine: arguments.engine,
        debug_exit: arguments.debug_exit,
        no_reboot: arguments.no_reboot,
    };
    let console = Console::open(arguments.quiet)
        .context("cannot use standard input and output as a console")
        .map_err(Failure::host)?;
    let outcome = run_machine(&options, &console);
    // Errors and statistics are for a terminal that is itself again.
    let leaving = console.close();
    let outcome = outcome?;
    if arguments.stats {
        eprint!("{}", outcome.statistics);
    }
    match leaving {
        None => code_of(outcome.end),
        Some(why) => code_of_leaving(why, arguments.quiet),
    }
}

/// WIRE: the seam to `tern-vmm`. Makes the machine from `options`, gives its serial port
/// `console.output()` to write to, calls `console.connect(input, stop)`, runs it to its end and maps
/// what `tern-vmm` reports: bad files to [`Failure::input`], a host that refuses to [`Failure::host`].
fn run_machine(_options: &Options, _console: &Console) -> Result<Outcome, Failure> {
    Err(Failure::host(anyhow!("this build has no machine yet")))
}

fn code_of(end: End) -> Result<Code, Failure> {
    match end {
        End::PowerOff => Ok(Code::SUCCESS),
        End::Reboot => Ok(Code::REBOOT),
        End::DebugExit(status) => Ok(Code::of_guest(status)),
        End::Stopped => Ok(Code::LEFT),
        End::Crash(report) => Err(Failure::crash(anyhow!("the guest crashed: {report}"))),
    }
}

fn code_of_leaving(why: Leaving, quiet: bool) -> Result<Code, Failure> {
    match why {
        Leaving::Escape => {
            if !quiet {
                eprintln!("\ntern: left with Ctrl-]; the machine has ended");
            }
            Ok(Code::LEFT)
        }
        // As with other tools: whoever reads has seen enough.
        Leaving::OutputGone(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Code::LEFT),
        Leaving::OutputGone(error) => {
            let error = anyhow::Error::new(error);
            Err(Failure::host(error.context("the machine was ended: its console output cannot be written")))
        }
    }
}

/// Finds the guest and makes sure that its files can be read.
fn guest(arguments: &RunArguments) -> Result<Guest, Failure> {
    let mut guest = match &arguments.kernel {
        Some(kernel) => Guest {
            kernel: kernel.clone(),
            format: arguments.format,
            initrd: None,
            cmdline: None,
            modules: arguments.modules.clone(),
        },
        None => image(&arguments.image, arguments.quiet)?,
    };
    if let Some(initrd) = &arguments.initrd {
        guest.initrd = Some(initrd.clone());
    }
    if let Some(cmdline) = &arguments.cmdline {
        guest.cmdline = Some(cmdline.clone());
    }
    readable("kernel", &guest.kernel)?;
    if let Some(initrd) = &guest.initrd {
        readable("initramfs", initrd)?;
    }
    for module in &guest.modules {
        readable("module", &module.file)?;
    }
    Ok(guest)
}

fn image(name: &str, quiet: bool) -> Result<Guest, Failure> {
    if name != "tiny" {
        let hint = if Path::new(name).is_file() {
            format!("to start the file as a kernel: `tern run --kernel {name}`")
        } else {
            "the only image is 'tiny'; a kernel of your own is started with --kernel FILE".to_owned()
        };
        return Err(Failure::input(anyhow!("there is no image '{name}'; {hint}")));
    }
    let shown = OnStderr::new();
    let progress: &dyn Progress = if quiet { &Silent } else { &shown };
    let image = tern_image::tiny(&Cache::of_user()?, progress)
        .map_err(|error| Failure::from(error).context("cannot get the image 'tiny'"))?;
    let mut cmdline = image.cmdline;
    if let Some((columns, lines)) = terminal::size() {
        write!(cmdline, " COLUMNS={columns} LINES={lines}").expect("a string takes everything");
    }
    Ok(Guest {
        kernel: image.kernel,
        format: Format::Auto,
        initrd: image.initrd,
        cmdline: Some(cmdline),
        modules: Vec::new(),
    })
}

/// Looks before a machine is made: the files are opened again by whoever loads them.
fn readable(role: &str, path: &Path) -> Result<(), Failure> {
    let cannot = || format!("cannot open the {role} '{}'", path.display());
    let file = fs::File::open(path).with_context(cannot).map_err(Failure::input)?;
    let about = file.metadata().with_context(cannot).map_err(Failure::input)?;
    if about.is_dir() {
        return Err(Failure::input(anyhow!("the {role} '{}' is a directory", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_a_file_and_its_whole_command_line() {
        let module: Module = "root.img first  second".parse().unwrap();
        assert_eq!(module.file, Path::new("root.img"));
        assert_eq!(module.cmdline, "root.img first  second");
        assert!("  ".parse::<Module>().is_err());
    }

    #[test]
    fn the_guests_end_is_the_commands_exit_code() {
        assert_eq!(code_of(End::PowerOff).unwrap(), Code::SUCCESS);
        assert_eq!(code_of(End::Reboot).unwrap(), Code::REBOOT);
        assert_eq!(code_of(End::DebugExit(85)).unwrap(), Code::of_guest(85));
        assert_eq!(code_of(End::Crash("triple fault".into())).unwrap_err().code, Code::CRASH);
    }

    #[test]
    fn a_reader_that_goes_away_is_quiet_and_a_full_disk_is_not() {
        let gone = |kind: io::ErrorKind| code_of_leaving(Leaving::OutputGone(kind.into()), true);
        assert_eq!(gone(io::ErrorKind::BrokenPipe).unwrap(), Code::LEFT);
        assert_eq!(gone(io::ErrorKind::StorageFull).unwrap_err().code, Code::HOST);
    }
}
