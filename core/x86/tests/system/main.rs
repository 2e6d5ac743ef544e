//! How the processor behaves as a system: paging, delivery of events, transfers of control, control registers. Each test
//! runs instruction bytes on a [`machine`] of one processor and a few MiB of RAM.

mod control;
mod delivery;
mod machine;
mod paging;
mod segments;
mod task;
mod transfer;
