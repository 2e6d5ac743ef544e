//! Runs the command that the host names.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tern_command_protocol::{Decoder, FromGuest, Start, Stream, ToGuest, VERSION};

use crate::port::{self, Sender};
use crate::streams::{Allowance, Feed, drain};
use crate::terminal::{self, why};

/// What a command finds in its environment whatever the guest is.
const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];

/// Where the agent is, to start itself.
const SELF: &str = "/proc/self/exe";

/// What comes from the host.
struct Host {
    port: File,
    decoder: Decoder<ToGuest>,
}

impl Host {
    fn next(&mut self) -> io::Result<ToGuest> {
        let mut piece = vec![0; 32 << 10];
        loop {
            if let Some(message) = self.decoder.next().map_err(io::Error::other)? {
                return Ok(message);
            }
            match self.port.read(&mut piece)? {
                0 => return Err(io::Error::other("the host has closed the port")),
                count => self.decoder.push(&piece[..count]),
            }
        }
    }
}

/// Names that scripts use, and that a small guest's `/dev` lacks.
const NAMES: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

pub(crate) fn run() -> io::Result<()> {
    for (name, target) in NAMES {
        // Most systems have them.
        let _ = symlink(target, name);
    }
    let port = port::open()?;
    let sender = Arc::new(Sender::new(port.try_clone()?));
    let mut host = Host { port, decoder: Decoder::default() };
    sender.send(&FromGuest::Hello(VERSION))?;
    let start = loop {
        if let ToGuest::Start(start) = host.next()? {
            break start;
        }
    };
    let end = match Running::start(&start) {
        Ok(running) => {
            sender.send(&FromGuest::Started)?;
            let status = running.serve(host, &sender)?;
            end_of(status)
        }
        Err((code, reason)) => FromGuest::Failed { code, reason },
    };
    // What the command wrote is on the disk when the machine is ended.
    rustix::fs::sync();
    sender.send(&end)
}

fn end_of(status: ExitStatus) -> FromGuest {
    match (status.code(), status.signal()) {
        (Some(code), _) => FromGuest::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, Some(signal)) => FromGuest::Killed(u8::try_from(signal).unwrap_or(u8::MAX)),
        (None, None) => FromGuest::Exited(u8::MAX),
    }
}

/// A command that runs.
struct Running {
    child: Child,
    group: Pid,
    /// Can be read when it is over.
    over: OwnedFd,
    input: File,
    outputs: Vec<(Stream, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

impl Running {
    fn start(start: &Start) -> Result<Self, (u8, String)> {
        let broken = |error: io::Error| (125, format!("the guest cannot prepare the command: {error}"));
        let words: Vec<_> = start.words.iter().map(|word| OsStr::from_bytes(word)).collect();
        let (&program, arguments) = words.split_first().ok_or((125, "there is no command".to_owned()))?;
        let mut command = match start.terminal {
            Some(_) => {
                let mut command = Command::new(SELF);
                command.arg("terminal").arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(arguments).env_clear().envs(ENVIRONMENT);
        for variable in &start.environment {
            let name = variable.iter().position(|&byte| byte == b'=').unwrap_or(variable.len());
            let value = variable.get(name + 1..).unwrap_or_default();
            command.env(OsStr::from_bytes(&variable[..name]), OsStr::from_bytes(value));
        }
        let directory =
            start.directory.as_deref().map_or(Path::new("/"), |bytes| Path::new(OsStr::from_bytes(bytes)));
        if !directory.is_dir() {
            return Err((125, format!("there is no directory '{}' in the guest", directory.display())));
        }
        command.current_dir(directory);
        let terminal = start.terminal.map(terminal::pair).transpose().map_err(broken)?;
        match &terminal {
            Some((_, theirs)) => {
                let stdio = || theirs.try_clone().map(Stdio::from).map_err(broken);
                command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
            }
            None => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
            }
        }
        let mut child = command.spawn().map_err(|error| why(program, &error))?;
        // Its ends of the terminal or the pipes are its own.
        drop(command);
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| broken(io::Error::other("it has no number")))?;
        let over = pidfd_open(group, PidfdFlags::empty()).map_err(|error| broken(error.into()))?;
        let none = || broken(io::Error::other("a pipe is missing"));
        let (input, outputs, terminal) = match terminal {
            Some((ours, _theirs)) => {
                let copy = || ours.try_clone().map_err(broken);
                (File::from(copy()?), vec![(Stream::Output, copy()?)], Some(ours))
            }
            None => {
                let input = File::from(OwnedFd::from(child.stdin.take().ok_or_else(none)?));
                let output = OwnedFd::from(child.stdout.take().ok_or_else(none)?);
                let error = OwnedFd::from(child.stderr.take().ok_or_else(none)?);
                (input, vec![(Stream::Output, output), (Stream::Error, error)], None)
            }
        };
        Ok(Self { child, group, over, input, outputs, terminal })
    }

    /// Passes on what is to be passed on until it is over.
    fn serve(self, host: Host, sender: &Arc<Sender>) -> io::Result<ExitStatus> {
        let Self { mut child, group, over, input, outputs, terminal } = self;
        let feed = Arc::new(Feed::default());
        let allowances = Arc::new([Allowance::new()?, Allowance::new()?]);
        let over = Arc::new(over);
        let has_terminal = terminal.is_some();
        let feeding = (Arc::clone(&feed), Arc::clone(sender));
        thread::spawn(move || {
            let (feed, sender) = feeding;
            feed.run(&input, &sender);
            if has_terminal {
                // The end of input is a key there, and the terminal stays.
                let _ = io::Write::write(&mut &input, &[4]);
            }
        });
        let drains: Vec<_> = outputs
            .into_iter()
            .map(|(stream, source)| {
                let (sender, over) = (Arc::clone(sender), Arc::clone(&over));
                let allowances = Arc::clone(&allowances);
                thread::spawn(move || {
                    let allowance = &allowances[index(stream)];
                    // The host is gone with the machine: there is nobody to tell.
                    let _ = drain(&source, stream, &over, allowance, &sender);
                })
            })
            .collect();
        let heeding = Heeding { feed, allowances, group, terminal };
        thread::spawn(move || heeding.run(host));
        let status = child.wait()?;
        for drain in drains {
            let _ = drain.join();
        }
        Ok(status)
    }
}

const fn index(stream: Stream) -> usize {
    match stream {
        Stream::Output => 0,
        Stream::Error => 1,
    }
}

/// Does what the host says while the command runs.
struct Heeding {
    feed: Arc<Feed>,
    allowances: Arc<[Allowance; 2]>,
    group: Pid,
    terminal: Option<OwnedFd>,
}

impl Heeding {
    fn run(self, mut host: Host) {
        while let Ok(message) = host.next() {
            match message {
                ToGuest::Input(data) => self.feed.push(data),
                ToGuest::InputEnd => self.feed.end(),
                ToGuest::Credit(stream, count) => self.allowances[index(stream)].add(count),
                ToGuest::Gone(stream) => self.allowances[index(stream)].gone(),
                ToGuest::Signal(number) => {
                    if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                        // It may be over.
                        let _ = kill_process_group(self.group, signal);
                    }
                }
                ToGuest::Resize(size) => {
                    if let Some(terminal) = &self.terminal {
                        let _ = terminal::resize(terminal, size);
                    }
                }
                ToGuest::Start(_) => {}
            }
        }
    }
}
