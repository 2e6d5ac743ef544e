//! What is said over a machine's socket: a line of JSON each, in UTF-8, ended by a line feed.
//!
//! The machine begins with a [`Greeting`]. Each [`Request`] gets a [`Reply`]; requests may follow each other on a connection, which
//! the machine closes when it ends. After the reply to `console` there are no more lines: what the machine sends is its
//! console's output, beginning with what was last, and what it is sent is typed there.
//!
//! ```text
//! ← {"tern":"0.1.0","protocol":1,"machine":"web"}
//! → {"do":"status"}
//! ← {"ok":true,"status":{"name":"web","state":"running",...}}
//! → {"do":"dance"}
//! ← {"ok":false,"error":"..."}
//! ```
//!
//! A new request or field is no new protocol: whoever does not know a field leaves it alone, and a request that a machine does not
//! know is refused. [`PROTOCOL`] counts what would break that.

use serde::{Deserialize, Serialize};

/// The version of this protocol.
pub(super) const PROTOCOL: u32 = 1;

/// The longest line, in bytes.
pub(super) const LONGEST_LINE: u64 = 64 << 10;

/// What the machine says first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// The version of its program.
    pub tern: String,
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its name.
    pub machine: String,
}

impl Greeting {
    /// The greeting of a machine of this program.
    pub(super) fn of(machine: &str) -> Self {
        Self { tern: env!("CARGO_PKG_VERSION").to_owned(), protocol: PROTOCOL, machine: machine.to_owned() }
    }
}

/// What a machine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum Request {
    /// Tell what it is and does.
    Status,
    /// Press its power button: the guest is asked to switch it off.
    PowerButton,
    /// End, whatever the guest does.
    Stop,
    /// Make this connection a console.
    Console,
}

/// What a machine answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Whether it did what was asked.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The answer to [`Request::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Reply {
    pub(super) fn done() -> Self {
        Self { ok: true, ..Self::default() }
    }

    pub(super) fn status(status: Status) -> Self {
        Self { status: Some(status), ..Self::done() }
    }

    pub(super) fn refused(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It is being put together.
    Starting,
    /// It runs.
    Running,
    /// It has ended, and its disks are being put in order.
    Ending,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Its name.
    pub name: String,
    /// What it was started from: `debian:13`, `tiny`, `kernel`, a disk image's name.
    pub image: String,
    /// The name under which what it writes is kept, if it is.
    pub kept: Option<String>,
    /// What it does.
    pub state: State,
    /// The number of its process.
    pub process: u32,
    /// The engine that it runs on.
    pub engine: String,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// How the guest uses its memory. Only a guest with a balloon tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_memory: Option<GuestMemory>,
}

/// What a guest's balloon driver tells. Sizes are in bytes; what it does not tell is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GuestMemory {
    /// All that the guest counts as its own: without what the kernel took first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Not used for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// What programs could get without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// What could be given back at once: files' contents, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<u64>,
    /// What is in the balloon.
    pub lent: u64,
}

/// Hears each line of `input` as a machine and as whoever asks one; how many mean something. Whatever is understood can be said
/// again, and means the same.
#[allow(dead_code, reason = "the tests and the fuzz target call it")]
pub(super) fn exercise(input: &[u8]) -> usize {
    fn hear<T: Serialize + for<'a> Deserialize<'a>>(line: &[u8]) -> bool {
        let Ok(heard) = serde_json::from_slice::<T>(line) else { return false };
        let said = serde_json::to_vec(&heard).expect("it has texts and numbers only");
        let again: T = serde_json::from_slice(&said).expect("what is said is understood");
        assert_eq!(serde_json::to_vec(&again).ok(), Some(said), "it does not mean the same");
        true
    }
    let lines = input.split(|byte| *byte == b'\n');
    lines
        .map(|line| [hear::<Request>(line), hear::<Reply>(line), hear::<Greeting>(line)])
        .fold(0, |count, heard| count + heard.iter().filter(|heard| **heard).count())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn corpus_of_the_fuzzer_ends_in_words_or_errors() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/control");
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let heard: usize = files.map(|file| exercise(&fs::read(file.unwrap().path()).unwrap())).sum();
        assert!(heard > 0);
    }

    #[test]
    fn requests_are_as_documented() {
        for (text, request) in [
            (r#"{"do":"status"}"#, Request::Status),
            (r#"{"do":"power-button"}"#, Request::PowerButton),
            (r#"{"do":"stop"}"#, Request::Stop),
            (r#"{"do":"console"}"#, Request::Console),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"do":"dance"}"#).is_err());
    }

    #[test]
    fn fields_of_a_later_version_are_no_obstacle() {
        let request = serde_json::from_str::<Request>(r#"{"do":"stop","gently":true}"#).unwrap();
        assert_eq!(request, Request::Stop);
        let reply: Reply = serde_json::from_str(r#"{"ok":true,"more":[1]}"#).unwrap();
        assert!(reply.ok && reply.error.is_none());
    }
}
