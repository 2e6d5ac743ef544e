//! The engines: the one list of them, how one is chosen, and `tern engines`, which tells whether and why each can be
//! used here.

use std::fmt::Write as _;

use anyhow::anyhow;
use clap::ValueEnum;
use serde::Serialize;
use tern_engine::{Availability, Engine, EngineError};
use tern_kvm::KvmEngine;
use tern_soft::{Profile, SoftEngine, Translation};
use tern_vmm::config::CpuModel;

use crate::cli::OutputForm;
use crate::exit::Failure;

/// Which engine makes the processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// The fastest that can run here
    Auto,
    /// The host's virtualization hardware, through /dev/kvm
    Kvm,
    /// Software only: no hardware support and no privileges needed
    Soft,
}

/// All engines, fastest first. A new one is added here and in [`EngineChoice`].
const ENGINES: [(EngineChoice, &dyn Engine); 2] =
    [(EngineChoice::Kvm, &KvmEngine), (EngineChoice::Soft, &SoftEngine::new(Translation::On))];

/// What the software engine does with hot code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TranslationChoice {
    /// Hot code is translated to host code
    On,
    /// All code is interpreted
    Off,
    /// Hot code is translated, and the interpreter checks the first runs of each piece and samples of the later ones: stops at the first
    /// difference
    Verify,
}

/// How the software engine is to work, where it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SoftOptions {
    pub translation: TranslationChoice,
    /// Bytes, if not as usual.
    pub code_cache: Option<u64>,
    pub profile: Profile,
}

impl SoftOptions {
    /// Whether no other engine can do that.
    fn need_soft(self) -> bool {
        self.translation != TranslationChoice::On || self.profile.is_dumped
    }

    /// The software engine that works so. It is there as long as this process.
    fn engine(self) -> &'static dyn Engine {
        let engine = SoftEngine::new(match self.translation {
            TranslationChoice::On => Translation::On,
            TranslationChoice::Off => Translation::Off,
            TranslationChoice::Verify => Translation::Verified,
        });
        let engine = match self.code_cache {
            Some(bytes) => engine.with_code_cache(usize::try_from(bytes).unwrap_or(usize::MAX)),
            None => engine,
        };
        Box::leak(Box::new(engine.profiled(self.profile)))
    }
}

/// An engine, and why it is not a faster one.
pub(crate) struct Chosen {
    pub engine: &'static dyn Engine,
    /// One line for the user, if a faster engine was passed over.
    pub note: Option<String>,
}

/// The engine that `choice` stands for. Whether it can run is found out here, before anything is fetched or read for it.
///
/// # Errors
/// It cannot run here, or none can.
pub(crate) fn choose(choice: EngineChoice, options: SoftOptions) -> Result<Chosen, Failure> {
    let soft = options.engine();
    if options.need_soft() {
        return ready(soft);
    }
    match choice {
        EngineChoice::Soft => ready(soft),
        EngineChoice::Kvm => ready(&KvmEngine),
        EngineChoice::Auto => fastest(&[&KvmEngine, soft]),
    }
}

/// This engine, if it can run here.
fn ready(engine: &'static dyn Engine) -> Result<Chosen, Failure> {
    match engine.probe() {
        Availability::Available(_) => Ok(Chosen { engine, note: None }),
        Availability::Unavailable { reason, remedy } => {
            Err(Failure::host(EngineError::Unavailable { engine: engine.name(), reason, remedy }))
        }
    }
}

/// The first of `engines` that can run here.
fn fastest(engines: &[&'static dyn Engine]) -> Result<Chosen, Failure> {
    let mut passed_over = Vec::new();
    for engine in engines {
        match engine.probe() {
            Availability::Available(_) => {
                let note = (!passed_over.is_empty()).then(|| {
                    format!(
                        "using the engine '{}': {} (see `tern engines`)",
                        engine.name(),
                        passed_over.join("; ")
                    )
                });
                return Ok(Chosen { engine: *engine, note });
            }
            Availability::Unavailable { reason, .. } => {
                passed_over.push(format!("'{}' cannot run here, {reason}", engine.name()));
            }
        }
    }
    Err(none())
}

fn none() -> Failure {
    Failure::host(anyhow!("no engine can run here; `tern engines` tells why, and what to do"))
}

/// One engine as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    description: &'static str,
    available: bool,
    reason: String,
    /// The processor model that guests get if they do not ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<&'static str>,
    /// What to do if it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Row {
    fn new(engine: &dyn Engine) -> Self {
        let (name, description) = (engine.name(), engine.description());
        let (available, reason, remedy) = match engine.probe() {
            Availability::Available(reason) => (true, reason, None),
            Availability::Unavailable { reason, remedy } => (false, reason, Some(remedy)),
        };
        let processor = available.then(|| CpuModel::most_capable(engine.instruction_sets()).name);
        Self { name, description, available, reason, processor, remedy }
    }
}

/// Prints the list.
pub(crate) fn list(form: OutputForm) -> Result<(), Failure> {
    let rows = ENGINES.map(|(_, engine)| Row::new(engine));
    let text = match form {
        OutputForm::Text => text(&rows),
        OutputForm::Json => serde_json::to_string_pretty(&rows).expect("texts and booleans serialize") + "\n",
    };
    crate::print(text.as_bytes())
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let verdict = if row.available { "can run here" } else { "cannot run here" };
        write!(text, "{:<6} {verdict}: {}", row.name, row.reason).expect("a string takes everything");
        if let Some(remedy) = &row.remedy {
            write!(text, ". {remedy}").expect("a string takes everything");
        }
        let processor =
            row.processor.map_or_else(String::new, |model| format!("; the guest's processor is {model}"));
        writeln!(text, "\n       {}{processor}", row.description).expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tern_engine::{GuestMemory, InstructionSets, Vm, VmConfig};

    use super::*;

    const USUAL: SoftOptions =
        SoftOptions { translation: TranslationChoice::On, code_cache: None, profile: NO_PROFILE };
    const NO_PROFILE: Profile = Profile { is_sampled: false, counts_hits: false, is_dumped: false };

    struct Absent;

    impl Engine for Absent {
        fn name(&self) -> &'static str {
            "kvm"
        }

        fn description(&self) -> &'static str {
            "hardware"
        }

        fn probe(&self) -> Availability {
            Availability::Unavailable {
                reason: "there is no /dev/kvm".to_owned(),
                remedy: "Load the module kvm".to_owned(),
            }
        }

        fn instruction_sets(&self) -> InstructionSets {
            InstructionSets::empty()
        }

        fn create_vm(&self, _: &VmConfig, _: GuestMemory) -> Result<Arc<dyn Vm>, EngineError> {
            unreachable!("it is only listed")
        }
    }

    #[test]
    fn an_unavailable_engine_is_shown_with_its_remedy() {
        let text = text(&[Row::new(&Absent)]);
        assert!(text.contains("cannot run here: there is no /dev/kvm. Load the module kvm"), "{text}");
    }

    #[test]
    fn engines_are_chosen_by_the_name_they_have() {
        for (choice, engine) in ENGINES {
            let name = choice.to_possible_value().unwrap();
            assert_eq!(engine.name(), name.get_name());
            match (choose(choice, USUAL), engine.probe()) {
                (Ok(chosen), Availability::Available(_)) => assert_eq!(chosen.engine.name(), engine.name()),
                (Err(_), Availability::Unavailable { .. }) => {}
                _ => panic!("{}: chosen and probed differ", engine.name()),
            }
        }
    }

    #[test]
    fn an_engine_that_was_named_and_cannot_run_is_a_failure_with_reason_and_remedy() {
        let failure = ready(&Absent).map(|_| ()).unwrap_err();
        assert_eq!(failure.code, crate::exit::Code::HOST);
        assert_eq!(
            failure.text(),
            "error: engine 'kvm' cannot run here: there is no /dev/kvm. Load the module kvm\n"
        );
    }

    #[test]
    fn a_slower_engine_says_in_one_line_why_it_was_chosen() {
        let chosen = fastest(&[&Absent, USUAL.engine()]).unwrap();
        assert_eq!(chosen.engine.name(), "soft");
        let note = chosen.note.unwrap();
        assert_eq!(
            note,
            "using the engine 'soft': 'kvm' cannot run here, there is no /dev/kvm (see `tern engines`)"
        );
        assert!(fastest(&[USUAL.engine()]).unwrap().note.is_none());
        assert!(fastest(&[&Absent]).is_err());
    }
}
