//! What must be seen, in the order in which the guest reports it.

use std::panic::Location;
use std::rc::Rc;

/// The numbers of exceptions (APM volume 2, table 8-1).
pub mod vector {
    #![allow(missing_docs, reason = "they are the manual's mnemonics")]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XF: u8 = 19;

    /// Whether the processor pushes an error code.
    #[must_use]
    pub const fn has_error_code(vector: u8) -> bool {
        matches!(vector, DF | TS | NP | SS | GP | PF | AC)
    }
}

/// An exception, as a guest's handler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    vector: u8,
    code: u32,
    cr2: u64,
    /// `None` if it may be reported anywhere.
    at: Option<u32>,
}

/// An exception without an error code, or with 0, reported at the first of the instructions that are watched.
#[must_use]
pub const fn fault(vector: u8) -> Fault {
    Fault { vector, code: 0, cr2: 0, at: Some(0) }
}

/// A page fault with this error code at this linear address.
#[must_use]
pub const fn page_fault(code: u32, cr2: u64) -> Fault {
    Fault { vector: vector::PF, code, cr2, at: Some(0) }
}

impl Fault {
    /// With this error code.
    #[must_use]
    pub const fn code(self, code: u32) -> Self {
        Self { code, ..self }
    }

    /// Reported this many bytes behind the start of the instructions that are watched.
    #[must_use]
    pub const fn at(self, at: u32) -> Self {
        Self { at: Some(at), ..self }
    }

    /// Reported wherever: the instruction pointer had left the instructions that are watched.
    #[must_use]
    pub const fn elsewhere(self) -> Self {
        Self { at: None, ..self }
    }
}

/// A condition on a word that the guest reports.
type Condition = Box<dyn Fn(u64) -> bool>;

enum Kind {
    Exactly(u64),
    Such(Condition),
}

/// One word of the report and where the test says so.
struct Expected {
    kind: Kind,
    /// What the word is, if it is not the value of an expression.
    what: &'static str,
    place: &'static Location<'static>,
    /// Which of the cases it is that come by the same place.
    case: Rc<str>,
}

/// All words of a guest's report.
#[derive(Default)]
pub struct Expectations {
    words: Vec<Expected>,
    case: Rc<str>,
}

impl Expectations {
    /// What follows belongs to this case, which is told with a difference.
    pub fn case(&mut self, case: &str) {
        self.case = format!(" ({case})").into();
    }

    /// The next word is this one.
    #[track_caller]
    pub fn exactly(&mut self, value: u64) {
        self.push(Kind::Exactly(value), "value");
    }

    /// The next word is such that `condition` holds.
    #[track_caller]
    pub fn such(&mut self, condition: impl Fn(u64) -> bool + 'static) {
        self.push(Kind::Such(Box::new(condition)), "value");
    }

    /// The next words tell of this exception.
    #[track_caller]
    pub fn fault(&mut self, fault: Fault) {
        let first = u64::from(fault.vector) | u64::from(fault.code) << 32;
        self.push(Kind::Exactly(first), "vector (low half) and error code (high half)");
        self.push(Kind::Exactly(fault.cr2), "CR2 of a page fault");
        let at = fault.at.map_or_else(|| Kind::Such(Box::new(|_| true)), |at| Kind::Exactly(at.into()));
        self.push(at, "distance of RIP");
    }

    #[track_caller]
    fn push(&mut self, kind: Kind, what: &'static str) {
        self.words.push(Expected { kind, what, place: Location::caller(), case: Rc::clone(&self.case) });
    }

    /// The first difference between what was expected and `words`.
    ///
    /// # Errors
    /// A text with the difference and its place in the test.
    pub fn compare(&self, words: &[u64]) -> Result<(), String> {
        for (index, expected) in self.words.iter().enumerate() {
            let Expected { place, case, .. } = expected;
            let Some(&word) = words.get(index) else {
                return Err(format!("{place}{case}: nothing was reported any more"));
            };
            let (what, wrong) = match &expected.kind {
                Kind::Exactly(value) if *value == word => continue,
                Kind::Exactly(value) => (expected.what, format!("expected {value:#x}")),
                Kind::Such(condition) if condition(word) => continue,
                Kind::Such(_) => (expected.what, "it does not meet its condition".to_owned()),
            };
            return Err(format!("{place}{case}: {what} {word:#x}: {wrong}"));
        }
        match words.get(self.words.len()) {
            Some(word) => Err(format!("more was reported than the test expects, beginning with {word:#x}")),
            None => Ok(()),
        }
    }
}
