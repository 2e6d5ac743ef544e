//! What a system must do, shown by small guests. A folder per theme.

mod boot;
mod devices;
mod exceptions;
mod interrupts;
mod machine;
mod paging;
mod processors;
mod protected_mode;
mod real_mode;
mod system;
