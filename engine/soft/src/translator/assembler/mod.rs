//! The few host instructions that translated code needs around the guest's own, as bytes.
//!
//! Guest instructions are encoded by `iced-x86`; what stands around each of them is always one of these, and writing the
//! bytes out is several times as fast. Everything is position-independent but for jumps to code that exists already, which
//! are [`Fixup`]s until the place of the new code is known.
//!
//! Memory operands are of two kinds: those of the processor itself ([`super::frame`]), `[rsp + displacement]` with an index where
//! it is a table; and guest memory after its check ([`Memory`]).
//!
//! | file | what it emits |
//! |---|---|
//! | `registers` | moves and arithmetic between registers and immediates, and addresses |
//! | `frame` | operands of the processor itself |
//! | `guest` | operands in guest memory |
//! | `vectors` | vector registers and MXCSR |
//! | `control` | jumps, calls and the host's stack |

mod control;
mod frame;
mod guest;
mod registers;
mod vectors;

pub use control::*;
pub use guest::Memory;

/// A host register by its number in encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(pub u8);

/// RAX.
pub const RAX: Host = Host(0);
/// RCX.
pub const RCX: Host = Host(1);
/// RDX.
pub const RDX: Host = Host(2);
/// RBX.
pub const RBX: Host = Host(3);
/// RSP: the processor.
pub const RSP: Host = Host(4);
/// RBP.
pub const RBP: Host = Host(5);
/// RSI.
pub const RSI: Host = Host(6);
/// RDI.
pub const RDI: Host = Host(7);
/// R8.
pub const R8: Host = Host(8);
/// R9: the guest's RSP.
pub const R9: Host = Host(9);
/// R10: first scratch register; a guest address on its way to a host address.
pub const R10: Host = Host(10);
/// R11: second scratch register.
pub const R11: Host = Host(11);

/// Four bytes that are filled in when the place of the new code is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixup {
    /// Where the four bytes are, from the start of the new code.
    pub at: usize,
    /// What they tell.
    pub value: Value,
}

/// What a [`Fixup`]'s bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// The distance to code that exists already, from the start of the code memory.
    DistanceOut(u32),
    /// The distance to the new code's other part, from the start of the new code.
    DistanceAcross(usize),
    /// Where this place of the new code will be, from the start of the code memory.
    Place(usize),
}

/// Code without a place. Its two parts lie apart: what often runs, and behind `split` what seldom does.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    /// All bytes.
    pub bytes: &'a [u8],
    /// Where the part begins that seldom runs.
    pub split: usize,
    /// What is to be filled in.
    pub fixups: &'a [Fixup],
}

/// A place in the new code that is jumped to before it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// Code in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    split: Option<usize>,
    fixups: Vec<Fixup>,
    labels: Vec<Option<usize>>,
    /// Four-byte distances to labels.
    waiting: Vec<(usize, Label)>,
}

impl Assembler {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets everything, for code anew.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.split = None;
        self.fixups.clear();
        self.labels.clear();
        self.waiting.clear();
    }

    /// What follows seldom runs.
    pub fn begin_cold(&mut self) {
        self.split = Some(self.bytes.len());
    }

    /// The code; `None` if it jumps to a label that was not placed.
    pub fn finish(&mut self) -> Option<Code<'_>> {
        let split = self.split.unwrap_or(self.bytes.len());
        for (at, Label(n)) in self.waiting.drain(..) {
            let target = (*self.labels.get(n)?)?;
            if (at < split) == (target < split) {
                let distance = target.wrapping_sub(at + 4) as u32;
                self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
            } else {
                self.fixups.push(Fixup { at, value: Value::DistanceAcross(target) });
            }
        }
        Some(Code { bytes: &self.bytes, split, fixups: &self.fixups })
    }

    /// Appends encoded instructions.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub fn place(&mut self, Label(n): Label) {
        self.labels[n] = Some(self.bytes.len());
    }

    /// A label here.
    pub fn here(&mut self) -> Label {
        self.labels.push(Some(self.bytes.len()));
        Label(self.labels.len() - 1)
    }

    fn distance_to(&mut self, label: Label) {
        self.waiting.push((self.bytes.len(), label));
        self.raw(&[0; 4]);
    }

    fn distance_out(&mut self, target: u32) {
        self.fixups.push(Fixup { at: self.bytes.len(), value: Value::DistanceOut(target) });
        self.raw(&[0; 4]);
    }

    /// Four bytes that tell where the place at `offset` of this code will be, from the start of the code memory.
    pub fn place_of(&mut self, offset: usize) {
        self.fixups.push(Fixup { at: self.bytes.len(), value: Value::Place(offset) });
        self.raw(&[0; 4]);
    }

    /// REX for a register operand, an index and a base; left out where it says nothing.
    fn rex(&mut self, wide: bool, reg: Host, index: u8, base: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg.0 >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
    }
}
