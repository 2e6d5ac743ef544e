//! How a machine ends, whatever its guest does, and what is told then.

mod ends;
mod statistics;
mod stubborn;
