//! Exceptions: which, when, with what, and where their handlers run (APM volume 2, chapters 8 and 13).

mod branches;
mod breakpoints;
mod delivery;
mod faults;
mod floating_point;
mod hot;
mod nmi;
mod shadow;
mod single_step;
