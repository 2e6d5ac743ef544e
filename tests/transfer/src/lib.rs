//! Machines that leave one engine at a random moment and go on with another, in one process and with their memory where it
//! is: what live migration stands on.
//!
//! A [`Journey`] is a machine, the engines that it visits in turn, and how long it stays. The moments come from a seed; a
//! failure tells it, and `TERN_SEED=<seed>` repeats that journey alone.

#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tern_engine::{Availability, Engine};
use tern_soft::SoftEngine;
use tern_vmm::config::{CpuModel, MachineConfig};
use tern_vmm::machine::{End, Machine};

/// The software engine, as the environment wants it.
pub static SOFT: LazyLock<SoftEngine> = LazyLock::new(SoftEngine::from_environment);

/// The engines that can run here.
#[must_use]
pub fn engines() -> Vec<&'static dyn Engine> {
    let all: [&dyn Engine; 2] = [&*SOFT, &tern_kvm::KvmEngine];
    all.into_iter().filter(|engine| matches!(engine.probe(), Availability::Available(_))).collect()
}

/// A machine's way from engine to engine.
#[derive(Clone)]
pub struct Journey {
    /// The engines, in turn; after the last comes the first.
    pub engines: Vec<&'static dyn Engine>,
    /// How often the machine leaves one. On the last it stays to its end.
    pub departures: usize,
    /// How long it stays on each, in microseconds.
    pub stay: Range<u64>,
    /// How long it may take on the whole.
    pub patience: Duration,
}

/// What a machine did on its way.
pub struct Arrival {
    /// What it wrote to its console.
    pub output: String,
    /// How it ended.
    pub end: End,
    /// How often it left an engine; it may have ended before.
    pub departures: usize,
    /// The seed that its moments came from.
    pub seed: u64,
}

impl Journey {
    /// Lets a machine of `config` go the way, with `typed` as its console's input.
    ///
    /// # Panics
    /// An engine refuses the machine or fails, or the machine does not come to its end in time.
    #[must_use]
    pub fn travel(&self, config: MachineConfig, typed: &str, seed: u64) -> Arrival {
        let mut moments = Moments(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let output = Output::default();
        let began = Instant::now();
        let mut typed = typed.as_bytes();
        let first = self.engines.first().expect("a journey visits engines");
        let mut machine =
            Machine::new(config, *first, output.clone()).unwrap_or_else(|error| panic!("{error:?}"));
        let mut departures = 0;
        loop {
            let handle = machine.handle();
            let console = machine.console_input();
            let stay = Duration::from_micros(moments.next_in(&self.stay));
            let stay = if departures < self.departures { Some(stay) } else { None };
            let (ended, end) = channel::<()>();
            let left = self.patience.saturating_sub(began.elapsed());
            let rest_to_type = &mut typed;
            let outcome = thread::scope(|scope| {
                scope.spawn(move || {
                    let leaves = Instant::now() + stay.unwrap_or(left);
                    loop {
                        let rest = leaves.saturating_duration_since(Instant::now());
                        let wait = rest.min(Duration::from_millis(20));
                        match end.recv_timeout(wait) {
                            Err(RecvTimeoutError::Timeout) if rest > wait => {
                                *rest_to_type = &rest_to_type[console.offer(rest_to_type)..];
                            }
                            Err(RecvTimeoutError::Timeout) => return handle.depart(),
                            _ => return,
                        }
                    }
                });
                let outcome = machine.run();
                drop(ended);
                outcome
            });
            let outcome = outcome.unwrap_or_else(|error| panic!("seed {seed}: {error:?}\n{}", output.text()));
            match outcome.end {
                End::Departed(departed) if stay.is_none() => panic!(
                    "seed {seed}: it does not come to its end after {departures} departures:\n{:#x?}\n{}",
                    departed.state,
                    output.text()
                ),
                End::Departed(departed) => {
                    departures += 1;
                    let engine = self.engines[departures % self.engines.len()];
                    machine = Machine::arrive(*departed, engine, output.clone())
                        .unwrap_or_else(|error| panic!("seed {seed}: {error:?}\n{}", output.text()));
                }
                end => return Arrival { output: output.text(), end, departures, seed },
            }
        }
    }

    /// The processor that a guest sees on each of the engines: what the most particular one makes of `config`'s.
    ///
    /// # Panics
    /// An engine refuses the machine.
    #[must_use]
    pub fn processor(&self, config: impl Fn() -> MachineConfig) -> CpuModel {
        let engine = self.engines.iter().find(|engine| engine.name() == "kvm").or(self.engines.first());
        let engine = engine.expect("a journey visits engines");
        let machine = Machine::new(config(), *engine, io::sink()).unwrap_or_else(|error| panic!("{error:?}"));
        machine.handle().depart();
        match machine.run().unwrap_or_else(|error| panic!("{error:?}")).end {
            End::Departed(departed) => CpuModel::exactly(&departed.state.vm.identity),
            end => panic!("the machine was to depart, and ended: {end:?}"),
        }
    }
}

/// The seeds to try: `count` of them, or the one that the environment names.
///
/// # Panics
/// `TERN_SEED` is no number.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let named = env::var("TERN_SEED").ok().map(|seed| seed.parse::<u64>().expect("TERN_SEED is a number"));
    let range = named.map_or(0..count, |seed| seed..seed + 1);
    range.into_iter()
}

/// Random moments (xorshift64*).
struct Moments(u64);

impl Moments {
    fn next_in(&mut self, range: &Range<u64>) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        range.start + value % (range.end - range.start)
    }
}

/// What a machine writes, wherever it is.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
