//! Several processors, and code that changes.

mod atomics;
mod changing_code;
mod interrupts;
mod ordering;
mod translations;
