//! What a processor did, for `--stats` and for benchmarks.

/// The kinds of exit that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum ExitKind {
    /// Port reads.
    PortIn,
    /// Port writes.
    PortOut,
    /// Reads of device memory.
    MmioRead,
    /// Writes of device memory.
    MmioWrite,
    /// Kicks from outside.
    Kicked,
    /// HLT, waited out inside the engine.
    Halt,
    /// Interrupts delivered to the guest.
    Interrupt,
    /// Exceptions delivered to the guest.
    Exception,
}

impl ExitKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::PortIn,
        Self::PortOut,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Kicked,
        Self::Halt,
        Self::Interrupt,
        Self::Exception,
    ];

    /// The name that users read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortIn => "port-in",
            Self::PortOut => "port-out",
            Self::MmioRead => "mmio-read",
            Self::MmioWrite => "mmio-write",
            Self::Kicked => "kicked",
            Self::Halt => "halt",
            Self::Interrupt => "interrupt",
            Self::Exception => "exception",
        }
    }
}

/// Counters of one processor, or summed over several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Guest instructions executed; zero where the engine cannot count them.
    pub instructions: u64,
    /// Nanoseconds spent executing, without the time in HLT.
    pub busy_nanoseconds: u64,
    /// How often each [`ExitKind`] happened, indexed by it.
    pub exits: [u64; ExitKind::ALL.len()],
    /// Counters of the engine's own, by name.
    pub engine: Vec<(&'static str, u64)>,
}

impl Statistics {
    /// Counts one event.
    pub const fn count(&mut self, kind: ExitKind) {
        self.exits[kind as usize] += 1;
    }

    /// Adds another processor's counters.
    pub fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
        self.busy_nanoseconds += other.busy_nanoseconds;
        for (sum, more) in self.exits.iter_mut().zip(other.exits) {
            *sum += more;
        }
        for &(name, more) in &other.engine {
            match self.engine.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += more,
                None => self.engine.push((name, more)),
            }
        }
    }

    /// Millions of guest instructions per second of busy time.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    pub fn mips(&self) -> f64 {
        if self.busy_nanoseconds == 0 {
            return 0.0;
        }
        self.instructions as f64 * 1e3 / self.busy_nanoseconds as f64
    }
}
