//! Frames: a byte that says what it is, the length of what follows in four bytes (little-endian), and that.

use std::fmt::Debug;
use std::marker::PhantomData;

use thiserror::Error;

/// Bytes before a frame's own.
pub const HEADER: usize = 5;

/// Why a conversation cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Broken {
    /// A frame of no kind that there is.
    #[error("a message of the unknown kind {0}")]
    Kind(u8),
    /// A frame that is longer or shorter than its kind can be.
    #[error("a message of kind {kind} with {length} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// Its length, as it says.
        length: u32,
    },
    /// A frame with contents that its kind cannot have.
    #[error("a message of kind {0} that makes no sense")]
    Contents(u8),
}

/// A frame of this kind with these contents.
pub(crate) fn frame(kind: u8, contents: &[u8]) -> Vec<u8> {
    let length = u32::try_from(contents.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + contents.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(contents);
    bytes
}

/// What is said in one direction.
pub trait Message: Sized + Debug + PartialEq {
    /// The longest frame that there is, in bytes, without its header.
    const MOST: usize;

    /// How many bytes a frame of this kind may have.
    fn most(kind: u8) -> Option<usize>;

    /// Understands a frame.
    ///
    /// # Errors
    /// It makes no sense.
    fn parse(kind: u8, contents: &[u8]) -> Result<Self, Broken>;

    /// The whole frame.
    fn bytes(&self) -> Vec<u8>;
}

/// Finds messages in what comes, in pieces of any size.
#[derive(Debug)]
pub struct Decoder<M> {
    bytes: Vec<u8>,
    /// How many of them were understood.
    done: usize,
    message: PhantomData<M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { bytes: Vec::new(), done: 0, message: PhantomData }
    }
}

impl<M: Message> Decoder<M> {
    /// Takes what has come. Call [`Decoder::next`] until there is nothing more before the next piece, so that not more is kept than
    /// a frame and a piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.done);
        self.done = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came is none. Nothing more is understood from then on.
    #[allow(clippy::should_implement_trait, reason = "it is no end if there is none now")]
    pub fn next(&mut self) -> Result<Option<M>, Broken> {
        let rest = self.bytes.get(self.done..).unwrap_or_default();
        let Some((&[kind, a, b, c, d], contents)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let most = M::most(kind).ok_or(Broken::Kind(kind))?;
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > most {
            return Err(Broken::Length { kind, length });
        }
        let Some(contents) = contents.get(..size) else { return Ok(None) };
        let message = M::parse(kind, contents)?;
        self.done += HEADER + size;
        Ok(Some(message))
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.bytes.len() - self.done
    }
}

/// A number of two bytes, little-endian, that is all there is.
pub(crate) fn u16_of(kind: u8, contents: &[u8]) -> Result<u16, Broken> {
    Ok(u16::from_le_bytes(exactly(kind, contents)?))
}

/// A number of four bytes, little-endian, that is all there is.
pub(crate) fn u32_of(kind: u8, contents: &[u8]) -> Result<u32, Broken> {
    Ok(u32::from_le_bytes(exactly(kind, contents)?))
}

/// As many bytes as there must be.
pub(crate) fn exactly<const N: usize>(kind: u8, contents: &[u8]) -> Result<[u8; N], Broken> {
    let length = u32::try_from(contents.len()).unwrap_or(u32::MAX);
    contents.try_into().map_err(|_| Broken::Length { kind, length })
}
