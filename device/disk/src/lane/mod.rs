//! The ways of requests to an image.
//!
//! ```text
//! queue.rs   the lane itself: checks a request and chooses its way
//! plan.rs    whether a request is nothing but transfers between memory and files, and which; those that need no waiting
//! ring.rs    the others through io_uring
//! pool.rs    threads for everything else, or for everything where io_uring is refused
//! inbox.rs   where completions wait, and the descriptor that tells of them
//! ```

mod inbox;
mod plan;
mod pool;
mod queue;
mod ring;

pub(crate) use pool::Pool;
pub(crate) use queue::QueueLane;
