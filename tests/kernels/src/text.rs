//! 16- and 32-bit code, which needs addresses of its own as numbers.
//!
//! The assembler knows addresses only when all is written, and these modes have no way to ask for the instruction
//! pointer. So code is written twice: the second time, [`Text::address`] knows what the first one gave. Instructions must
//! not change their length between the two, which is why addresses are numbers that need their full width from the start.

use std::ops::{Deref, DerefMut};

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, CodeLabel};

use crate::guest::{Emit, assemble, place};

/// A place in the code: for branches by its label, as a number by [`Text::address`].
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// The assembler's label.
    pub label: CodeLabel,
    index: usize,
}

/// Code being written. It is an assembler.
pub struct Text {
    code: CodeAssembler,
    base: u32,
    /// Where each mark is, as far as they are placed.
    placed: Vec<Option<CodeLabel>>,
    /// Where they were the first time.
    known: Vec<u32>,
}

impl Deref for Text {
    type Target = CodeAssembler;

    fn deref(&self) -> &CodeAssembler {
        &self.code
    }
}

impl DerefMut for Text {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.code
    }
}

impl Text {
    fn new(bitness: u32, base: u32, known: Vec<u32>) -> Result<Self, IcedError> {
        Ok(Self { code: CodeAssembler::new(bitness)?, base, placed: Vec::new(), known })
    }

    /// Writes code for `base` and returns what the second writing gave, with its bytes.
    ///
    /// # Panics
    /// The instructions cannot be encoded, or a mark is used and not placed.
    pub fn write<T>(
        bitness: u32,
        base: u32,
        write: impl Fn(Self) -> Result<(Self, T), IcedError>,
    ) -> (Vec<u8>, Self, T) {
        let once = |known| {
            let text = Self::new(bitness, base, known)?;
            let (mut text, rest) = write(text)?;
            let assembled = assemble(&mut text.code, base.into());
            let address = |label: &Option<CodeLabel>| {
                let label = label.as_ref().expect("every mark has a place");
                let address = assembled.label_ip(label).expect("every mark has a place");
                u32::try_from(address).expect("code lies below 4 GiB")
            };
            text.known = text.placed.iter().map(address).collect();
            Ok((assembled.inner.code_buffer, text, rest))
        };
        let twice = || {
            let (_, first, _) = once(Vec::new())?;
            once(first.known)
        };
        twice().unwrap_or_else(|error: IcedError| panic!("cannot write the guest: {error}"))
    }

    /// A new mark, to be placed later.
    pub fn mark(&mut self) -> Mark {
        self.placed.push(None);
        Mark { label: self.code.create_label(), index: self.placed.len() - 1 }
    }

    /// Gives `mark` the address of the next instruction.
    ///
    /// # Errors
    /// It has a place.
    pub fn place(&mut self, mark: Mark) -> Emit {
        let mut label = mark.label;
        place(&mut self.code, &mut label)?;
        self.placed[mark.index] = Some(label);
        Ok(())
    }

    /// The address of a mark; the first time something of the same width.
    #[must_use]
    pub fn address(&self, mark: Mark) -> u32 {
        self.known.get(mark.index).copied().unwrap_or(self.base)
    }
}
