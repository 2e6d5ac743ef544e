//! Kernels from Debian's packages, and the tiny guest's initramfs: fetched on first use, then from the user's cache.

use std::path::PathBuf;

use tern_image::cpio::Archive;
pub use tern_image::debian::{Flavour, Suite};
use tern_image::system::{Release, System};
use tern_image::{Cache, OnStderr};

/// What the kernels are told. Columns are many, so that the shell never breaks a line that is typed.
pub const CMDLINE: &str = "console=ttyS0 quiet COLUMNS=1000";

/// A kernel file.
///
/// # Panics
/// It cannot be had.
#[must_use]
pub fn kernel(suite: Suite, flavour: Flavour) -> PathBuf {
    tern_image::debian::kernel(&cache(), suite, flavour, &OnStderr::new())
        .unwrap_or_else(|error| panic!("cannot get Debian's kernel ({suite:?}, {flavour:?}): {error:?}"))
}

/// The release of a kernel file, which its name tells: what `uname -r` says.
///
/// # Panics
/// It has another name.
#[must_use]
pub fn release(kernel: &std::path::Path) -> String {
    let name = kernel.file_name().and_then(|name| name.to_str());
    let release = name.and_then(|name| name.strip_prefix("vmlinuz-"));
    release.expect("Debian's kernels are named by their release").to_owned()
}

/// The tiny guest's initramfs.
///
/// # Panics
/// It cannot be had.
#[must_use]
pub fn initramfs() -> PathBuf {
    let tiny = tern_image::tiny(&cache(), &OnStderr::new());
    let tiny = tiny.unwrap_or_else(|error| panic!("cannot get the tiny guest: {error:?}"));
    tiny.initrd.expect("the tiny guest has an initramfs")
}

/// busybox, a program that needs nothing from the system that it runs in.
///
/// # Panics
/// It cannot be had.
#[must_use]
pub fn busybox() -> PathBuf {
    tern_image::debian::busybox(&cache(), &OnStderr::new())
        .unwrap_or_else(|error| panic!("cannot get busybox: {error:?}"))
}

/// The tiny guest's initramfs with programs added to its `/bin`, as the contents of a file.
///
/// # Panics
/// It cannot be had.
#[must_use]
pub fn initramfs_with(programs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = std::fs::read(initramfs()).expect("the initramfs was just looked up");
    let mut more = Archive::default();
    for (name, program) in programs {
        more.file(&format!("bin/{name}"), 0o755, program);
    }
    // Linux unpacks one archive after the other.
    bytes.extend(more.finish());
    bytes
}

/// Sees to it that a whole system is in the cache, by its name, and tells where its files are. The first one to ask makes it.
///
/// # Panics
/// It cannot be had.
#[must_use]
pub fn system(name: &str) -> System {
    let release = Release::named(name).expect("it is a system's name");
    System::get(&cache(), release, &OnStderr::new())
        .unwrap_or_else(|error| panic!("cannot get {name}: {error:?}"))
}

fn cache() -> Cache {
    Cache::of_user().expect("a user has a cache")
}
