//! What a system must do, shown by small guests. A folder per theme.

mod exceptions;
mod interrupts;
mod machine;
mod paging;
mod processors;
mod real_mode;
mod system;
