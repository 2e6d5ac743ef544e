#![no_std]
#![forbid(unsafe_code)]
//! Under construction.
