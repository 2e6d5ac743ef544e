//! How a machine ends, whatever its guest does.

mod ends;
mod stubborn;
