//! What the agent says.

use crate::frame::{Broken, Message, exactly, frame, u16_of, u32_of};
use crate::{MOST_DATA, Stream};

/// The kinds of frames.
mod kind {
    pub const HELLO: u8 = 1;
    pub const STARTED: u8 = 2;
    pub const FAILED: u8 = 3;
    pub const OUTPUT: u8 = 4;
    pub const CREDIT: u8 = 5;
    pub const INPUT_GONE: u8 = 6;
    pub const EXITED: u8 = 7;
    pub const KILLED: u8 = 8;
}

/// The most bytes of a reason.
pub const MOST_REASON: usize = 1024;

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest {
    /// It is there, and speaks this version.
    Hello(u16),
    /// The command runs.
    Started,
    /// It cannot be run.
    Failed {
        /// The exit code that stands for it: 125, 126 or 127.
        code: u8,
        /// Why, for people.
        reason: String,
    },
    /// Output of the command, 1 to [`MOST_DATA`] bytes.
    Output(Stream, Vec<u8>),
    /// The command has taken so many bytes of input.
    Credit(u32),
    /// The command takes no more input.
    InputGone,
    /// It has ended with this code.
    Exited(u8),
    /// This signal has ended it.
    Killed(u8),
}

impl Message for FromGuest {
    const MOST: usize = MOST_DATA + 1;

    fn most(kind: u8) -> Option<usize> {
        Some(match kind {
            kind::STARTED | kind::INPUT_GONE => 0,
            kind::EXITED | kind::KILLED => 1,
            kind::HELLO => 2,
            kind::CREDIT => 4,
            kind::FAILED => 1 + MOST_REASON,
            kind::OUTPUT => 1 + MOST_DATA,
            _ => return None,
        })
    }

    fn parse(kind: u8, contents: &[u8]) -> Result<Self, Broken> {
        let broken = Broken::Contents(kind);
        Ok(match kind {
            kind::HELLO => Self::Hello(u16_of(kind, contents)?),
            kind::STARTED => Self::Started,
            kind::FAILED => {
                let (&code, reason) = contents.split_first().ok_or(broken)?;
                if !(125..=127).contains(&code) {
                    return Err(broken);
                }
                let reason = std::str::from_utf8(reason).map_err(|_| broken)?.to_owned();
                Self::Failed { code, reason }
            }
            kind::OUTPUT => {
                let (&stream, data) = contents.split_first().ok_or(broken)?;
                let stream = Stream::numbered(stream).filter(|_| !data.is_empty()).ok_or(broken)?;
                Self::Output(stream, data.to_vec())
            }
            kind::CREDIT => Self::Credit(u32_of(kind, contents)?),
            kind::INPUT_GONE => Self::InputGone,
            kind::EXITED => Self::Exited(exactly::<1>(kind, contents)?[0]),
            kind::KILLED => Self::Killed(exactly::<1>(kind, contents)?[0]),
            _ => return Err(Broken::Kind(kind)),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Hello(version) => frame(kind::HELLO, &version.to_le_bytes()),
            Self::Started => frame(kind::STARTED, &[]),
            Self::Failed { code, reason } => {
                let reason = &reason.as_bytes()[..reason.floor_char_boundary(MOST_REASON)];
                frame(kind::FAILED, &[&[*code], reason].concat())
            }
            Self::Output(stream, data) => frame(kind::OUTPUT, &[&[stream.number()], &data[..]].concat()),
            Self::Credit(count) => frame(kind::CREDIT, &count.to_le_bytes()),
            Self::InputGone => frame(kind::INPUT_GONE, &[]),
            Self::Exited(code) => frame(kind::EXITED, &[*code]),
            Self::Killed(signal) => frame(kind::KILLED, &[*signal]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decoder;

    fn decode(bytes: &[u8]) -> Result<Option<FromGuest>, Broken> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.next()
    }

    #[test]
    fn what_is_said_is_understood_however_it_is_cut() {
        let said = [
            FromGuest::Hello(1),
            FromGuest::Started,
            FromGuest::Failed { code: 127, reason: "'x' was not found".to_owned() },
            FromGuest::Output(Stream::Output, vec![7; MOST_DATA]),
            FromGuest::Output(Stream::Error, vec![0]),
            FromGuest::Credit(1 << 20),
            FromGuest::InputGone,
            FromGuest::Exited(7),
            FromGuest::Killed(9),
        ];
        let bytes: Vec<u8> = said.iter().flat_map(FromGuest::bytes).collect();
        for step in [1, 3, 4096, bytes.len()] {
            let mut decoder = Decoder::<FromGuest>::default();
            let mut heard = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(message) = decoder.next().unwrap() {
                    heard.push(message);
                }
            }
            assert_eq!(heard, said);
            assert_eq!(decoder.kept(), 0);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_comes() {
        assert_eq!(decode(&[4, 2, 0x40, 0, 0]), Err(Broken::Length { kind: 4, length: 0x4002 }));
        assert_eq!(decode(&[7, 255, 255, 255, 255]), Err(Broken::Length { kind: 7, length: u32::MAX }));
        assert_eq!(decode(&[99, 0, 0, 0, 0]), Err(Broken::Kind(99)));
        assert_eq!(decode(&[1, 1, 0, 0, 0, 1]), Err(Broken::Length { kind: 1, length: 1 }));
    }

    #[test]
    fn a_frame_that_makes_no_sense_is_refused() {
        for bytes in [
            &[4, 2, 0, 0, 0, 3, 7][..],
            &[4, 1, 0, 0, 0, 1],
            &[3, 1, 0, 0, 0, 0],
            &[3, 2, 0, 0, 0, 127, 0xff],
        ] {
            assert_eq!(decode(bytes), Err(Broken::Contents(bytes[0])));
        }
        assert_eq!(decode(&[4, 2, 0, 0]), Ok(None));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_letter() {
        let reason = "é".repeat(MOST_REASON);
        let bytes = FromGuest::Failed { code: 126, reason }.bytes();
        assert!(matches!(decode(&bytes), Ok(Some(FromGuest::Failed { code: 126, .. }))));
    }
}
