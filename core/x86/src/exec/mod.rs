//! What each instruction does.
