//! What the translator did, for `--stats`.

use super::frame::Exit;

/// Counters of one processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Units made.
    pub translations: u64,
    /// Units made again: most of the time is spent there, or an access turned out to be restless, or a device's.
    pub retranslations: u64,
    /// Of all these, units that follow a route.
    pub traces: u64,
    /// How often all translated code was dropped.
    pub evictions: u64,
    /// How often translated code gave control back, by [`Exit`].
    pub exits: [u64; 7],
    /// Checks whose page neither their site nor the table knew.
    pub misses: u64,
    /// How often all translations of addresses were dropped, and those that are not global.
    pub flushes: [u64; 2],
    /// How often the places of code were forgotten, all and those of level 3.
    pub code_flushes: [u64; 2],
    /// Instruction pointers that a jump table did not know.
    pub resolved: u64,
    /// Operations that translated code left to the interpreter.
    pub operations: u64,
}

impl Counters {
    /// Counts an exit.
    pub const fn exit(&mut self, exit: Exit) {
        self.exits[exit as usize] += 1;
    }

    /// The counters with the names that users read.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let [jump, link, interpret, exception, question, restart, plain] = self.exits;
        [
            ("translations", self.translations),
            ("retranslations", self.retranslations),
            ("traces", self.traces),
            ("evictions", self.evictions),
            ("left-for-jump", jump),
            ("left-for-link", link + plain),
            ("left-to-interpret", interpret),
            ("left-by-exception", exception + question + restart),
            ("tlb-misses", self.misses),
            ("tlb-flushes", self.flushes[0]),
            ("tlb-local-flushes", self.flushes[1]),
            ("code-flushes", self.code_flushes[0]),
            ("code-local-flushes", self.code_flushes[1]),
            ("jumps-resolved", self.resolved),
            ("interpreter-calls", self.operations),
        ]
        .into_iter()
    }
}
