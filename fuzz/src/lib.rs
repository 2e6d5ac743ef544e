//! What the fuzz targets do. `vmm/tests/corpus.rs` and `engine/soft/tests/corpus.rs` do the same with the files in `corpus`.
//!
//! Stable Rust and a C++ compiler suffice: `cargo install cargo-fuzz`, then `cargo fuzz run -s none elf`. Inputs that
//! found something belong into `corpus/<target>`, minimised (`cargo fuzz tmin`, `cargo fuzz cmin`).

pub mod boot;
pub mod guest;
pub mod virtio;
