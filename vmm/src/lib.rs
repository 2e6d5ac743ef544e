//! Under construction.

pub mod boot;
