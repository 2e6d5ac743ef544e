//! KVM's reasons for giving up on a guest, in words.
//!
//! The numbers are those of `include/uapi/linux/kvm.h` and of the processors' manuals (APM volume 2, appendix C; SDM
//! volume 3, appendix C).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};
use tern_engine::EngineError;
use tern_x86::state::VcpuState;

use crate::run_page::Reason;

/// What went wrong where no error can be returned: the next processor that runs returns it, and the machine ends.
#[derive(Debug, Default)]
pub struct Deferred {
    /// Whether to look; cheap enough for every exit.
    is_there: AtomicBool,
    error: Mutex<Option<EngineError>>,
}

impl Deferred {
    /// Keeps an error.
    pub fn put(&self, error: EngineError) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.is_there.store(true, Ordering::Release);
    }

    /// Gives the error back, once.
    ///
    /// # Errors
    /// The one that was kept.
    pub fn take(&self) -> Result<(), EngineError> {
        if !self.is_there.load(Ordering::Acquire) {
            return Ok(());
        }
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// The error for a `reason` after which processor `index` cannot go on from `state`.
pub fn gave_up(index: u32, reason: &Reason, state: VcpuState) -> EngineError {
    let reason = format!("KVM cannot run processor {index} any further: {}", in_words(reason));
    EngineError::GaveUp { reason, state: Box::new(state) }
}

/// What KVM means.
pub fn in_words(reason: &Reason) -> String {
    match reason {
        Reason::FailEntry { code } => format!(
            "the hardware refused to enter the guest, with code {code:#x} ({})",
            match *code {
                // The code is -1, of which some kernels hand over only the lower half.
                0xffff_ffff | u64::MAX => "AMD-V: the guest's state is not a legal one",
                0x8000_0021 => "VT-x: the guest's state is not a legal one",
                0x8000_0022 => "VT-x: a model-specific register cannot be loaded",
                7 => "VT-x: a control field is not a legal one",
                _ => "see the processor's manual",
            }
        ),
        Reason::Unknown { code } => {
            format!("the hardware left the guest for reason {code:#x}, which KVM does not know")
        }
        Reason::Internal { suberror, data } => match *suberror {
            KVM_INTERNAL_ERROR_EMULATION => {
                let mut text = "it met an instruction that it cannot emulate".to_owned();
                if let Some(bytes) = instruction(data) {
                    write!(text, ": {bytes}").expect("a string takes everything");
                }
                text
            }
            KVM_INTERNAL_ERROR_SIMUL_EX => "several exceptions came at once".into(),
            KVM_INTERNAL_ERROR_DELIVERY_EV => {
                format!("the delivery of an interrupt or exception failed{}", exit_numbers(data))
            }
            KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
                format!(
                    "the hardware left the guest for a reason that KVM does not know{}",
                    exit_numbers(data)
                )
            }
            other => format!("internal error {other}{}", exit_numbers(data)),
        },
        Reason::Other(number) => {
            format!("it left the guest for reason {number}, which this engine never asked for")
        }
        Reason::Port { .. } | Reason::Memory { .. } | Reason::Shutdown | Reason::Interrupted => {
            format!("unexpected exit {reason:?}")
        }
    }
}

/// The bytes of the instruction that could not be emulated, if KVM gives them: flags, then the size and up to 15 bytes.
fn instruction(data: &[u64]) -> Option<String> {
    let (flags, rest) = data.split_first()?;
    if flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0 {
        return None;
    }
    let bytes: Vec<u8> = rest.iter().take(2).flat_map(|word| word.to_le_bytes()).collect();
    let (size, bytes) = bytes.split_first()?;
    let texts: Vec<_> = bytes.iter().take(usize::from(*size)).map(|byte| format!("{byte:02x}")).collect();
    Some(texts.join(" "))
}

fn exit_numbers(data: &[u64]) -> String {
    if data.is_empty() {
        return String::new();
    }
    let numbers: Vec<_> = data.iter().map(|number| format!("{number:#x}")).collect();
    format!(" ({})", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulation_failure_shows_the_instructions_bytes() {
        // LOCK CMPXCHG16B [RBX] with the size in front, as KVM hands it over.
        let data = vec![1, 0x0bc7_0f48_f005, 0];
        let text = in_words(&Reason::Internal { suberror: 1, data });
        assert!(text.ends_with("emulate: f0 48 0f c7 0b"), "{text}");
    }

    #[test]
    fn a_refused_entry_says_what_is_wrong_with_the_guest() {
        for code in [0x8000_0021, u32::MAX.into(), u64::MAX] {
            let text = in_words(&Reason::FailEntry { code });
            assert!(text.contains(&format!("{code:#x}")) && text.contains("not a legal one"), "{text}");
        }
    }

    #[test]
    fn internal_errors_are_told_in_words_with_the_numbers_that_kvm_gives() {
        // A page fault's delivery met an exit of VT-x for EPT, as recorded by the kernel: the event, reason 48, qualification.
        let delivery = Reason::Internal { suberror: 3, data: vec![0x8000_0b0e, 48, 0x182] };
        assert_eq!(
            in_words(&delivery),
            "the delivery of an interrupt or exception failed (0x80000b0e, 0x30, 0x182)"
        );
        assert!(in_words(&Reason::Internal { suberror: 2, data: vec![] }).contains("at once"));
        assert!(in_words(&Reason::Internal { suberror: 4, data: vec![7] }).ends_with("does not know (0x7)"));
        assert!(in_words(&Reason::Internal { suberror: 9, data: vec![] }).contains("internal error 9"));
        assert!(in_words(&Reason::Unknown { code: 0x41 }).contains("0x41"));
    }

    #[test]
    fn it_is_told_which_processor_and_in_what_state() {
        let state = VcpuState { rip: 0x1234_5678, ..VcpuState::reset() };
        let EngineError::GaveUp { reason, state: told } = gave_up(3, &Reason::Other(99), state.clone())
        else {
            panic!("another error")
        };
        assert!(reason.contains("processor 3") && reason.contains("99"), "{reason}");
        assert_eq!(*told, state);
    }
}
