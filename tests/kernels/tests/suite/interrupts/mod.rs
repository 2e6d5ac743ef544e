//! Interrupt controllers, timers and what they deliver.

mod hot;
mod ioapic;
mod lapic;
mod legacy;
mod timers;
