//! System instructions in long mode: calls, model-specific registers, identification, extended state. And hot code and returns, which
//! engines have their own ways with.

mod avx;
mod compatibility;
mod cpuid;
mod extended_state;
mod hot_paths;
mod msr;
mod returns;
mod system_call;
mod time_stamps;
mod x87;
