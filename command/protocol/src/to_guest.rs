//! What the host says.

use crate::frame::{Broken, Message, exactly, frame};
use crate::text::{Reader, Writer};
use crate::{MOST_DATA, Size, Stream};

/// The kinds of frames.
mod kind {
    pub const START: u8 = 1;
    pub const INPUT: u8 = 2;
    pub const INPUT_END: u8 = 3;
    pub const CREDIT: u8 = 4;
    pub const SIGNAL: u8 = 5;
    pub const RESIZE: u8 = 6;
    pub const GONE: u8 = 7;
}

/// The most bytes of a command with all that belongs to it.
pub const MOST_START: usize = 1 << 20;

/// A command that is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The program, by its name or its path, and its arguments.
    pub words: Vec<Vec<u8>>,
    /// Variables of its environment, as `NAME=VALUE`.
    pub environment: Vec<Vec<u8>>,
    /// The folder that it starts in.
    pub directory: Option<Vec<u8>>,
    /// The size of its terminal, if it has one.
    pub terminal: Option<Size>,
}

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Run this.
    Start(Start),
    /// Input for the command, 1 to [`MOST_DATA`] bytes.
    Input(Vec<u8>),
    /// There is no more.
    InputEnd,
    /// So many bytes of a stream were passed on.
    Credit(Stream, u32),
    /// Send the command and all that it has started this signal.
    Signal(u8),
    /// The terminal has this size now.
    Resize(Size),
    /// Nobody takes any more of this stream.
    Gone(Stream),
}

impl Message for ToGuest {
    const MOST: usize = MOST_START;

    fn most(kind: u8) -> Option<usize> {
        Some(match kind {
            kind::INPUT_END => 0,
            kind::SIGNAL | kind::GONE => 1,
            kind::RESIZE => 4,
            kind::CREDIT => 5,
            kind::INPUT => MOST_DATA,
            kind::START => MOST_START,
            _ => return None,
        })
    }

    fn parse(kind: u8, contents: &[u8]) -> Result<Self, Broken> {
        let broken = Broken::Contents(kind);
        let stream = |number| Stream::numbered(number).ok_or(broken);
        Ok(match kind {
            kind::START => Self::Start(start(contents)?),
            kind::INPUT if contents.is_empty() => return Err(broken),
            kind::INPUT => Self::Input(contents.to_vec()),
            kind::INPUT_END => Self::InputEnd,
            kind::CREDIT => {
                let [number, a, b, c, d] = exactly(kind, contents)?;
                Self::Credit(stream(number)?, u32::from_le_bytes([a, b, c, d]))
            }
            kind::SIGNAL => Self::Signal(exactly::<1>(kind, contents)?[0]),
            kind::RESIZE => Self::Resize(size(exactly(kind, contents)?)),
            kind::GONE => Self::Gone(stream(exactly::<1>(kind, contents)?[0])?),
            _ => return Err(Broken::Kind(kind)),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Start(start) => frame(kind::START, &contents(start)),
            Self::Input(data) => frame(kind::INPUT, data),
            Self::InputEnd => frame(kind::INPUT_END, &[]),
            Self::Credit(stream, count) => {
                frame(kind::CREDIT, &[&[stream.number()], &count.to_le_bytes()[..]].concat())
            }
            Self::Signal(signal) => frame(kind::SIGNAL, &[*signal]),
            Self::Resize(size) => frame(kind::RESIZE, &size_bytes(*size)),
            Self::Gone(stream) => frame(kind::GONE, &[stream.number()]),
        }
    }
}

impl Start {
    /// Whether it can be sent.
    #[must_use]
    pub fn fits(&self) -> bool {
        contents(self).len() <= MOST_START
    }
}

fn size([a, b, c, d]: [u8; 4]) -> Size {
    Size { columns: u16::from_le_bytes([a, b]), rows: u16::from_le_bytes([c, d]) }
}

fn size_bytes(size: Size) -> [u8; 4] {
    let ([a, b], [c, d]) = (size.columns.to_le_bytes(), size.rows.to_le_bytes());
    [a, b, c, d]
}

fn contents(start: &Start) -> Vec<u8> {
    let mut writer = Writer::default();
    for list in [&start.words, &start.environment] {
        writer.number(list.len());
        list.iter().for_each(|string| writer.string(string));
    }
    writer.0.push(u8::from(start.directory.is_some()));
    if let Some(directory) = &start.directory {
        writer.string(directory);
    }
    writer.0.push(u8::from(start.terminal.is_some()));
    if let Some(terminal) = start.terminal {
        writer.0.extend_from_slice(&size_bytes(terminal));
    }
    writer.0
}

fn start(contents: &[u8]) -> Result<Start, Broken> {
    let mut reader = Reader { kind: kind::START, rest: contents };
    let broken = Broken::Contents(kind::START);
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        // Each takes some of what is there, so that their number needs no bound of its own.
        for _ in 0..reader.number()? {
            list.push(reader.string()?);
        }
    }
    let [words, environment] = lists;
    if words.is_empty() {
        return Err(broken);
    }
    let is_there = |reader: &mut Reader<'_>| match reader.bytes(1)? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(broken),
    };
    let directory = if is_there(&mut reader)? { Some(reader.string()?) } else { None };
    let terminal = if is_there(&mut reader)? {
        Some(size(reader.bytes(4)?.try_into().map_err(|_| broken)?))
    } else {
        None
    };
    reader.end()?;
    Ok(Start { words, environment, directory, terminal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decoder;

    #[test]
    fn what_is_said_is_understood() {
        let start = Start {
            words: vec![b"sh".to_vec(), b"-c".to_vec(), Vec::new()],
            environment: vec![b"A=b".to_vec()],
            directory: Some(b"/src".to_vec()),
            terminal: Some(Size { columns: 80, rows: 24 }),
        };
        let said = [
            ToGuest::Start(start),
            ToGuest::Start(Start { words: vec![b"true".to_vec()], ..Start::default() }),
            ToGuest::Input(vec![1; MOST_DATA]),
            ToGuest::InputEnd,
            ToGuest::Credit(Stream::Error, 70_000),
            ToGuest::Signal(15),
            ToGuest::Resize(Size { columns: 300, rows: 1 }),
            ToGuest::Gone(Stream::Output),
        ];
        let mut decoder = Decoder::<ToGuest>::default();
        for message in said {
            decoder.push(&message.bytes());
            assert_eq!(decoder.next(), Ok(Some(message)));
        }
    }

    #[test]
    fn a_command_without_words_or_with_something_behind_it_is_none() {
        let nothing = frame(kind::START, &[0; 10]);
        let mut longer = contents(&Start { words: vec![b"true".to_vec()], ..Start::default() });
        longer.push(0);
        for bytes in [nothing, frame(kind::START, &longer)] {
            let mut decoder = Decoder::<ToGuest>::default();
            decoder.push(&bytes);
            assert_eq!(decoder.next(), Err(Broken::Contents(kind::START)));
        }
    }
}
