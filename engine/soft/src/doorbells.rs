//! Doorbells: writes of the guest that signal an event instead of leaving the guest.
//!
//! An instruction that asks the machine something after it rang is executed again, and rings again: a device looks at its
//! queue once more and finds nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use tern_engine::{Doorbell, DoorbellPlace, DoorbellValue, EngineError, EventFd};

/// A doorbell's condition and event, at its place.
type Bells = HashMap<DoorbellPlace, Vec<(DoorbellValue, EventFd)>>;

/// All doorbells of a machine.
#[derive(Debug, Default)]
pub struct Doorbells {
    /// Whether to look; cheap enough for every access to a device.
    any: AtomicBool,
    bells: RwLock<Bells>,
}

impl Doorbells {
    /// Rings what a write of `size` bytes at `place` rings; says whether that was anything.
    pub fn ring(&self, place: DoorbellPlace, size: u8, data: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let bells = self.bells.read().unwrap_or_else(PoisonError::into_inner);
        let here = bells.get(&place).map_or(&[][..], Vec::as_slice);
        let Some((_, event)) = here.iter().find(|(value, _)| value.matches(size, data)) else { return false };
        // It fails if nobody has taken 2^64 signals: then one is waiting.
        let _ = event.write(1);
        true
    }

    /// Adds a doorbell that signals `event`.
    ///
    /// # Errors
    /// It is there already, or the host has no more descriptors.
    pub fn attach(&self, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError> {
        let event =
            event.try_clone().map_err(|source| EngineError::Host { action: "attach a doorbell", source })?;
        let mut bells = self.bells.write().unwrap_or_else(PoisonError::into_inner);
        let here = bells.entry(doorbell.place).or_default();
        let overlaps = |value: DoorbellValue| {
            value == doorbell.value || [value, doorbell.value].contains(&DoorbellValue::Any)
        };
        if here.iter().any(|(value, _)| overlaps(*value)) {
            return Err(EngineError::Unsupported(format!(
                "there is a doorbell at {:?} already",
                doorbell.place
            )));
        }
        here.push((doorbell.value, event));
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes a doorbell.
    ///
    /// # Errors
    /// There is no such doorbell.
    pub fn detach(&self, doorbell: &Doorbell) -> Result<(), EngineError> {
        let mut bells = self.bells.write().unwrap_or_else(PoisonError::into_inner);
        let here = bells.get_mut(&doorbell.place);
        let index =
            here.as_ref().and_then(|here| here.iter().position(|(value, _)| *value == doorbell.value));
        let (Some(here), Some(index)) = (here, index) else {
            return Err(EngineError::Unsupported(format!("there is no doorbell at {:?}", doorbell.place)));
        };
        here.remove(index);
        if here.is_empty() {
            bells.remove(&doorbell.place);
        }
        self.any.store(!bells.is_empty(), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: DoorbellPlace = DoorbellPlace::Memory(0xfe00_0000);

    #[test]
    fn only_the_matching_write_rings() {
        let doorbells = Doorbells::default();
        let [first, second] = [0, 1].map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let bell = |value| Doorbell { place: PLACE, value: DoorbellValue::Word(value) };
        doorbells.attach(&bell(0), &first).unwrap();
        doorbells.attach(&bell(1), &second).unwrap();
        assert!(doorbells.ring(PLACE, 2, 1));
        assert!(!doorbells.ring(PLACE, 4, 1));
        assert!(!doorbells.ring(DoorbellPlace::Port(0), 2, 1));
        assert!(first.read().is_err());
        assert_eq!(second.read().unwrap(), 1);
    }

    #[test]
    fn a_doorbell_is_there_once_and_goes_once() {
        let doorbells = Doorbells::default();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let bell = Doorbell { place: PLACE, value: DoorbellValue::Any };
        doorbells.attach(&bell, &event).unwrap();
        let narrower = Doorbell { value: DoorbellValue::Byte(1), ..bell };
        assert!(doorbells.attach(&bell, &event).is_err() && doorbells.attach(&narrower, &event).is_err());
        doorbells.detach(&bell).unwrap();
        assert!(doorbells.detach(&bell).is_err());
        assert!(!doorbells.ring(PLACE, 1, 0));
    }
}
