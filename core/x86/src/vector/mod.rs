//! What there is to know of vector and x87 instructions, and their state management.
/// Replaced soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorInfo;
