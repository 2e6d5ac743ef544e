//! The software engine: a machine's processors in an ordinary process, without virtualization hardware or privileges.
//!
//! Guest code is decoded once into blocks of operations, which are then executed one after the other. What instructions
//! mean is `tern-x86`'s; this crate makes them fast and connects them to the host.
//!
//! | file | what it is |
//! |---|---|
//! | `vm`, `vcpu/` | the engine's side of `tern-engine`'s traits; the run loop |
//! | `blocks` | decoded code and how it is found again |
//! | `environment` | what surrounds a processor: memory, devices, fetching |
//! | `tlb` | from linear pages to host addresses |
//! | `ram` | guest memory in the host |
//! | `code_page` | which of it was decoded, and who must know of changes |
//! | `host` | the host instructions that access guest memory |
//! | `executable` | memory for generated code |
//! | `translator` | hot code as host code |
//! | `stage` | where a processor lies, so that translated code finds it |
//! | `native` | vector and x87 instructions, executed by the host's own units |
//! | `profile/` | where time goes: samples of what processors are at, translated code for perf |
//! | `interrupts` | interrupt controllers and interval timer, shared by the processors |
//! | `doorbells`, `wiring` | events out of the guest, and into it |
//! | `time`, `random` | clocks that the guest reads, and RDRAND |
//! | `rendezvous` | making every processor forget which pages it may write, for the log of written pages |
//!
//! `unsafe` appears where guest memory, decoded blocks and native code are reached by address.
#![allow(unsafe_code)]

mod blocks;
mod code_page;
mod doorbells;
mod environment;
mod executable;
mod host;
mod interrupts;
mod native;
mod profile;
mod ram;
mod random;
mod rendezvous;
mod stage;
mod time;
mod tlb;
mod translator;
mod vcpu;
mod vm;
mod wiring;

use std::sync::Arc;

pub use profile::Profile;
pub use tern_x86::cpuid::InstructionSets;

use tern_engine::{Availability, Engine, EngineError, GuestMemory, Vm, VmConfig};

/// The most processors of a machine.
pub const MAX_CPUS: u32 = 64;

/// What becomes of hot code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Translation {
    /// It is translated.
    #[default]
    On,
    /// It is interpreted, as all code is.
    Off,
    /// It is translated, and the interpreter does the same beside it; the first difference ends the machine. For finding
    /// errors in the translator; much slower than either.
    Verified,
}

impl Translation {
    /// By the name that users type.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "on" => Some(Self::On),
            "off" => Some(Self::Off),
            "verify" => Some(Self::Verified),
            _ => None,
        }
    }
}

/// The instruction sets beyond x86-64-v2 that guests can have on this host.
#[must_use]
pub fn instruction_sets() -> InstructionSets {
    native::instruction_sets()
}

/// From when on code is hot, and what becomes of it then.
#[derive(Debug, Clone, Copy)]
struct HotCode {
    translation: Translation,
    /// How often a block is executed before it is hot, about.
    after: u32,
    /// The same once code has been dropped to make room.
    after_drop: u32,
    /// Translated, it counts the checks of memory accesses that find their page.
    counts_hits: bool,
    /// What all processors of a machine together may keep of translated code, in bytes, if that is not as usual.
    code_cache: Option<usize>,
}

impl HotCode {
    /// What one processor of `cpus` may keep of translated code, in bytes: a multiple of the page size. It may keep as much of decoded
    /// code.
    fn share(self, cpus: usize) -> usize {
        const USUAL: usize = 256 << 20;
        const LEAST_USUAL: usize = 8 << 20;
        let share = match self.code_cache {
            Some(all) => all / cpus.max(1),
            None => (USUAL / cpus.max(1)).max(LEAST_USUAL),
        };
        // Jumps reach 2 GiB.
        share.clamp(SoftEngine::LEAST_CODE_CACHE, 1 << 30).next_multiple_of(ram::PAGE as usize)
    }
}

/// The software engine.
#[derive(Debug, Clone, Copy)]
pub struct SoftEngine {
    hot_code: HotCode,
    profile: Profile,
}

impl Default for SoftEngine {
    fn default() -> Self {
        Self::new(Translation::default())
    }
}

impl SoftEngine {
    /// Executions after which code is hot, unless a test wants it otherwise. A compiler's first file takes a tenth longer with four times as
    /// many.
    const HOT: u32 = 6;

    /// The same where there is too little room for code: what is made then must run for longer than it is kept. With one mebibyte, Linux
    /// takes twice as long to its prompt with [`SoftEngine::HOT`].
    const HOT_IN_LITTLE_ROOM: u32 = 24;

    /// What a processor may keep of translated code in any case, in bytes.
    pub const LEAST_CODE_CACHE: usize = 1 << 20;

    /// The engine that treats hot code so.
    #[must_use]
    pub const fn new(translation: Translation) -> Self {
        let profile = Profile { is_sampled: false, counts_hits: false, is_dumped: false };
        let hot_code = HotCode {
            translation,
            after: Self::HOT,
            after_drop: Self::HOT_IN_LITTLE_ROOM,
            counts_hits: false,
            code_cache: None,
        };
        Self { hot_code, profile }
    }

    /// The same, whose machines may keep so many bytes of translated code, all their processors together, and as many of decoded code;
    /// but a processor [`SoftEngine::LEAST_CODE_CACHE`] in any case. What does not find room makes all of it be dropped and
    /// made anew.
    #[must_use]
    pub const fn with_code_cache(self, bytes: usize) -> Self {
        Self { hot_code: HotCode { code_cache: Some(bytes), ..self.hot_code }, ..self }
    }

    /// The same, which tells of its work.
    #[must_use]
    pub const fn profiled(self, profile: Profile) -> Self {
        Self { hot_code: HotCode { counts_hits: profile.counts_hits, ..self.hot_code }, profile }
    }

    /// How it treats hot code.
    #[must_use]
    pub const fn translation(self) -> Translation {
        self.hot_code.translation
    }

    /// The same, but code is hot from its first execution on: for tests of translated code.
    #[must_use]
    pub const fn eager(self) -> Self {
        Self { hot_code: HotCode { after: 1, after_drop: 1, ..self.hot_code }, ..self }
    }

    /// The engine that treats hot code as the environment's `TERN_TRANSLATION` says: how tests run in each of the ways. These are
    /// `on` and `off`; and, for tests too short to have hot code, `eager`, which is `on` from the first execution on, and `verify`,
    /// which is so, too.
    ///
    /// # Panics
    /// The variable says something else.
    #[must_use]
    pub fn from_environment() -> Self {
        let Ok(name) = std::env::var("TERN_TRANSLATION") else { return Self::default() };
        match Translation::by_name(&name) {
            Some(Translation::Verified) => Self::new(Translation::Verified).eager(),
            Some(translation) => Self::new(translation),
            None if name == "eager" => Self::default().eager(),
            None => panic!("TERN_TRANSLATION is on, off, verify or eager, not '{name}'"),
        }
    }
}

impl Engine for SoftEngine {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn description(&self) -> &'static str {
        "an ordinary process; needs no virtualization hardware and no privileges"
    }

    fn probe(&self) -> Availability {
        if let Err(missing) = native::host_supports() {
            return Availability::Unavailable {
                reason: format!("this host's processor lacks {}", missing.join(", ")),
                remedy: "Use a host with an x86-64-v2 processor (any since about 2009).".into(),
            };
        }
        match native::NativeUnit::new() {
            Ok(_) => {
                Availability::Available("translates and interprets guest code on any x86-64-v2 host".into())
            }
            Err(error) => Availability::Unavailable {
                reason: format!("the host gives no executable memory: {error}"),
                remedy: "Allow it in the security policy (SELinux execmem, or a noexec /dev/shm or memfd)."
                    .into(),
            },
        }
    }

    fn instruction_sets(&self) -> InstructionSets {
        instruction_sets()
    }

    fn create_vm(&self, config: &VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, EngineError> {
        if let Availability::Unavailable { reason, remedy } = self.probe() {
            return Err(EngineError::Unavailable { engine: self.name(), reason, remedy });
        }
        Ok(Arc::new(SoftVm::new(config, memory, self.hot_code, self.profile)?))
    }
}

use vm::SoftVm;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_share_what_a_machine_may_keep_of_code() {
        let share = |engine: SoftEngine, cpus| engine.hot_code.share(cpus);
        let usual = SoftEngine::default();
        assert_eq!([1, 4, 64].map(|cpus| share(usual, cpus) >> 20), [256, 64, 8]);
        let small = usual.with_code_cache(6 << 20);
        assert_eq!([1, 4, 64].map(|cpus| share(small, cpus) >> 10), [6144, 1536, 1024]);
        assert_eq!(share(usual.with_code_cache(usize::MAX), 1), 1 << 30);
    }
}
