//! Interrupt controllers, timers and what they deliver.

mod ioapic;
mod lapic;
mod legacy;
mod timers;
