//! Lists of byte strings in a frame: how many there are, and each with its length before it, in four bytes (little-endian).

use crate::frame::Broken;

/// Writes contents of a frame.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, number: usize) {
        // The whole frame is bounded, and its sender is told when it is too long.
        self.0.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(crate) fn string(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }
}

/// Reads contents of a frame.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub kind: u8,
    pub rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Broken::Contents(self.kind))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn number(&mut self) -> Result<usize, Broken> {
        let bytes = self.bytes(4)?.try_into().map_err(|_| Broken::Contents(self.kind))?;
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| Broken::Contents(self.kind))
    }

    pub(crate) fn string(&mut self) -> Result<Vec<u8>, Broken> {
        let length = self.number()?;
        let bytes = self.bytes(length)?;
        // It becomes a C string.
        if bytes.contains(&0) { Err(Broken::Contents(self.kind)) } else { Ok(bytes.to_vec()) }
    }

    pub(crate) fn end(self) -> Result<(), Broken> {
        if self.rest.is_empty() { Ok(()) } else { Err(Broken::Contents(self.kind)) }
    }
}
