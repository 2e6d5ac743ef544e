//! What the scratch registers, R10 and R11, hold between guest instructions.
//!
//! The guest's R9, R10 and R11 live in memory. What an instruction makes of them is stored at once, so that the state in memory
//! is always exact; but it stays in the scratch register too until something else needs that, and the next instruction
//! on the same guest register need not wait for memory.

use crate::translator::assembler::{Host, R10, R11};

/// What a scratch register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Nothing that is of use.
    Nothing,
    /// The same as the slot of this guest register.
    Guest(usize),
    /// How far host addresses are from linear ones in this group.
    Delta(usize),
}

/// What both hold.
#[derive(Debug, Clone, Copy)]
pub struct Scratch {
    r10: Holds,
    r11: Holds,
    /// Which one was used last.
    recent: Host,
}

impl Scratch {
    /// Both hold nothing.
    pub const fn new() -> Self {
        Self { r10: Holds::Nothing, r11: Holds::Nothing, recent: R10 }
    }

    const fn of(&mut self, register: Host) -> &mut Holds {
        debug_assert!(matches!(register, R10 | R11));
        if register.0 == R10.0 { &mut self.r10 } else { &mut self.r11 }
    }

    /// Something else was written to both.
    pub const fn forget(&mut self) {
        *self = Self::new();
    }

    /// Something else was written to one.
    pub const fn lose(&mut self, register: Host) {
        *self.of(register) = Holds::Nothing;
    }

    /// One holds the present value of a guest register, which an older one is in no longer.
    pub fn hold_guest(&mut self, register: Host, number: usize) {
        for other in [R10, R11] {
            if *self.of(other) == Holds::Guest(number) {
                self.lose(other);
            }
        }
        *self.of(register) = Holds::Guest(number);
        self.recent = register;
    }

    /// R11 holds a group's delta.
    pub fn hold_delta(&mut self, group: usize) {
        self.r11 = Holds::Delta(group);
        self.recent = R11;
    }

    /// What R11 holds.
    pub const fn r11(&self) -> Holds {
        self.r11
    }

    /// Where the value of a guest register is, if it is in one of them.
    pub fn guest(&self, number: usize) -> Option<Host> {
        match Holds::Guest(number) {
            holds if holds == self.r11 => Some(R11),
            holds if holds == self.r10 => Some(R10),
            _ => None,
        }
    }

    /// Whether R11 holds a group's delta.
    pub fn has_delta(&self, group: usize) -> bool {
        self.r11 == Holds::Delta(group)
    }

    /// Where a guest register that is in none of them is best put, while those in `needed` are to stay if that is possible.
    pub fn place(&self, needed: impl Fn(usize) -> bool) -> Host {
        let is_needed = |holds: Holds| matches!(holds, Holds::Guest(number) if needed(number));
        match (self.r10, self.r11) {
            (_, r11) if is_needed(r11) => R10,
            (r10, _) if is_needed(r10) => R11,
            (_, Holds::Nothing) => R11,
            (Holds::Nothing, _) => R10,
            _ if self.recent == R11 => R10,
            _ => R11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_value_is_held_no_longer() {
        let mut scratch = Scratch::new();
        scratch.hold_guest(R11, 9);
        assert_eq!(scratch.guest(9), Some(R11));
        scratch.hold_guest(R10, 9);
        assert_eq!((scratch.guest(9), scratch.r11()), (Some(R10), Holds::Nothing));
        scratch.lose(R10);
        assert_eq!(scratch.guest(9), None);
    }

    #[test]
    fn what_was_used_last_and_what_is_needed_stays() {
        let mut scratch = Scratch::new();
        assert_eq!(scratch.place(|_| false), R11);
        scratch.hold_guest(R11, 9);
        assert_eq!(scratch.place(|_| false), R10);
        scratch.hold_guest(R10, 10);
        assert_eq!(scratch.place(|_| false), R11);
        assert_eq!(scratch.place(|number| number == 9), R10);
        scratch.hold_delta(3);
        assert_eq!(scratch.place(|_| false), R10);
        assert!(scratch.has_delta(3) && !scratch.has_delta(2) && scratch.guest(9).is_none());
    }
}
