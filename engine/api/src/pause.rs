//! Time that an engine keeps by itself, and that must stand still with the machine's clock.

use crate::EngineError;

/// Stopping and starting an engine's time. The software engine has no other time than the machine's [`crate::Clock`]; the
/// kernel's KVM has the guests' time-stamp counters, kvm-clock and timers.
pub trait Standstill {
    /// Notes what the guest's time shows. No processor runs; called right before [`crate::Clock::pause`], or while the clock
    /// stands still. Where the guest's time stands still already, it does nothing.
    ///
    /// # Errors
    /// The host refuses.
    fn pause_time(&self) -> Result<(), EngineError>;

    /// Lets the guest's time go on from there: a pause that the guest cannot see. Called right after
    /// [`crate::Clock::resume`], before processors run; without a pause before, it does nothing.
    ///
    /// # Errors
    /// The host refuses.
    fn resume_time(&self) -> Result<(), EngineError>;
}
