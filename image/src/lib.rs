//! Where guests come from.
//!
//! A guest image is a kernel, an optional initramfs and a kernel command line. The one built here is
//! the *tiny guest*: the host distribution's own, unmodified cloud kernel and a busybox initramfs.
//! Nothing is shipped with Tern: packages are fetched through the host's `apt` (which checks the
//! archive's signatures), unpacked without being installed, and kept in a cache, so that the first
//! start needs the network and no later one does.
//!
//! ```text
//! apt (apt.rs) ──► .deb (deb.rs) ──► vmlinuz ─────────────────────────┐
//!                                ├─► modules (modules.rs) ─┐          │
//!                                └─► busybox ──► initrd.rs + cpio.rs ─┴─► Image
//!                  everything lands in Cache (cache.rs), atomically, with its digests
//! ```

#![forbid(unsafe_code)]

mod apt;
mod cache;
pub mod cpio;
mod deb;
pub mod debian;
mod error;
mod initrd;
pub mod linked;
mod modules;
mod progress;

use std::path::PathBuf;

pub use cache::{Cache, Entry};
pub use error::Error;
pub use progress::{OnStderr, Progress, Silent};

/// A guest that is ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The kernel file (a bzImage for Debian's kernels).
    pub kernel: PathBuf,
    /// The initial RAM file system, if the guest has one.
    pub initrd: Option<PathBuf>,
    /// The kernel command line.
    pub cmdline: String,
}

/// The kernel command line of the tiny guest: its console is the first serial port. The self-tests of the kernel's
/// ciphers, half of the time to the prompt in an interpreter, are left out.
pub const TINY_CMDLINE: &str = "console=ttyS0 quiet cryptomgr.notests";

/// The tiny guest, from the cache or built now.
///
/// # Errors
/// If it is not in the cache and cannot be fetched: no `apt` on this host, no network, no space.
pub fn tiny(cache: &Cache, progress: &dyn Progress) -> Result<Image, Error> {
    tiny_of(cache, debian::Suite::Host, progress)
}

/// The tiny guest with the kernel of a release.
///
/// # Errors
/// As [`tiny`].
pub fn tiny_of(cache: &Cache, suite: debian::Suite, progress: &dyn Progress) -> Result<Image, Error> {
    let kernel = debian::guest_kernel(cache, suite, progress)?;
    let initrd = initrd::tiny(cache, &kernel, progress)?;
    Ok(Image { kernel: kernel.kernel, initrd: Some(initrd), cmdline: TINY_CMDLINE.to_owned() })
}
