//! What we take from Debian: kernels, and busybox.
//!
//! Which package that is, `apt` knows: `linux-image-cloud-amd64` is a package without content that
//! depends on the current kernel. Our own choice ends at that name, so a host gets its own release's
//! kernel, with that release's security updates.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{Apt, Package};
use crate::modules;
use crate::{Cache, Error, Progress, deb};

/// Debian's keys, for suites that the host's own sources do not name.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's main archive, by origin and label.
const ARCHIVE: &str = "Debian/Debian";

/// Which release's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// What the host's own package sources offer.
    Host,
    /// Debian 13 (kernel 6.12), from the host's mirror.
    Trixie,
}

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// For virtual machines (`linux-image-cloud-amd64`).
    Cloud,
    /// For every computer (`linux-image-amd64`).
    Generic,
}

impl Flavour {
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
        }
    }
}

/// A Debian kernel as it is in its package: a bzImage named `vmlinuz-<release>`.
///
/// # Errors
/// If it is neither in the cache nor to be had from the package sources.
pub fn kernel(
    cache: &Cache,
    suite: Suite,
    flavour: Flavour,
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    if flavour == Flavour::Cloud {
        return Ok(guest_kernel(cache, suite, progress)?.kernel);
    }
    let key = key_of(suite, flavour.package());
    let wanted = Wanted {
        package: flavour.package(),
        in_dependency: Some("linux-image-"),
        file: is_kernel_path,
        files: 1,
        further: 0,
    };
    let entry = cache.get_or_build(&key, |directory| wanted.fetch(suite, directory, progress))?;
    kernel_in(&entry, &key)
}

fn key_of(suite: Suite, package: &str) -> String {
    match suite {
        Suite::Host => package.to_owned(),
        Suite::Trixie => format!("{package}-trixie"),
    }
}

fn is_kernel_path(path: &str) -> bool {
    path.starts_with("boot/vmlinuz-")
}

/// A kernel for virtual machines with what its virtio drivers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// What `uname -r` says on it.
    pub release: String,
    /// Those of [`GUEST_MODULES`] that are not built in.
    pub modules: Vec<PathBuf>,
}

/// The modules that a guest with Tern's devices may need, by their files' names without the ending.
pub const GUEST_MODULES: [&str; 13] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio-rng",
    "virtio_console",
    "virtio_balloon",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "squashfs",
];

/// A release's cloud kernel with its modules.
///
/// # Errors
/// As [`kernel`].
pub fn guest_kernel(cache: &Cache, suite: Suite, progress: &dyn Progress) -> Result<GuestKernel, Error> {
    let key = key_of(suite, "linux-cloud-with-virtio");
    let is_module = |path: &str| {
        let name = modules::name(Path::new(path));
        path.contains("/kernel/") && name.is_some_and(|name| GUEST_MODULES.contains(&name))
    };
    let wanted = Wanted {
        package: Flavour::Cloud.package(),
        in_dependency: Some("linux-image-"),
        file: move |path: &str| is_kernel_path(path) || is_module(path),
        files: 1,
        further: GUEST_MODULES.len(),
    };
    let entry = cache.get_or_build(&key, |directory| {
        wanted.fetch(suite, directory, progress)?;
        modules::unpack(directory)
    })?;
    let kernel = kernel_in(&entry, &key)?;
    let name = kernel.file_name().unwrap_or_default().to_string_lossy();
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let files = GUEST_MODULES.map(|name| entry.join(format!("{name}.ko")));
    let modules = files.into_iter().filter(|file| file.is_file()).collect();
    Ok(GuestKernel { kernel, release, modules })
}

/// A kernel that hosts KVM guests on AMD processors, with what it needs to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmHost {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// Its modules, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
}

/// The modules of [`KvmHost`], in the order in which they are loaded.
const KVM_MODULES: [&str; 3] = ["irqbypass.ko", "kvm.ko", "kvm-amd.ko"];

/// The cloud kernel of the host's release with its KVM modules, which only it can load.
///
/// # Errors
/// As [`kernel`].
pub fn kvm_host(cache: &Cache, progress: &dyn Progress) -> Result<KvmHost, Error> {
    let wanted = Wanted {
        package: Flavour::Cloud.package(),
        in_dependency: Some("linux-image-"),
        file: |path: &str| is_kernel_path(path) || KVM_MODULES.iter().any(|name| is_named(path, name)),
        files: 1 + KVM_MODULES.len(),
        further: 0,
    };
    let key = "kvm-host-amd";
    let entry = cache.get_or_build(key, |directory| wanted.fetch(Suite::Host, directory, progress))?;
    let modules = KVM_MODULES.map(|name| entry.join(name)).to_vec();
    Ok(KvmHost { kernel: kernel_in(&entry, key)?, modules })
}

fn is_named(path: &str, name: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(_, last)| last == name)
}

/// The kernel in the cache's entry `key`.
fn kernel_in(entry: &Path, key: &str) -> Result<PathBuf, Error> {
    let listing = fs::read_dir(entry).map_err(Error::io("read directory", entry))?;
    listing
        .filter_map(|item| Some(item.ok()?.path()))
        .find(|path| path.file_name().is_some_and(is_kernel))
        .ok_or_else(|| Error::Package {
            package: key.to_owned(),
            why: "its cache entry holds no kernel; remove it with `tern image rm`".to_owned(),
        })
}

fn is_kernel(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"vmlinuz-")
}

/// The statically linked busybox of the host's release.
///
/// # Errors
/// As [`kernel`].
pub fn busybox(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf, Error> {
    let wanted = Wanted {
        package: "busybox-static",
        in_dependency: None,
        file: |path: &str| matches!(path, "bin/busybox" | "usr/bin/busybox"),
        files: 1,
        further: 0,
    };
    let entry =
        cache.get_or_build(wanted.package, |directory| wanted.fetch(Suite::Host, directory, progress))?;
    Ok(entry.join("busybox"))
}

/// Files in a package.
struct Wanted<F> {
    package: &'static str,
    /// If set: the files are in the package's first dependency whose name starts like this.
    in_dependency: Option<&'static str>,
    file: F,
    /// How many such files there are at least.
    files: usize,
    /// How many more there may be.
    further: usize,
}

impl<F: Fn(&str) -> bool> Wanted<F> {
    /// Fetches the package and leaves the files, and nothing else, in `directory`.
    fn fetch(&self, suite: Suite, directory: &Path, progress: &dyn Progress) -> Result<(), Error> {
        let work = directory.join("work");
        fs::create_dir(&work).map_err(Error::io("create directory", &work))?;
        let deb = match suite {
            Suite::Host => self.fetch_from_host(&work, progress),
            Suite::Trixie => self.fetch_from_suite("trixie", &work, progress),
        }?;
        progress.begin(&format!("unpacking {}", self.package), None);
        let extracted = deb::extract(&deb, &self.file, self.files..=self.files + self.further, directory);
        progress.end();
        extracted?;
        fs::remove_dir_all(&work).map_err(Error::io("remove", &work))
    }

    fn fetch_from_host(&self, work: &Path, progress: &dyn Progress) -> Result<PathBuf, Error> {
        let host = Apt::of_host();
        if let Some(package) = self.find(&host)? {
            match host.download(&package, work, progress) {
                // Old lists name versions that the mirror no longer has: look again with fresh ones.
                Err(Error::Fetch { .. }) => {}
                done => return done,
            }
        }
        let fresh = Apt::private(&work.join("apt"), None, progress)?;
        self.fetch_from(&fresh, work, progress)
    }

    fn fetch_from_suite(&self, suite: &str, work: &Path, progress: &dyn Progress) -> Result<PathBuf, Error> {
        let mirror = match Apt::of_host().mirror(ARCHIVE)? {
            Some(mirror) => mirror,
            None => {
                let fresh = Apt::private(&work.join("apt-host"), None, progress)?;
                let none = || self.missing(&fresh);
                fresh.mirror(ARCHIVE)?.ok_or_else(none)?
            }
        };
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        let apt = Apt::private(&work.join("apt"), Some(&source), progress)?;
        self.fetch_from(&apt, work, progress)
    }

    fn fetch_from(&self, apt: &Apt, work: &Path, progress: &dyn Progress) -> Result<PathBuf, Error> {
        let package = self.find(apt)?.ok_or_else(|| self.missing(apt))?;
        apt.download(&package, work, progress)
    }

    fn find(&self, apt: &Apt) -> Result<Option<Package>, Error> {
        let package = apt.show(self.package)?;
        let (Some(named), Some(prefix)) = (&package, self.in_dependency) else {
            return Ok(package);
        };
        match named.depends.iter().find(|name| name.starts_with(prefix)) {
            Some(name) => apt.show(name),
            None => Ok(package),
        }
    }

    fn missing(&self, apt: &Apt) -> Error {
        Error::NoPackage { package: self.package.to_owned(), apt: apt.report.clone() }
    }
}
