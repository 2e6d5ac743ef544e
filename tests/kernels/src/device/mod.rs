//! Instruction sequences, in 64-bit mode, that set up interrupt controllers, timers and virtio devices.

pub mod apic;
pub mod pic;
pub mod virtio;
