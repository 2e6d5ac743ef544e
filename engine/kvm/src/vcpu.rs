//! One processor on KVM: entering the guest, and what its exits ask for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_msi;
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::time::{ClockId, clock_gettime};
use tern_chipset::layout::MSI;
use tern_engine::{Clock, EngineError, ExitKind, Kick, Statistics, Vcpu, VmEntry, VmExit};
use tern_x86::state::{Activity, VcpuState};

use crate::failure::{self, Deferred};
use crate::gathered::Gathered;
use crate::host::refused;
use crate::kernel_statistics::KernelStatistics;
use crate::kick::Kicker;
use crate::run_page::{Reason, RunPage};
use crate::standstill::Stillness;
use crate::state::{self, Abilities, Beyond, Optional};
use crate::transfer::Transfer;

/// How often an instruction may ask before it ends: it touches at most two pages of devices, 8 bytes at a time.
const MOST_QUESTIONS: usize = 1024;

/// The delivery mode that was "remote read" once.
const REMOTE_READ: u32 = 3;

/// A processor's file, shared with the machine, which resets and saves the local APIC through it.
pub type SharedFd = Arc<Mutex<VcpuFd>>;

/// Locks a processor's file. Only its own thread holds it for long, while it is in the guest.
pub fn lock(fd: &SharedFd) -> MutexGuard<'_, VcpuFd> {
    fd.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a processor's state depends on, fixed when it was made.
#[derive(Debug, Clone)]
pub struct Traits {
    /// Processor number.
    pub index: u32,
    /// The guest has XSAVE.
    pub xsave: bool,
    /// Which registers the host keeps.
    pub msrs: Optional,
    /// What the processor has beyond the named models, if it is a host's own.
    pub beyond: Option<Arc<Beyond>>,
    /// The guest's TSC, in ticks per millisecond.
    pub tsc_khz: u32,
    /// The machine's clock.
    pub clock: Arc<Clock>,
    /// The guest's time while it stands still.
    pub stillness: Stillness,
}

/// What processors share with their machine.
#[derive(Clone)]
pub struct Machine {
    /// Its file.
    pub fd: Arc<VmFd>,
    /// What failed where it could not be told.
    pub deferred: Arc<Deferred>,
    /// The writes that the kernel gathers.
    pub gathered: Arc<Gathered>,
}

/// One processor.
pub struct KvmVcpu {
    fd: SharedFd,
    page: RunPage,
    kicker: Arc<Kicker>,
    traits: Traits,
    machine: Machine,
    /// The exit that is being answered; KVM has not finished its instruction yet.
    transfer: Option<Transfer>,
    /// After a triple fault, until the state is replaced.
    shut_down: bool,
    statistics: Statistics,
    /// The kernel's own: the processor's, and the first one's also the machine's.
    kernel_statistics: Vec<KernelStatistics>,
}

impl KvmVcpu {
    /// The processor of `machine` behind `fd`, with its shared page.
    pub fn new(
        fd: SharedFd,
        page: RunPage,
        kicker: Arc<Kicker>,
        machine: Machine,
        kernel_statistics: Vec<KernelStatistics>,
        traits: Traits,
    ) -> Self {
        Self {
            fd,
            page,
            kicker,
            traits,
            machine,
            transfer: None,
            shut_down: false,
            statistics: Statistics::default(),
            kernel_statistics,
        }
    }

    fn abilities(&self) -> Abilities<'_> {
        let nanoseconds = u128::from(self.traits.clock.now().as_nanos());
        let ticks = nanoseconds * u128::from(self.traits.tsc_khz) / 1_000_000;
        // A counter of 64 bits, which wraps.
        Abilities {
            xsave: self.traits.xsave,
            msrs: self.traits.msrs,
            base_tsc: ticks as u64,
            beyond: self.traits.beyond.as_deref(),
        }
    }

    fn read_state(&self) -> Result<VcpuState, EngineError> {
        let abilities = self.abilities();
        let mut state = state::get(&lock(&self.fd), &abilities)?;
        if let Some(tsc) = self.traits.stillness.tsc(self.traits.index) {
            state.msrs.tsc_offset = tsc.wrapping_sub(abilities.base_tsc);
        }
        if self.shut_down {
            state.activity = Activity::Shutdown;
        }
        Ok(state)
    }

    /// Runs the guest until it needs something.
    fn enter(&mut self) -> Result<VmExit, EngineError> {
        loop {
            if self.shut_down {
                return Ok(VmExit::TripleFault);
            }
            let entered = self.enter_once();
            // What was written before is carried out before what is asked now.
            self.machine.gathered.flush();
            match entered {
                Ok(()) => {}
                // An application processor that waits for INIT says EAGAIN when it has come.
                Err(libc::EAGAIN) => continue,
                Err(libc::EINTR) if self.kicker.take() => return Ok(VmExit::Kicked),
                Err(libc::EINTR) => continue,
                Err(errno) => {
                    let source = std::io::Error::from_raw_os_error(errno);
                    return Err(EngineError::Host { action: "run a processor through /dev/kvm", source });
                }
            }
            if let Some(transfer) = self.transfer()?
                && let Some(exit) = transfer.question(&self.page)
            {
                self.transfer = Some(transfer);
                return Ok(exit);
            }
        }
    }

    /// One KVM_RUN; the error is its errno.
    fn enter_once(&self) -> Result<(), i32> {
        let mut fd = lock(&self.fd);
        let _inside = self.kicker.entering();
        // Why it returned is read from our own mapping of the page.
        fd.run().map(drop).map_err(|error| error.errno())
    }

    /// Lets KVM finish the instruction that asked last, so that it does not finish it in another state. The answers do not
    /// matter any more.
    fn drop_instruction(&mut self) -> Result<(), EngineError> {
        for _ in 0..MOST_QUESTIONS {
            if self.finish_instruction(VmEntry::Resume)?.is_none() {
                return Ok(());
            }
        }
        self.transfer = None;
        Ok(())
    }

    /// Lets KVM finish the instruction that asked last, which may ask for more.
    fn finish_instruction(&mut self, entry: VmEntry) -> Result<Option<VmExit>, EngineError> {
        let Some(mut transfer) = self.transfer.take() else { return Ok(None) };
        transfer.answer(entry, &mut self.page);
        let mut question = transfer.question(&self.page);
        if question.is_none() {
            let kicked = self.kicker.replace(true);
            // With an immediate exit, KVM completes what it has begun and enters the guest no more.
            let entered = self.enter_once();
            self.kicker.replace(kicked);
            self.machine.gathered.flush();
            match entered {
                Ok(()) => {}
                Err(libc::EINTR) => return Ok(None),
                Err(errno) => return Err(refused("complete an instruction")(kvm_ioctls::Error::new(errno))),
            }
            let Some(next) = self.transfer()? else { return Ok(None) };
            question = next.question(&self.page);
            transfer = next;
        }
        if question.is_some() {
            self.transfer = Some(transfer);
        }
        Ok(question)
    }

    /// The accesses that the last exit asks for; none if it was for something else.
    fn transfer(&mut self) -> Result<Option<Transfer>, EngineError> {
        Ok(Some(match self.page.reason() {
            Reason::Port { is_read, port, size, count, offset } => {
                Transfer::Port { is_read, port, size, left: count, offset }
            }
            Reason::Memory { is_write, address, length, data } => {
                Transfer::Memory { is_write, address, length, done: 0, data }
            }
            Reason::Shutdown => {
                self.shut_down = true;
                return Ok(None);
            }
            Reason::Interrupted => return Ok(None),
            reason => return Err(failure::gave_up(self.traits.index, &reason, self.read_state()?)),
        }))
    }

    fn replace_state(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        self.drop_instruction()?;
        let abilities = self.abilities();
        let tsc = abilities.base_tsc.wrapping_add(state.msrs.tsc_offset);
        self.traits.stillness.set_tsc(self.traits.index, tsc);
        state::set(&lock(&self.fd), &abilities, state)?;
        if state.pending.woken {
            // An error means that the guest has switched its local APIC off, and cannot be woken.
            let _ = self.machine.fd.signal_msi(wake(self.traits.index));
        }
        Ok(())
    }

    fn count(&mut self, exit: &VmExit) {
        let kind = match exit {
            VmExit::PortIn { .. } => ExitKind::PortIn,
            VmExit::PortOut { .. } => ExitKind::PortOut,
            VmExit::MmioRead { .. } => ExitKind::MmioRead,
            VmExit::MmioWrite { .. } => ExitKind::MmioWrite,
            VmExit::Kicked => ExitKind::Kicked,
            VmExit::TripleFault => return,
        };
        self.statistics.count(kind);
    }
}

/// A message with which KVM does what its hypercall KICK_CPU does to a processor (below 255): in its local APIC the reserved
/// delivery mode 3 means just that. No other call sets what KVM remembers of it.
fn wake(index: u32) -> kvm_msi {
    let address = MSI.start as u32 | index << 12;
    kvm_msi { address_lo: address, data: REMOTE_READ << 8, ..Default::default() }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, entry: VmEntry) -> Result<VmExit, EngineError> {
        self.machine.deferred.take()?;
        if let Some(mut transfer) = self.transfer.take() {
            transfer.answer(entry, &mut self.page);
            if let Some(exit) = transfer.question(&self.page) {
                self.transfer = Some(transfer);
                self.count(&exit);
                return Ok(exit);
            }
        }
        let exit = self.enter()?;
        self.count(&exit);
        Ok(exit)
    }

    fn finish(&mut self, entry: VmEntry) -> Result<Option<VmExit>, EngineError> {
        self.machine.deferred.take()?;
        let exit = self.finish_instruction(entry)?;
        if let Some(exit) = &exit {
            self.count(exit);
        }
        Ok(exit)
    }

    fn state(&self) -> VcpuState {
        self.read_state().unwrap_or_else(|error| {
            self.machine.deferred.put(error);
            VcpuState::reset()
        })
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.shut_down = state.activity == Activity::Shutdown;
        if let Err(error) = self.replace_state(state) {
            self.machine.deferred.put(error);
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }

    /// Time is that of the calling thread, which ought to be the one that runs the processor: KVM waits in HLT by itself,
    /// and only the thread's own time leaves that out.
    fn statistics(&self) -> Statistics {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let nanoseconds = used.tv_sec.saturating_mul(1_000_000_000).saturating_add(used.tv_nsec);
        let mut statistics = self.statistics.clone();
        statistics.busy_nanoseconds = nanoseconds.try_into().unwrap_or(0);
        statistics.engine.extend(self.kernel_statistics.iter().flat_map(KernelStatistics::read));
        statistics
    }
}
