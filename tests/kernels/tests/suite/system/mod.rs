//! System instructions in long mode: calls, model-specific registers, identification, extended state. And returns, which engines
//! foresee.

mod avx;
mod compatibility;
mod cpuid;
mod extended_state;
mod msr;
mod returns;
mod system_call;
mod time_stamps;
mod x87;
