//! The other side of a machine's socket: `tern ps`, `tern stop`, and what `tern console` begins with.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use clap::Args;
use rustix::net::sockopt::socket_peercred;

use super::places;
use super::protocol::{Greeting, GuestMemory, LONGEST_LINE, PROTOCOL, Reply, Request, State, Status};
use crate::cli::OutputForm;
use crate::exit::Failure;
use crate::size::human;

/// How long a machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a machine that was ended by force may take to put its disks in order.
const FORCED: Duration = Duration::from_secs(15);
/// How long nothing is said.
const SOON: Duration = Duration::from_secs(1);

/// A connection to a machine.
pub(super) struct Machine {
    name: String,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Machine {
    /// Connects to the machine of this name.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub(super) fn find(name: &str) -> Result<Self, Failure> {
        let mut all = places::sockets();
        match all.iter().position(|(other, _)| other == name) {
            Some(index) => Self::greet(all.swap_remove(index)),
            None => {
                let names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
                let hint = match names.as_slice() {
                    [] => "no machine is running".to_owned(),
                    names => format!("running are {}", names.join(", ")),
                };
                Err(Failure::input(anyhow!("there is no running machine '{name}': {hint}")))
            }
        }
    }

    fn greet((name, stream): (String, UnixStream)) -> Result<Self, Failure> {
        let connect = || {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let mut reader = BufReader::new(stream.try_clone()?);
            let greeting: Greeting = hear(&mut reader)?;
            Ok((reader, greeting))
        };
        let (reader, greeting) = connect().map_err(|error| silent(&name, &stream, error))?;
        if greeting.protocol != PROTOCOL {
            return Err(Failure::host(anyhow!(
                "the machine '{name}' runs in tern {}, which speaks another protocol ({}, not {PROTOCOL}): use that tern",
                greeting.tern,
                greeting.protocol
            )));
        }
        Ok(Self { name, reader, writer: stream })
    }

    /// Asks for something.
    pub(super) fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let mut ask = || {
            let mut line = serde_json::to_vec(&request)?;
            line.push(b'\n');
            self.writer.write_all(&line)?;
            hear::<Reply>(&mut self.reader)
        };
        let reply = ask().map_err(|error| silent(&self.name, &self.writer, error))?;
        if reply.ok {
            return Ok(reply);
        }
        let why = reply.error.unwrap_or_else(|| "it does not say why".to_owned());
        Err(Failure::host(anyhow!("the machine '{}' refuses: {why}", self.name)))
    }

    /// Waits until the machine's process has ended, and says whether it has.
    fn ends_within(&mut self, patience: Duration) -> bool {
        // No timeout at all would be forever.
        let patience = patience.max(Duration::from_millis(1));
        if self.writer.set_read_timeout(Some(patience)).is_err() {
            return false;
        }
        let mut rest = [0; 64];
        let ended = !matches!(self.reader.read(&mut rest), Err(error) if is_late(&error));
        // What is asked next is not waited for as long.
        ended || self.writer.set_read_timeout(Some(PATIENCE)).is_err()
    }

    /// The connection, as it is after a request for the console.
    pub(super) fn into_console(self) -> io::Result<(BufReader<UnixStream>, UnixStream)> {
        self.writer.set_read_timeout(None)?;
        Ok((self.reader, self.writer))
    }
}

/// Whether something has not come in time.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The machine at the other end of `stream` does not answer. One whose process hangs cannot say what that is; the system can.
fn silent(name: &str, stream: &UnixStream, error: io::Error) -> Failure {
    if !is_late(&error) {
        return Failure::host(
            anyhow::Error::new(error).context(format!("the machine '{name}' does not answer")),
        );
    }
    let patience = PATIENCE.as_secs();
    let way_out = socket_peercred(stream).map_or_else(
        |_| "its process hangs or is stopped".to_owned(),
        |peer| {
            let process = peer.pid.as_raw_nonzero();
            format!(
                "its process {process} hangs or is stopped: `kill -CONT {process}` lets one go on that is stopped, and \
                 `kill -KILL {process}` ends it, with what its guest has flushed"
            )
        },
    );
    Failure::host(anyhow!("the machine '{name}' has not answered within {patience} s; {way_out}"))
}

/// Reads a line.
fn hear<T: serde::de::DeserializeOwned>(reader: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    reader.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// `tern ps`: asks all machines.
pub(crate) fn list(form: OutputForm) -> Result<(), Failure> {
    let mut all = Vec::new();
    for found in places::sockets() {
        // One that ends meanwhile is not running; one that hangs keeps nobody from seeing the others.
        let status = Machine::greet(found).and_then(|mut machine| machine.ask(Request::Status));
        match status {
            Ok(reply) => all.extend(reply.status),
            Err(failure) if failure.is_about_a_silent_machine() => {}
            Err(failure) => failure.report(),
        }
    }
    let text = match form {
        OutputForm::Text => text(&all, now()),
        OutputForm::Json => serde_json::to_string_pretty(&all).map_err(Failure::host)? + "\n",
    };
    crate::print(text.as_bytes())
}

impl Failure {
    /// Whether a machine hung up: it has just ended.
    fn is_about_a_silent_machine(&self) -> bool {
        self.cause::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            )
        })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn text(machines: &[Status], now: u64) -> String {
    let mut rows = vec![
        ["NAME", "IMAGE", "STATE", "UP", "ENGINE", "CPUS", "MEMORY", "USED", "PROCESS"].map(str::to_owned),
    ];
    for machine in machines {
        let state = match machine.state {
            State::Starting => "starting",
            State::Running => "running",
            State::Ending => "ending",
        };
        rows.push([
            machine.name.clone(),
            machine.image.clone(),
            state.to_owned(),
            duration(now.saturating_sub(machine.started)),
            machine.engine.clone(),
            machine.cpus.to_string(),
            human(machine.memory),
            machine.guest_memory.and_then(used).map_or_else(|| "-".to_owned(), human),
            machine.process.to_string(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (word, width) in row.iter().zip(widths) {
            write!(line, "{word:<width$}  ").expect("a string takes everything");
        }
        writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
    }
    text
}

/// What a guest needs of its memory, in bytes.
fn used(memory: GuestMemory) -> Option<u64> {
    Some(memory.total?.saturating_sub(memory.available.or(memory.free)?))
}

/// A duration for people, in its largest units.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// What `tern stop` takes.
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Which machines
    #[arg(value_name = "NAME", required = true, value_parser = places::parse_name)]
    names: Vec<String>,
    /// Do not ask the guest: end the machine at once. Its disks have what the guest wrote, but the guest could not finish
    #[arg(short, long)]
    force: bool,
    /// How long the guest may take to switch its machine off, in seconds, before the machine is ended by force
    #[arg(short, long, default_value_t = 30, value_name = "SECONDS", conflicts_with = "force")]
    timeout: u64,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// `tern stop`: has machines end, all at the same time. One that cannot be ended keeps no other from it; the last error is returned, and
/// those before it are told.
pub(crate) fn stop(arguments: &StopArguments) -> Result<(), Failure> {
    let mut last = Ok(());
    let mut note = |failed: Failure| {
        if let Err(earlier) = std::mem::replace(&mut last, Err(failed)) {
            earlier.report();
        }
    };
    let first = if arguments.force { Request::Stop } else { Request::PowerButton };
    let mut asked = Vec::new();
    for name in &arguments.names {
        match Machine::find(name).and_then(|mut machine| machine.ask(first).map(|_| machine)) {
            Ok(machine) => asked.push(machine),
            // It ended before it could answer, as it was to.
            Err(failure) if failure.is_about_a_silent_machine() => {}
            Err(failure) => note(failure),
        }
    }
    let since = Instant::now();
    for mut machine in asked {
        match machine.finish(since, arguments) {
            Err(failure) if !failure.is_about_a_silent_machine() => note(failure),
            _ => {}
        }
    }
    last
}

impl Machine {
    /// Waits until the machine has ended that was asked to at `since`, and ends it by force when its time is up.
    fn finish(&mut self, since: Instant, arguments: &StopArguments) -> Result<(), Failure> {
        let say = |text: String| {
            if !arguments.quiet {
                eprintln!("tern: {text}");
            }
        };
        let name = self.name.clone();
        if !arguments.force {
            let timeout = Duration::from_secs(arguments.timeout);
            // What is over soon needs no words.
            if self.ends_within(SOON.min(timeout).saturating_sub(since.elapsed())) {
                return Ok(());
            }
            if timeout > SOON {
                say(format!("'{name}' is shutting down"));
                if self.ends_within(timeout.saturating_sub(since.elapsed())) {
                    return Ok(());
                }
            }
            say(format!(
                "'{name}' has not switched itself off within {} s and is ended by force",
                arguments.timeout
            ));
            self.ask(Request::Stop)?;
        }
        if self.ends_within(SOON) {
            return Ok(());
        }
        say(format!("'{name}' is putting its disks in order"));
        if self.ends_within(FORCED) {
            return Ok(());
        }
        Err(Failure::host(anyhow!(
            "the machine '{name}' does not end: `tern ps` tells its process, which can be killed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_people_what_runs() {
        let mut machine = Status {
            name: "web".into(),
            image: "debian:13".into(),
            kept: None,
            state: State::Running,
            process: 42,
            engine: "soft".into(),
            cpus: 2,
            memory: 1 << 30,
            started: 1000,
            guest_memory: None,
        };
        let now = 1000 + 3600 * 5 + 60;
        let expected = "NAME  IMAGE      STATE    UP         ENGINE  CPUS  MEMORY  USED  PROCESS\n\
            web   debian:13  running  5 h 1 min  soft    2     1 GiB   -     42\n";
        assert_eq!(text(&[machine.clone()], now), expected);
        // Only who has a balloon tells.
        let (total, available) = (Some(900 << 20), Some(780 << 20));
        machine.guest_memory = Some(GuestMemory { total, available, ..GuestMemory::default() });
        assert!(text(&[machine], now).contains("1 GiB   120 MiB  42\n"));
    }

    #[test]
    fn durations_are_told_in_their_largest_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (119, "1 min"), (7200, "2 h 0 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
