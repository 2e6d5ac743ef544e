//! Running a guest on every engine and comparing what it reports.

use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tern_engine::{Engine, Statistics};
use tern_vmm::boot::{Kernel, KernelKind};
use tern_vmm::config::{CpuModel, DeviceConfig, MachineConfig, OnReboot};
use tern_vmm::guest::Guest;
use tern_vmm::machine::{End, Machine, MachineHandle, Outcome};

use crate::engines;
use crate::expect::Expectations;

/// The status of a guest that came to its end: what it writes to the debug-exit port.
pub const DONE: u8 = 0x10;
/// The status of a guest that met an exception which it did not expect.
pub const UNEXPECTED: u8 = 0x20;
/// Bytes of guest memory, if a test does not choose.
pub const MEMORY: u64 = 16 << 20;
/// How long a guest may run.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine to be made anew for each engine.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The kernel file.
    pub image: Vec<u8>,
    /// Its kind.
    pub kind: KernelKind,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// Their model.
    pub cpu_model: CpuModel,
    /// What the kernel gets besides.
    pub equip: fn(&mut Guest),
    /// What is on the PCI bus.
    pub devices: fn() -> Vec<DeviceConfig>,
}

impl Setup {
    /// A machine with one processor for this kernel.
    #[must_use]
    pub fn new(image: Vec<u8>, kind: KernelKind) -> Self {
        Self {
            image,
            kind,
            memory: MEMORY,
            cpus: 1,
            cpu_model: CpuModel::default(),
            equip: |_| {},
            devices: Vec::new,
        }
    }

    /// The machine.
    ///
    /// # Panics
    /// The image is no kernel.
    #[must_use]
    pub fn config(&self) -> MachineConfig {
        let kernel = Kernel::parse(self.image.clone(), Some(self.kind)).expect("the image is a kernel");
        let mut guest = Guest::new(kernel);
        (self.equip)(&mut guest);
        MachineConfig {
            memory: self.memory,
            cpus: self.cpus,
            cpu_model: self.cpu_model.clone(),
            devices: (self.devices)(),
            debug_exit: true,
            on_reboot: OnReboot::End,
            ..MachineConfig::new(Arc::new(guest))
        }
    }
}

/// How a guest ended and what it wrote to COM1.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// The bytes.
    pub output: Vec<u8>,
    /// What its processors did.
    pub statistics: Statistics,
}

impl Ended {
    /// The output as words.
    #[must_use]
    pub fn words(&self) -> Vec<u64> {
        self.output.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
    }
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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

/// Runs the guest on `engine`. One that does not end is stopped.
///
/// # Panics
/// There can be no such machine, or its engine fails.
pub fn run_on(engine: &dyn Engine, setup: &Setup) -> Ended {
    run_with(engine, setup, |_| {})
}

/// As [`run_on`], and meanwhile `meddle` has a handle to the machine, in a thread of its own.
///
/// # Panics
/// As [`run_on`].
pub fn run_with(engine: &dyn Engine, setup: &Setup, meddle: impl FnOnce(&MachineHandle) + Send) -> Ended {
    let output = Output::default();
    let machine = Machine::new(setup.config(), engine, output.clone()).expect("there can be such a machine");
    let handle = machine.handle();
    let (ended, end) = channel::<()>();
    thread::scope(|scope| {
        let watchdog = handle.clone();
        scope.spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                watchdog.stop();
            }
        });
        scope.spawn(move || meddle(&handle));
        let outcome = machine.run();
        drop(ended);
        let Outcome { end, statistics, .. } = outcome.expect("the engine does its work");
        Ended { end, output: output.take(), statistics }
    })
}

/// Runs the guest on every engine and demands that it ends by itself, having reported what is expected.
///
/// # Panics
/// It does not.
pub fn check(setup: &Setup, expectations: &Expectations) {
    for engine in engines() {
        let ended = run_on(&*engine, setup);
        let words = ended.words();
        let difference = expectations.compare(&words);
        let end = describe(&ended.end);
        let name = engine.name();
        if let (Err(difference), Some(end)) = (&difference, &end) {
            panic!("on {name}: {end}\n{difference}\nthe whole report: {words:#x?}");
        }
        if let Err(difference) = difference {
            panic!("on {name}: {difference}\nthe whole report: {words:#x?}");
        }
        if let Some(end) = end {
            panic!("on {name}: {end}\nthe report was as expected");
        }
    }
}

/// What is wrong with this end of a guest.
fn describe(end: &End) -> Option<String> {
    const GOOD: u8 = DONE << 1 | 1;
    const BAD: u8 = UNEXPECTED << 1 | 1;
    Some(match end {
        End::DebugExit(GOOD) => return None,
        End::DebugExit(BAD) => {
            "an exception that no part of the test expected; the report ends with its vector and error code, CR2 and RIP"
                .to_owned()
        }
        End::Stopped => "it did not come to an end and was stopped".to_owned(),
        End::Crash(report) => report.to_string(),
        other => format!("it ended otherwise than it should: {other:?}"),
    })
}
