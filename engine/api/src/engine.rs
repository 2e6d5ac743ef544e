//! What an engine is: a name, whether it can run here, and how a virtual machine is made on it.

use std::sync::Arc;

use tern_x86::cpuid::{CpuModel, InstructionSets};
use tern_x86::state::VcpuState;
use thiserror::Error;

use crate::{GuestMemory, Vm, VmConfig};

/// Whether an engine can run on this host, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can; the text says what it runs on.
    Available(String),
    /// It cannot.
    Unavailable {
        /// What was found.
        reason: String,
        /// What the user can do about it.
        remedy: String,
    },
}

/// What went wrong in an engine, on the host's side.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The engine cannot run here.
    #[error("engine '{engine}' cannot run here: {reason}. {remedy}")]
    Unavailable {
        /// The engine's name.
        engine: &'static str,
        /// What was found.
        reason: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// The machine asks for what the engine cannot give.
    #[error("{0}")]
    Unsupported(String),
    /// The host refused something that the engine needs.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// The host's hypervisor gave up on the guest: for a user, a crash.
    #[error("{reason}")]
    GaveUp {
        /// What it says, in words, with the processor's number.
        reason: String,
        /// The processor's state at that moment.
        state: Box<VcpuState>,
    },
}

impl EngineError {
    /// Makes sure that an engine which executes `sets` beyond x86-64-v2 can carry out a model.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`], with what is lacking and which model to take.
    pub fn check_sets(engine: &str, model: &CpuModel, sets: InstructionSets) -> Result<(), Self> {
        let lacking = model.instruction_sets() - sets;
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Self::Unsupported(format!(
            "the processor model '{}' has what the engine '{engine}' cannot give to guests on this host: {}. The most that it \
             can is '{}'",
            model.name,
            lacking.names(),
            CpuModel::most_capable(sets).name
        )))
    }
}

/// A way to make a machine's processors run.
pub trait Engine: Send + Sync {
    /// The name that users type.
    fn name(&self) -> &'static str;

    /// One line for users: how guest code runs on it.
    fn description(&self) -> &'static str;

    /// Finds out whether it can run here, by trying rather than by looking at flags.
    fn probe(&self) -> Availability;

    /// The instruction sets beyond x86-64-v2 that guests can have here; none if it cannot run.
    fn instruction_sets(&self) -> InstructionSets;

    /// Makes a virtual machine with the given memory.
    ///
    /// # Errors
    /// The engine cannot run here, the configuration is beyond it, or the host refuses a resource.
    fn create_vm(&self, config: &VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_too_much_names_what_lacks_and_the_one_to_take() {
        let model = CpuModel::most_capable(InstructionSets::all());
        assert!(EngineError::check_sets("soft", &model, InstructionSets::all()).is_ok());
        let few = InstructionSets::all() - InstructionSets::BMI2 - InstructionSets::MOVBE;
        let error = EngineError::check_sets("soft", &model, few).unwrap_err().to_string();
        for part in ["'tern-v3'", "'soft'", "BMI2, MOVBE", "'tern-v2'"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
