//! Running machines, found by name.
//!
//! ```text
//! places.rs     names, and the directory with a socket for each running machine
//! protocol.rs   what is said over a socket
//! server.rs     the machine's side: a thread of its process answers
//! hub.rs        the machine's console, for whoever looks at it
//! client.rs     the other side, and `tern ps` and `tern stop`
//! attach.rs     `tern console`
//! detached.rs   `tern run --detach`
//! ```
//!
//! What is told of a machine comes from its own process: a socket that nobody answers is no machine, and is swept away by whoever
//! finds it.

mod attach;
mod client;
mod detached;
mod hub;
mod places;
mod protocol;
mod server;

pub(crate) use attach::attach;
pub(crate) use client::{StopArguments, list, stop};
pub(crate) use detached::{Detached, is_to_detach, start as detach};
pub(crate) use hub::Hub;
pub(crate) use places::{Claim, parse_name};
pub(crate) use protocol::{State, Status};
pub(crate) use server::Served;
