//! The command that is started.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::debian;
use crate::guest::{End, Guest};
use crate::places::Places;
use crate::terminal::Terminal;

/// How long a command may take, unless it is told otherwise. A boot takes seconds; a busy host and a cold cache of
/// unpacked files must not make it a failure.
const LIMIT: Duration = Duration::from_secs(180);

/// A command line of `tern`, to be started.
#[derive(Debug)]
pub struct Tern {
    /// Where it is; by default where it was built.
    program: PathBuf,
    /// What starts it, if it is not started directly.
    starter: Vec<OsString>,
    user: Option<u32>,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    cpus: usize,
    limit: Duration,
    output: Option<Stdio>,
}

impl Tern {
    /// Any command: `tern ARGUMENTS`. One that runs a guest keeps a processor busy.
    #[must_use]
    pub fn new<const N: usize>(arguments: [&str; N]) -> Self {
        let is_run = arguments.first() == Some(&"run");
        let arguments = arguments.iter().map(OsString::from).collect();
        Self {
            program: built().to_owned(),
            starter: Vec::new(),
            user: None,
            arguments,
            environment: Vec::new(),
            cpus: usize::from(is_run),
            limit: LIMIT,
            output: None,
        }
    }

    /// `tern run` on the engine that is tested: the tiny guest, unless it is given something else. On `soft`, the environment's
    /// `TERN_TRANSLATION` says how hot code is treated.
    #[must_use]
    pub fn run() -> Self {
        let run = Self::new(["run", "--engine"]).arg(engine());
        match env::var("TERN_TRANSLATION") {
            Ok(how) if engine() == "soft" => run.arg("--translation").arg(how),
            _ => run,
        }
    }

    /// `tern run` with a Linux kernel and the tiny guest's initramfs.
    #[must_use]
    pub fn linux(kernel: &Path) -> Self {
        let run = Self::run().arg("--kernel").arg(kernel).arg("--initrd").arg(debian::initramfs());
        run.arg("--cmdline").arg(debian::CMDLINE)
    }

    /// `tern run` with a file that is something, or nothing, that can be booted.
    #[must_use]
    pub fn kernel(file: &Path) -> Self {
        Self::run().arg("--kernel").arg(file)
    }

    /// The built command.
    #[must_use]
    pub fn program() -> &'static Path {
        built()
    }

    /// A copy of the command that is elsewhere.
    #[must_use]
    pub fn from(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Started by another program, which takes the command line behind its own words.
    #[must_use]
    pub fn through(mut self, words: &[&str]) -> Self {
        self.starter = words.iter().map(OsString::from).collect();
        self
    }

    /// As the user with this number, which only root can.
    #[must_use]
    pub fn user(mut self, number: u32) -> Self {
        self.user = Some(number);
        self
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn environment(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// With so much memory.
    #[must_use]
    pub fn memory(self, size: &str) -> Self {
        self.arg("--memory").arg(size)
    }

    /// With so many processors.
    #[must_use]
    pub fn cpus(mut self, cpus: usize) -> Self {
        self.cpus = cpus;
        self.arg("--cpus").arg(cpus.to_string())
    }

    /// With this much time; after it, waiting fails and the process is killed.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// With another standard output than a pipe that is always read.
    #[must_use]
    pub fn output(mut self, output: impl Into<Stdio>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// Starts it with pipes for standard input, output and error.
    #[must_use]
    pub fn start(mut self) -> Guest {
        let output = self.output.take().unwrap_or_else(Stdio::piped);
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::piped());
        self.spawn(command, None)
    }

    /// Starts it on a terminal, as the leader of a session of its own.
    #[must_use]
    pub fn start_on(self, terminal: &Terminal) -> Guest {
        let tern = self.command();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(tern.get_program()).args(tern.get_args());
        command.envs(tern.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(terminal.stdio());
        self.spawn(command, Some(terminal.user()))
    }

    /// Runs it to its end without any input.
    #[must_use]
    pub fn finish(self) -> End {
        let mut guest = self.start();
        guest.end_input();
        guest.end()
    }

    fn command(&self) -> Command {
        let words: Vec<_> =
            self.starter.iter().map(OsString::as_os_str).chain([self.program.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn spawn(self, mut command: Command, terminal: Option<File>) -> Guest {
        let words: Vec<_> = self.arguments.iter().map(|word| word.to_string_lossy()).collect();
        let line = format!("tern {}", words.join(" "));
        let places = Places::take(self.cpus);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        Guest::new(line, child, terminal, self.limit * patience(), places)
    }
}

/// How many times as long everything may take: in lockstep much, and a little where all is interpreted.
fn patience() -> u32 {
    match env::var("TERN_TRANSLATION").as_deref() {
        Ok("verify") => 8,
        Ok("off") => 3,
        _ => 1,
    }
}

/// The engine that is tested: what the environment's `TERN_ENGINE` names, or the one that every host can run.
#[must_use]
pub fn engine() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| env::var("TERN_ENGINE").unwrap_or_else(|_| "soft".to_owned()))
}

/// The built command: what the environment's `TERN` names, or the release build beside this test program.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let named = env::var_os("TERN").map(PathBuf::from);
        let path = named.unwrap_or_else(|| {
            // This program is <target directory>/<profile>/deps/<name>.
            let this = env::current_exe().expect("a process knows its program");
            let target = this.ancestors().nth(3).expect("cargo builds into folders");
            target.join("release/tern")
        });
        let hint =
            "build it with `cargo build --release -p tern`, or name another one in the environment's TERN";
        assert!(path.is_file(), "there is no '{}': {hint}", path.display());
        path
    })
}
