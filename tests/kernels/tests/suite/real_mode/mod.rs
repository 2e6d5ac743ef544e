//! Real mode (APM volume 2, section 1.6; volume 1, section 2.1).

mod interrupts;
mod segments;
